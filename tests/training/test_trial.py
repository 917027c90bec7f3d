"""A workdir from which nothing could be read back is refused before a step; others work."""

import os
import shutil

import pytest

from tests.tiny import tiny_config
from wlsrl_jax.files import Mistake
from wlsrl_jax.runs import checkpoint
from wlsrl_jax.runs.open import load_trained
from wlsrl_jax.runtime.mesh import make_mesh
from wlsrl_jax.runtime.stop import StopRequest
from wlsrl_jax.training.loop import train
from wlsrl_jax.training.trial import check_path, try_saving


@pytest.mark.parametrize("name", ["runs [try 2]/a", "what?", "all*", "back\\slash"])
def test_characters_of_patterns_are_refused_before_a_step(name, tmp_path):
    with pytest.raises(Mistake, match=r"--workdir=.*stands for something else in patterns"):
        train(tiny_config(), tmp_path / name, StopRequest())
    assert not (tmp_path / name).exists()


def test_a_link_to_such_a_folder_is_refused_as_well(tmp_path):
    (tmp_path / "runs [2]").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "runs [2]")
    with pytest.raises(Mistake, match="patterns"):
        check_path(tmp_path / "link")


@pytest.mark.parametrize(
    "name",
    ["ends with a blank ", "Läufe/été", "la\u0301", "運行", "a%20b", "a#b", "a$b", "a:b", "{a,b}",
     "~a", "a&b=c", "'a'", 'b"', "x" * 255, "/".join(["y" * 200] * 8)],
)  # fmt: skip
def test_paths_that_are_only_odd_work(name, tmp_path):
    workdir = tmp_path / name
    workdir.mkdir(parents=True)
    check_path(workdir)
    try_saving(workdir, make_mesh(1))
    assert not list(workdir.iterdir())


def test_relative_and_linked_workdirs_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for name in ("real", "link", "./real/../link"):
        try_saving(tmp_path / name if name == "real" else checkpoint.Path(name), make_mesh(1))
    assert os.listdir("real") == []


def test_what_cannot_be_read_back_is_refused(tmp_path, monkeypatch):
    """As on a file system that loses what was written."""
    wait = checkpoint.wait

    def losing(manager):
        wait(manager)
        for path in tmp_path.glob("trial-save/1/state/d/*"):
            path.write_bytes(b"")

    monkeypatch.setattr(checkpoint, "wait", losing)
    with pytest.raises(Mistake, match=r"--workdir=.* cannot be read back \(state/d/"):
        try_saving(tmp_path, make_mesh(1))
    assert not list(tmp_path.iterdir())


def test_a_finished_run_is_read_from_a_folder_with_brackets(finished, tmp_path):
    """Somebody may call a folder so afterwards."""
    moved = shutil.copytree(finished, tmp_path / "runs [try 2]" / "a")
    assert load_trained(moved).tasks
