import re

import pytest

from tests.tiny import ROOT, load_config
from wlsrl_jax.config.fields import base_config
from wlsrl_jax.data.augment import Augmentation
from wlsrl_jax.data.published import all_specs
from wlsrl_jax.files import flatten
from wlsrl_jax.tasks import make_tasks

CONFIGS = {
    "oct": ("phantom", "octdl", "oct2017", "octid", "duke_srinivasan", "oct_c8", "octmnist"),
    "fundus": ("phantom", "eyepacs", "aptos2019", "messidor2", "idrid", "deepdrid", "ddr",
               "retinamnist"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "dataset"), [(n, d) for n, ds in CONFIGS.items() for d in ds])
def test_every_config_of_every_data_set(name, dataset):
    config = load_config(name, dataset)
    assert config.data.dataset == dataset and config.modality == name
    Augmentation(**config.augment)
    tasks = {t.name for t in make_tasks(name, ("a", "b"), "a")}
    assert set(config.task_weights) == set(config.loss.by_task) == tasks
    # No field is set that the defaults do not explain.
    assert set(flatten(config.to_dict())) == set(flatten(base_config(name).to_dict()))


def test_every_builder_has_a_config():
    assert set(all_specs()) == {d for ds in CONFIGS.values() for d in ds} - {"phantom"}
    for spec in all_specs().values():
        assert spec.name in CONFIGS[spec.modality] and spec.normal in spec.classes


@pytest.mark.parametrize("name", CONFIGS)
def test_the_docstring_names_every_data_set_and_shows_two_commands(name):
    text = (ROOT / "configs" / f"{name}.py").read_text().split('"""')[1]
    for dataset in CONFIGS[name][1:]:
        assert re.search(rf"\b{dataset}\b", text)
    assert f"python -m wlsrl_jax.main --config=configs/{name}.py\n" in text
    assert f"wlsrl train --config=configs/{name}.py:{CONFIGS[name][1]}" in text
