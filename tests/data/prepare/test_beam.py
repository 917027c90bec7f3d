"""Preparation by an Apache Beam runner: the same bytes, and errors that say where."""

import io
import sys

import pytest
from rich.console import Console

from tests import sources
from tests.tiny import wlsrl
from wlsrl_jax.data.prepare import beam_map
from wlsrl_jax.data.prepare import write as write_prepared
from wlsrl_jax.data.prepare.__main__ import prepare
from wlsrl_jax.data.prepared import load_prepared
from wlsrl_jax.files import Mistake

NEEDED = "Apache Beam (extra 'beam') is not installed"


def run(name, source, data_dir, **options):
    console = Console(file=io.StringIO(), width=150)
    options = {"size": (32, 40), "console": console, **options}
    return prepare(name, source, str(data_dir), **options).parent


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*")) if p.is_file()}  # fmt: skip


@pytest.fixture
def source(tmp_path):
    return sources.octdl(tmp_path / "source")


@pytest.mark.parametrize("name", ["octdl", "eyepacs"])
def test_a_runner_writes_the_bytes_that_threads_write(name, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason=NEEDED)
    monkeypatch.setattr(beam_map, "_PART", 9)
    monkeypatch.setattr(write_prepared, "_SHARD", 2**15)  # several files a split
    folder = sources.LAYOUTS[name](tmp_path / "source")
    bad = sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".jpeg"))[7]
    bad.write_bytes(bad.read_bytes()[:300])
    here = run(name, folder, tmp_path / "threads", on_bad_file="skip")
    there = run(name, folder, tmp_path / "beam", on_bad_file="skip", beam_runner="DirectRunner")
    expected, found = contents(here), contents(there)
    assert any(".array_record-00001-of-" in file for file in expected)
    assert {"manifest.json", "splits.csv"} <= set(expected)
    assert found.keys() == expected.keys()
    for file in expected:
        assert found[file] == expected[file], file
    assert bad.name in expected["manifest.json"].decode()
    assert sorted(p.name for p in (tmp_path / "beam").iterdir()) == [name]  # nothing left behind
    assert load_prepared(name, str(tmp_path / "beam")).splits["train"][0]["image"].shape[0] == 32


def test_bad_files_are_all_named_as_without_a_runner(source, tmp_path):
    pytest.importorskip("apache_beam", reason=NEEDED)
    (source / "AMD" / "amd_001.jpg").write_bytes(b"")
    (source / "RVO" / "rvo_003.jpg").write_bytes(b"left eye, see letter")
    messages = []
    for runner in ("", "DirectRunner"):
        with pytest.raises(Mistake) as caught:
            run("octdl", source, tmp_path / "data", beam_runner=runner)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "RVO/rvo_003.jpg: not an image" in messages[1]


def no_memory(*_):
    raise MemoryError("too little of it")


def refused(*_):
    raise write_prepared.BadImageError("cannot be encoded as PNG")


@pytest.mark.parametrize(
    ("presize", "message"),
    [
        (no_memory, r"(?s)--beam_runner=DirectRunner failed: .*\.jpg: MemoryError: too little"),
        (refused, r"source/[A-Z]+/[a-z]+_\d+\.jpg: cannot be encoded as PNG$"),
    ],
)
def test_an_error_on_a_worker_names_the_file(presize, message, source, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason=NEEDED)
    monkeypatch.setattr(write_prepared, "presize", presize)
    with pytest.raises(Mistake, match=message):
        run("octdl", source, tmp_path / "data", beam_runner="DirectRunner")
    assert not any((tmp_path / "data").iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--beam_runner=NoRunner"], "--beam_runner=NoRunner cannot be used: Unexpected pipeline"),
        (["--beam_runner=no.module.Runner"], "--beam_runner=no.module.Runner cannot be used: No"),
        (
            ["--beam_runner=DirectRunner", "--beam_options=--direct_num_workers=many"],
            "--beam_options='--direct_num_workers=many': argument --direct_num_workers: invalid",
        ),
    ],
)
def test_a_wrong_runner_or_option_is_named(flags, message, source, tmp_path, capsys):
    pytest.importorskip("apache_beam", reason=NEEDED)
    arguments = ["--dataset=octdl", f"--source={source}", f"--data_dir={tmp_path / 'data'}"]
    assert wlsrl("prepare", *arguments, *flags) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_without_beam_the_extra_is_named(source, tmp_path, capsys, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "apache_beam"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    arguments = ["--dataset=octdl", f"--source={source}", f"--data_dir={tmp_path / 'data'}"]
    assert wlsrl("prepare", *arguments, "--beam_runner=DirectRunner") == 2
    assert "pip install 'wlsrl_jax[beam]'" in capsys.readouterr().err
    assert wlsrl("prepare", *arguments, "--beam_options=--region=x") == 2
    assert "give --beam_runner as well" in capsys.readouterr().err


@pytest.mark.parametrize(("missing", "said"), [("todo", "a worker cannot read"), ("done", "it is")])
def test_a_folder_that_workers_do_not_see_is_told(missing, said, source, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason=NEEDED)
    monkeypatch.setattr(beam_map, f"_{missing}", lambda staging, part: elsewhere(staging, missing))
    with pytest.raises(Mistake, match=rf"(?s){said}.*file system that every worker sees"):
        run("octdl", source, tmp_path / "data", beam_runner="DirectRunner")


def elsewhere(staging, missing):
    """Another place whenever it is asked for."""
    elsewhere.calls = getattr(elsewhere, "calls", 0) + 1
    return staging / f"{elsewhere.calls}.{missing}"
