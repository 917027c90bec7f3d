"""Data that were moved: every command takes the new place, and the run remembers it."""

import ast
import json
import shutil

import pytest

from tests import sources
from tests.tiny import ROOT, StopAfter, tiny_config
from wlsrl_jax.data.prepare import __main__ as prepare
from wlsrl_jax.explain.__main__ import main as explain
from wlsrl_jax.files import Mistake
from wlsrl_jax.report.__main__ import main as report
from wlsrl_jax.runtime.stop import PreemptedError, StopRequest
from wlsrl_jax.training.loop import train


def config_of(data_dir, **changes):
    return tiny_config(
        data__dataset="octdl", data__data_dir=str(data_dir), num_epochs=1.0,
        optimizer__warmup_epochs=0.0, checkpoint__every_steps=1, **changes,
    )  # fmt: skip


def place_of(workdir):
    return json.loads((workdir / "config.json").read_text())["data"]["data_dir"]


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """(a run that was stopped, the place where its data are now)."""
    folder = tmp_path_factory.mktemp("moved")
    source = sources.octdl(folder / "octdl", patients=4)
    prepare.prepare("octdl", source, str(folder / "old"), size=(32, 32),
                    near_duplicates="off", allow_missing_classes=True)  # fmt: skip
    with pytest.raises(PreemptedError):
        train(config_of(folder / "old"), folder / "run", StopAfter(4))
    (folder / "old").rename(folder / "new")
    return folder / "run", folder / "new"


def test_a_run_that_resumes_keeps_the_new_place_and_its_report_has_pictures(moved, capsys):
    workdir, place = moved
    before = json.loads((workdir / "config.json").read_text())
    train(config_of(place, log_every=3), workdir, StopRequest())
    after = json.loads((workdir / "config.json").read_text())
    assert (after["data"]["data_dir"], after["log_every"]) == (str(place), 3)
    after["data"]["data_dir"], after["log_every"] = before["data"]["data_dir"], before["log_every"]
    assert after == before  # and nothing else
    report([f"--workdir={workdir}"])
    assert "data:image/jpeg" in (workdir / "report.html").read_text()
    assert "WARNING" not in capsys.readouterr().err


def test_a_finished_run_whose_data_moved_again(moved, tmp_path, capsys):
    workdir, place = tmp_path / "run", tmp_path / "third"
    shutil.copytree(moved[0], workdir)
    shutil.copytree(moved[1], place)
    if not (workdir / "metrics.json").exists():
        train(config_of(moved[1]), workdir, StopRequest())
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["data_dir"] = str(tmp_path / "gone")
    (workdir / "config.json").write_text(json.dumps(config))
    report([f"--workdir={workdir}"])
    page, told = (workdir / "report.html").read_text(), capsys.readouterr().err
    for text in (page, told):
        assert "left out" in text and "--data_dir=DIR says where" in text
    assert str(tmp_path) in told and str(tmp_path) not in page.split("<pre>")[0]
    with pytest.raises(Mistake, match="have moved, --data_dir=DIR says where they are"):
        explain([f"--workdir={workdir}", f"--output={tmp_path / 'maps'}", "--split=test"])
    report([f"--workdir={workdir}", f"--data_dir={place}"])
    assert "data:image/jpeg" in (workdir / "report.html").read_text()
    assert place_of(workdir) == str(tmp_path / "gone")  # a command that only reads writes nothing
    with pytest.raises(Mistake, match="is not prepared in"):
        train(config_of(tmp_path / "nowhere"), workdir, StopRequest())
    train(config_of(place), workdir, StopRequest())
    assert place_of(workdir) == str(place)


def test_every_command_that_opens_a_runs_data_takes_the_place():
    """But on phantoms, which lie nowhere."""
    lacking = []
    for path in (ROOT / "wlsrl_jax").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        called = {
            getattr(node.func, "id", getattr(node.func, "attr", ""))
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call)
        }
        opens = called & {"open_dataset", "open_split", "collect", "write_report", "model_card"}
        of_a_run = "wlsrl_jax.runs" in text or "wlsrl_jax.report" in text
        if (
            of_a_run
            and opens
            and called & {"ArgumentParser", "Parser"}
            and "add_data_dir" not in called
        ):
            lacking.append(path.name)
    assert lacking == ["pointing.py"]
