"""A config file is checked as flags are."""

import os
import subprocess
import sys

import pytest

from tests.tiny import ROOT
from wlsrl_jax.config.config_file import read_config_file
from wlsrl_jax.config.flags import last_counts
from wlsrl_jax.files import Mistake

HEAD = "from wlsrl_jax.config.fields import base_config\n\ndef get_config():\n"


def read(tmp_path, text, argument=None):
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    return read_config_file(path, argument)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("c.num_epoch = 3", "mine.py, line 5: .*num_epoch"),
        ("c.data.hight = 64", "mine.py, line 5: .*hight"),
        ("c.num_epochs = 'ten'", "mine.py, line 5: TypeError"),
        ("c.num_epochs = 1 / 0", "mine.py, line 5: ZeroDivisionError: division by zero"),
        ("import nowhere", "mine.py, line 5: ModuleNotFoundError.*nowhere"),
        ("raise SystemExit(3)", "mine.py, line 5: SystemExit"),
        ("c.num_epochs = None", "mine.py: config.num_epochs=None must be of type float"),
        ("c.report = None", "mine.py: config.report=None must be of type bool"),
        ("c.unlock(); c.num_epoch = 3", "mine.py: config.num_epoch does not .* config.num_epochs"),
        ("c.unlock(); del c.seed", "mine.py: config.seed is missing"),
        ("c.modality = 'ct'", "mine.py: config.modality='ct' must be one of oct, fundus"),
        ("return None", "get_config returns None"),
        ("return 3", "get_config returns 3"),
    ],
)
def test_what_is_wrong_names_the_file(tmp_path, body, message):
    with pytest.raises(Mistake, match=message):
        read(tmp_path, f"{HEAD}    c = base_config('oct')\n    {body}\n    return c\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef get_config(:\n", "mine.py, line 2: invalid syntax|mine.py, line 2"),
        ("x = 1\n", "mine.py has no function get_config"),
        ("get_config = 3\n", "mine.py has no function get_config"),
        ("", "mine.py has no function get_config"),
        ("x = 1\nraise ValueError('no\\nreason')\n", "mine.py, line 2: ValueError: no reason"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, text, message):
    with pytest.raises(Mistake, match=message):
        read(tmp_path, text)


def test_a_good_file_is_read_as_it_is(tmp_path):
    text = f"{HEAD}    c = base_config('oct')\n    c.num_epochs = 3\n    return c\n"
    assert read(tmp_path, text).num_epochs == 3.0
    assert read_config_file(ROOT / "configs/oct.py", "octdl").data.dataset == "octdl"
    with pytest.raises(Mistake, match="get_config"):
        read(tmp_path, text, "octdl")  # it takes no argument


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("c.unlock(); c.num_epoch = 3", "config.num_epoch does not exist; is it config.num_epochs"),
        ("c.unlock(); del c.name, c.data", "config.data.cache_mib is missing; config.data.d"),
        ("c.modality = 'ct'", "config.modality='ct' must be one of oct, fundus"),
        ("c.num_epochs = None", "config.num_epochs=None must be of type float"),
    ],
)
def test_what_a_file_gives_is_checked_before_a_field_is_read(tmp_path, body, message):
    path = tmp_path / "mine.py"
    path.write_text(f"{HEAD}    c = base_config('oct')\n    {body}\n    return c\n")
    done = subprocess.run(
        [sys.executable, "-m", "wlsrl_jax.main", f"--config={path}", f"--workdir={tmp_path / 'w'}"],
        capture_output=True, text=True, timeout=100, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(f"error: {path}: {message}"), line
    assert not (tmp_path / "w").exists()


def test_of_a_flag_given_twice_the_last_one_counts():
    several = ["--config.model.widths=8,16", "--config.seed=1", "--config.model.widths",
               "8", "--workdir=w"]  # fmt: skip
    assert last_counts(several) == ["--config.seed=1", "--config.model.widths", "8",
                                     "--workdir=w"]  # fmt: skip
    assert last_counts(["--config.model.widths", "8", "--config.model.widths=4"]) == [
        "--config.model.widths=4"]  # fmt: skip


def test_the_command_tells_it_in_one_line(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"{HEAD}    c = base_config('oct')\n    c.num_epoch = 3\n    return c\n")
    done = subprocess.run(
        [sys.executable, "-m", "wlsrl_jax.main", f"--config={path}", f"--workdir={tmp_path / 'w'}"],
        capture_output=True, text=True, timeout=100, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(f"error: {path}, line 5:"), line
