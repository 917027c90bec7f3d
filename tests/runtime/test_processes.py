"""Runs of several processes, each with devices of its own, through the local launcher."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import ROOT, damaged_octdl, read_predictions, start, state_of, tiny_flags
from wlsrl_jax.runtime import processes
from wlsrl_jax.training import example_ids

LONG = {"num_epochs": 9.0, "log_every": 1, "log_example_ids": True, "optimizer__name": "sgd",
        "optimizer__learning_rate": 0.001, "model__conv_implementation": "xla"}  # fmt: skip
STEPS = 54  # 9 epochs of 6


def launch(workdir, count, devices, *flags):
    command = [sys.executable, "experiments/launch/local.py", f"--processes={count}",
               f"--devices={devices}", f"--config={ROOT}/configs/oct.py",
               f"--workdir={workdir}", *flags]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            cwd=ROOT, start_new_session=True)  # fmt: skip


def one(workdir, devices, *flags):
    env = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return start(workdir, *flags, env=env)


def ended(process, status=0):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


def said(process, pattern):
    """Reads until a line fits; returns what was read."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return "".join(lines)
    raise AssertionError("".join(lines))


def started_by(process):
    """Process numbers of the run's processes, in their order."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(p) for p in children.read_text().split()]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def assert_equal_within_rounding(a, b):
    assert example_ids.read(a) == example_ids.read(b)
    assert list(example_ids.read(a)) == list(range(1, STEPS + 1))
    mine, theirs = losses(a), losses(b)
    both = sorted(mine.keys() & theirs.keys())
    assert len(both) > STEPS - 6  # the first step after a start is not in the log
    np.testing.assert_allclose([mine[s] for s in both], [theirs[s] for s in both], rtol=1e-5)
    # A rounding error can move a maximum of the pooling, and with it a gradient; so momentum is
    # not compared, and parameters have room for some such steps.
    left, right = state_of(a), state_of(b)
    for name in (n for n in left if n.startswith("['params']")):
        np.testing.assert_allclose(right[name], left[name], rtol=1e-3, atol=3e-4, err_msg=name)
    for one_, other in zip(read_predictions(a), read_predictions(b)):
        assert one_["id"] == other["id"]
        np.testing.assert_allclose(float(one_["TO1/CNV"]), float(other["TO1/CNV"]), atol=1e-3)


@pytest.fixture(scope="module")
def four_devices(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("four") / "run"
    ended(one(workdir, 4, *tiny_flags(**LONG)))
    return workdir


@pytest.mark.parametrize(("count", "devices"), [(2, 2), (4, 1)])
def test_processes_equal_devices(count, devices, four_devices, tmp_path):
    workdir = tmp_path / "run"
    output = ended(launch(workdir, count, devices, *tiny_flags(**LONG)))
    assert output.count("devices: 4 x cpu") == 1, output  # only process 0 speaks
    assert_equal_within_rounding(workdir, four_devices)


def test_stopped_and_gone_on_elsewhere(four_devices, tmp_path):
    """8 devices -> 1 -> 2 processes of 2 -> 8, and fsdp 4 -> 1 -> 2 -> 4.

    A signal to one process stops all of them.
    """
    workdir = tmp_path / "run"
    flags = tiny_flags(**LONG)
    process = one(workdir, 8, *flags, "--config.mesh.fsdp=4")
    said(process, r"^step 1\d/")
    process.send_signal(signal.SIGTERM)
    assert "saved step" in ended(process, 75)
    process = one(workdir, 1, *flags)
    assert re.search(r"going on from step 1\d", said(process, r"^step 2\d/"))
    process.send_signal(signal.SIGINT)
    ended(process, 75)
    process = launch(workdir, 2, 2, *flags, "--config.mesh.fsdp=2")
    assert re.search(r"going on from step 2\d", said(process, r"^step 3\d/"))
    os.kill(started_by(process)[1], signal.SIGTERM)
    assert "SIGTERM: saved step 3" in ended(process, 75)
    process = one(workdir, 8, *flags, "--config.mesh.fsdp=4")
    assert re.search(r"going on from step 3\d", ended(process))
    assert_equal_within_rounding(workdir, four_devices)


@pytest.mark.parametrize(
    ("number", "victim"), [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGSTOP, 0)]
)
def test_the_others_leave_when_one_is_lost(number, victim, tmp_path):
    """SIGSTOP: the host is there and does not answer, as with a broken network."""
    workdir = tmp_path / "run"
    flags = [*tiny_flags(**{**LONG, "num_epochs": 5000.0}), "--config.eval.every_epochs=1000"]
    process = launch(workdir, 2, 1, *flags)
    said(process, r"^step 1\d/")
    pids = started_by(process)
    began = time.monotonic()
    os.kill(pids[victim], number)
    wake = threading.Timer(60, os.kill, (pids[victim], signal.SIGKILL))
    if number == signal.SIGSTOP:
        wake.start()
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "start the run again" in line or "another task died" in line:
            break
    seconds = time.monotonic() - began
    if number == signal.SIGSTOP:
        os.kill(pids[victim], signal.SIGKILL)
        wake.cancel()
    output = "".join(lines) + ended(process, 75)
    # JAX itself is first to notice that process 0 has died.
    assert f"process {1 - victim} of 2: " in output or "another task died" in output, output
    assert seconds < processes.LOST_SECONDS + 15


def test_what_one_process_cannot_read_is_damaged_for_all(tmp_path):
    """Each process of two holds half of the large arrays, and writes and reads that half alone."""
    workdir = tmp_path / "run"
    flags = [*tiny_flags(**{**LONG, "num_epochs": 4.0, "model__preset": "small"}),
             "--config.mesh.fsdp=2"]  # fmt: skip
    ended(launch(workdir, 2, 1, *flags))
    (workdir / "metrics.json").unlink()
    newest, before = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())[:-3:-1]
    state = workdir / "checkpoints" / str(newest) / "state"
    for file in (state / "ocdbt.process_1" / "d").iterdir():
        file.write_bytes(file.read_bytes()[:10])
    output = ended(launch(workdir, 2, 1, *flags))
    assert re.search(rf"checkpoints/{newest} cannot be read .*; trying the one before", output)
    assert f"going on from step {before}" in output
    assert (workdir / "damaged-checkpoints" / f"{newest}-0").is_dir()


def test_a_mistake_that_one_process_meets_ends_all_with_its_status(tmp_path):
    data = damaged_octdl(tmp_path)
    flags = [*tiny_flags(data__data_dir=str(data), num_epochs=4.0), "--config.data.dataset=octdl"]
    process = launch(tmp_path / "run", 2, 1, *flags)
    output = ended(process, 2)
    assert len(re.findall(r"(?m)^(?:\[1\] )?error: .* is damaged", output)) == 1, output
    assert len(re.findall(r"process . of 2: process . has failed: .* is damaged", output)) == 1
    assert "start the run again" not in output


def test_others_that_do_not_come(tmp_path):
    together = ["--coordinator_address=127.0.0.1:1", "--num_processes=2", "--process_id=1"]
    flags = [*tiny_flags(), *together, "--initialization_timeout=12"]
    process = start(tmp_path / "run", *flags)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 76, output
    assert "process 1 of 2: waiting for the others for 10 s" in output
    assert "process 1 of 2: the others did not come within 12 s" in output
    process = start(tmp_path / "run", *flags)
    said(process, "waiting for")
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in ended(process, 75)
    assert not (tmp_path / "run").exists()


def test_an_error_of_one_process_ends_all(tmp_path, four_devices):
    workdir = tmp_path / "run"
    shutil.copytree(four_devices, workdir)
    (workdir / "metrics.json").unlink()
    output = ended(launch(workdir, 2, 2, *tiny_flags(**LONG), "--config.seed=5"), 2)
    assert output.count("config.seed: 0 there, 5 now") == 1
    output = ended(launch(tmp_path / "a", 2, 1, *tiny_flags(batch_size=15)), 2)
    assert "config.batch_size=15 must be a positive multiple of the 2 devices" in output


@pytest.mark.parametrize("different", [[], ["--config.seed=7"]])
def test_processes_that_are_not_of_one_run(different, tmp_path):
    """Each process sees another directory of the same name, or has another config."""
    flags = tiny_flags()

    spec = importlib.util.spec_from_file_location("local", ROOT / "experiments/launch/local.py")
    local = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(local)
    port = f"--coordinator_address=127.0.0.1:{local.free_port()}"
    running = []
    for k in range(2):
        (tmp_path / str(k)).mkdir()
        command = [sys.executable, "-m", "wlsrl_jax.main", f"--config={ROOT}/configs/oct.py", port,
                   "--workdir=run", "--num_processes=2", f"--process_id={k}", *flags,
                   *(different if k else [])]  # fmt: skip
        running.append(subprocess.Popen(
            command, cwd=tmp_path / str(k), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT)}))  # fmt: skip
    outputs = [ended(p, 2) for p in running]
    if different:
        assert "process 1 was started with another config than process 0" in outputs[0]
    else:
        assert "is not the same directory for process 1" in outputs[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_processes=2"], "go together"),
        (["--coordinator_address=here", "--num_processes=2", "--process_id=0"], "HOST:PORT"),
        (["--coordinator_address=a:1", "--num_processes=2", "--process_id=2"], "must be in 0..1"),
        (["--num_processes=two"], "num_processes"),
    ],
)
def test_flags_that_do_not_fit(flags, message, tmp_path):
    process = start(tmp_path / "run", *flags)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and message in output, output
    assert "Traceback" not in output


def test_launchers_are_recognised(monkeypatch):
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    assert not processes.launched_with_others()
    for name, alone, several in (
        ("SLURM_STEP_NUM_TASKS", "1", "8"), ("OMPI_COMM_WORLD_SIZE", "1", "2"),
        ("TPU_WORKER_HOSTNAMES", "localhost", "a,b"),
    ):  # fmt: skip
        monkeypatch.setenv(name, alone)
        assert not processes.launched_with_others()
        monkeypatch.setenv(name, several)
        assert processes.launched_with_others()
        monkeypatch.delenv(name)
