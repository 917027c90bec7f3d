"""What the pages say exists: commands, flags, fields, files; figures stand in one place."""

import functools
import re
import shlex

import pytest

from tests.tiny import ROOT, load_config
from wlsrl_jax.__main__ import VERBS, load
from wlsrl_jax.config.fields import base_config
from wlsrl_jax.config.flags import last_counts, unknown_field
from wlsrl_jax.config.flags import make_parser as train_parser
from wlsrl_jax.data.published import all_specs
from wlsrl_jax.data.published.download import FILES
from wlsrl_jax.files import flatten
from wlsrl_jax.tasks import MODALITIES

PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/**/README.md")]
)
CONFIGS = sorted(ROOT.glob("configs/*.py"))
MODULES = {
    f"wlsrl_jax.{module.removesuffix('.__main__')}": verb for verb, (module, _) in VERBS.items()
}
"""Module that ``python -m`` runs -> the verb that it is."""

BY_NAME = [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in (*PAGES, *CONFIGS)]


def text_of(page):
    return page.read_text(encoding="utf-8")


def commands(page):
    """(Verb, arguments, whether they are whole) of each command of a page.

    Whole are those in a block of their own; code within a sentence may be a part of one.
    """
    text = text_of(page).replace("\\|", "|")
    if page.suffix == ".py":
        found = [(line, True) for line in re.findall(r"^    (\S.*)$", text.split('"""')[1], re.M)]
    else:
        fence = r"^```(\w*)\n(.*?)^```"
        blocks = [b for language, b in re.findall(fence, text, re.S | re.M) if language == ""]
        found = [(line, True) for b in blocks for line in b.replace("\\\n", " ").splitlines()]
        inline = re.findall(r"`([^`]+)`", re.sub(fence, "", text, flags=re.S | re.M))
        found += [(" ".join(code.split()), False) for code in inline]
    for line, whole in found:
        for part in re.split(r"&&|\|", line):
            if match := re.match(r"(?:wlsrl|python -m (wlsrl_jax[\w.]*)) (.*)", part.strip() + " "):
                words = shlex.split(match[2])
                verb = MODULES[match[1]] if match[1] else words.pop(0)
                yield verb, words, whole


@functools.cache
def parser_of(verb):
    return train_parser() if verb == "train" else load(verb).make_parser()


def flags_of(verb):
    return set(parser_of(verb)._option_string_actions)


ALL_FLAGS = {flag for verb in VERBS for flag in flags_of(verb)}
FIELDS = {name for modality in MODALITIES for name in flatten(base_config(modality).to_dict())}
NODES = {name.rpartition(".")[0] for name in FIELDS}


@pytest.mark.parametrize("page", BY_NAME)
def test_commands_can_be_given(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for verb, words, whole in commands(page):
        if verb in ("--help", "--version", "--print-completion", "VERB"):
            continue
        fields = [word for word in words if word.startswith("--config.")]
        given = [word for word in words if word not in fields]
        if whole:
            parser_of(verb).parse_args(given)
        else:
            assert {w.partition("=")[0] for w in given if w.startswith("-")} <= flags_of(verb), (
                words
            )
        assert not unknown_field(last_counts(fields))
        for value in (w.partition("=")[2] for w in words if w.startswith("--config=configs/")):
            path, _, dataset = value.partition(":")
            assert load_config((ROOT / path).stem, dataset or "phantom")


@pytest.mark.parametrize("page", BY_NAME)
def test_flags_and_fields_exist(page):
    text = text_of(page)
    for name in re.findall(r"\bconfig\.([a-z_]+(?:\.\w+)*)", text):
        if name not in ("py", "json", "flags", "fields"):
            known = FIELDS | NODES | {f"{node}.TASK" for node in NODES}
            assert name in known or name.startswith("loss.by_task."), f"{page.name}: config.{name}"
    if ROOT / "experiments" in page.parents:  # whose programs have flags of their own
        return
    own = {"--distributed", "--nodes", "--processes", "--devices", "--dist", "--json", "--grid",
           "--flink_master", "--write"}  # fmt: skip
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z_]+(?![\w-])", text):
        assert flag in ALL_FLAGS | own or flag == "--config", f"{page.name}: {flag}"


@pytest.mark.parametrize("page", BY_NAME)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s:]+)\)", text_of(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", text_of(target), re.MULTILINE)
            known = {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}
            assert anchor in known, f"{page.name}: {link}"


def test_the_readme_is_short_and_names_every_page():
    text = text_of(ROOT / "README.md")
    assert len(text.splitlines()) <= 150
    for page in [*ROOT.glob("docs/*.md"), ROOT / "CONTRIBUTING.md"]:
        assert f"]({page.relative_to(ROOT).as_posix()}" in text, page.name


@pytest.mark.parametrize("page", CONFIGS, ids=lambda page: page.name)
def test_configs_leave_figures_to_the_readme(page):
    described = text_of(page).split('"""')[1]
    assert not re.findall(r"\d\.\d\d|\bminutes?\b|\bseconds?\b", described)
    assert '"Results" in README.md' in described
    assert "\n## Results\n" in text_of(ROOT / "README.md")


@pytest.mark.parametrize("name", sorted(all_specs()))
def test_every_data_set_has_its_three_lines(name):
    spec = all_specs()[name]
    get = (
        f"wlsrl download --dataset={name} --output=DIR"
        if name in FILES
        else f"# unpack {spec.homepage} in DIR"
    )
    lines = [
        get,
        f"wlsrl prepare --dataset={name} --source=DIR --data_dir=DATA",
        f"wlsrl train --config=configs/{spec.modality}.py:{name} --config.data.data_dir=DATA",
    ]
    assert "\n".join(lines) + "\n" in text_of(ROOT / "docs/data.md")
    assert load_config(spec.modality, name).data.dataset == name


def test_a_wrong_page_is_found(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("`wlsrl predict --nosuch=1` and\n\n```\nwlsrl train \\\n  --config=c.py\n```\n")
    assert list(commands(page)) == [
        ("train", ["--config=c.py"], True),
        ("predict", ["--nosuch=1"], False),
    ]
    with pytest.raises(AssertionError, match="nosuch"):
        test_commands_can_be_given(page, tmp_path, monkeypatch)
