"""A full disk in the commands: which file, what is safe, how to go on."""

import os
import shutil
import subprocess
import sys

import pytest

from tests import sources
from tests.tiny import ROOT


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["prepare", "audit", "predict", "export", "report", "explain"])
def test_it_is_one_line_and_the_same_command_ends_well(name, small_disk, tmp_path, finished):
    disk, mount = small_disk
    mount("size=32k")
    source = sources.octdl(tmp_path / "octdl", patients=6)
    if name == "report":  # its place is the workdir
        shutil.copytree(finished, tmp_path / "run")
    images = [str(p) for p in sorted((source / "AMD").iterdir())[:3]]
    command = {
        "prepare": ["wlsrl_jax.data.prepare", "--dataset=octdl", f"--source={source}",
                    f"--data_dir={disk}"],
        "audit": ["wlsrl_jax.data.audit", "--dataset=octdl", f"--source={source}",
                  f"--output={disk / 'audit'}"],
        "predict": ["wlsrl_jax.predict", f"--output={disk / 'out.csv'}", "--modality_check=off",
                    "--quality_check=off", f"--workdir={finished}",
                    f"--overlays={disk / 'maps'}", *images],
        "export": ["wlsrl_jax.export", f"--workdir={finished}", f"--output={disk / 'x'}"],
        "report": ["wlsrl_jax.report", f"--workdir={tmp_path / 'run'}",
                   f"--output={disk / 'report.html'}"],
        "explain": ["wlsrl_jax.explain", f"--workdir={finished}", f"--output={disk / 'e'}",
                    "--quality_check=off", *images[:1]],
    }[name]  # fmt: skip
    done = run(*command)
    assert done.returncode == 2, done.stdout + done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(f"error: {disk}") and "No space left on device" in line, done.stderr
    assert "same command" in line and "Traceback" not in done.stderr, done.stderr
    assert not [p for p in disk.rglob("*.tmp")], list(disk.rglob("*"))
    mount("remount,size=50m")
    done = run(*command)
    assert done.returncode == 0, done.stderr
