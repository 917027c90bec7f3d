"""What the README promises by name exists."""

import re

import pytest

from tests.tiny import ROOT, load_config
from wlsrl_jax.data.published import all_specs
from wlsrl_jax.data.published.download import FILES

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(all_specs()))
def test_every_data_set_has_its_three_lines(name):
    spec = all_specs()[name]
    get = (
        f"python -m wlsrl_jax.data.published.download --dataset={name} --output=DIR"
        if name in FILES
        else f"# unpack {spec.homepage} in DIR"
    )
    train = f"--config=configs/{spec.modality}.py:{name} --config.data.data_dir=DATA"
    lines = [
        get,
        f"python -m wlsrl_jax.data.prepare --dataset={name} --source=DIR --data_dir=DATA",
        f"python -m wlsrl_jax.main {train}",
    ]
    assert "\n".join(lines) + "\n" in README
    assert load_config(spec.modality, name).data.dataset == name


def test_links_into_the_repository_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
