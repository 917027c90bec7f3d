import os
import subprocess
import sys

import pytest

from tests.tiny import ROOT


def main(*arguments, **env):
    return subprocess.run(
        [sys.executable, "-m", "wlsrl_jax.main", *arguments], cwd=ROOT, capture_output=True,
        text=True, timeout=120, env={**os.environ, **env},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is needed"),
        (["--config=configs/none.py"], "configs/fundus.py, configs/oct.py"),
        (["--config", "configs/none.py"], "configs/none.py does not exist"),
        (["--config=configs/oct.py:mnist"], "mnist is not prepared in"),
        (["--config=configs/fundus.py:octdl"], "phantom, aptos2019, ddr"),
        (["--config=configs/oct.py", "--config.loss.smoothin=0.2"], "smoothing, variant"),
        (["--config=configs/oct.py", "--config.los.smoothing=0.2"], "loss, mesh"),
        (["--config=configs/oct.py", "--config.seed.x=2"], "config.seed has no fields"),
        (["--config=configs/oct.py", "--config.task_weights.TF1=2"], "TF1"),
        (["--config=configs/oct.py", "--config.batch_size=many"], "batch_size"),
        (["--config=configs/oct.py", "--config.batch_size=0"], "config.batch_size=0"),
        (["--config=configs/oct.py", "--config.require_accelerator=True"], "only CPUs"),
        (["--config=configs/oct.py", "surplus"], "surplus"),
    ],
)
def test_mistakes_get_one_clear_message(arguments, message, tmp_path):
    workdir = [f"--workdir={tmp_path / 'w'}"] if arguments else []
    done = main(*arguments, *workdir)
    assert done.returncode not in (0, 75)
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "w").exists()


def test_data_that_is_not_prepared_names_the_command(tmp_path):
    done = main("--config=configs/oct.py:octdl", f"--workdir={tmp_path / 'w'}",
                f"--config.data.data_dir={tmp_path}")  # fmt: skip
    assert done.returncode == 2
    assert "Run: wlsrl prepare --dataset=octdl" in done.stderr


def test_the_terminal_bar_and_the_default_workdir(tmp_path):
    """On a terminal a bar is drawn; without --workdir the run goes to runs/."""
    flags = ["--config.data.height=32", "--config.data.width=32", "--config.data.phantom.train=64",
             "--config.data.phantom.validation=16", "--config.data.phantom.test=16",
             "--config.model.preset=tiny", "--config.num_epochs=2", "--config.batch_size=16",
             "--config.eval.batch_size=16", "--config.allow_missing_classes=True"]  # fmt: skip
    command = " ".join([sys.executable, "-m", "wlsrl_jax.main",
                        f"--config={ROOT}/configs/oct.py", *flags])  # fmt: skip
    done = subprocess.run(["script", "-qec", command, "/dev/null"], cwd=tmp_path, text=True,
                          capture_output=True, timeout=200,
                          env={**os.environ, "COLUMNS": "130"})  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "ETA" in done.stdout and "PHANTOM DATA" in done.stdout
    workdir = tmp_path / "runs" / "oct-phantom"
    assert (workdir / "metrics.json").exists() and (workdir / "report.html").exists()
    assert "report: runs/oct-phantom/report.html" in done.stdout
