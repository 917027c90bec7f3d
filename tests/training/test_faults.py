"""Everything that can go wrong with a run of one process, really caused."""

import json
import re
import resource
import shutil
import signal
import subprocess
import time

import jax.numpy as jnp
import numpy as np
import pytest

from tests import sources
from tests.tiny import (
    StopAfter,
    assert_same_run,
    damaged_octdl,
    run,
    start,
    state_of,
    tiny_config,
    tiny_flags,
)
from wlsrl_jax.data.phantoms import source as phantom
from wlsrl_jax.data.prepare import __main__ as prepare
from wlsrl_jax.files import Mistake
from wlsrl_jax.losses import Loss
from wlsrl_jax.runs import checkpoint
from wlsrl_jax.runtime.stop import PreemptedError
from wlsrl_jax.training import example_ids
from wlsrl_jax.training import setup as setup_run
from wlsrl_jax.training.loop import train

IDS = {"log_example_ids": True}


def stopped(workdir, looks, **changes):
    """A run that was asked to stop at a look."""
    with pytest.raises(PreemptedError):
        train(tiny_config(**changes), workdir, StopAfter(looks))
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())


def test_metadata_of_the_newest_checkpoint_is_missing(finished, tmp_path, caplog):
    workdir = tmp_path / "run"
    newest = stopped(workdir, 15, **IDS)[-1]
    folder = workdir / "checkpoints" / str(newest)
    for name in ("_CHECKPOINT_METADATA", "state/_METADATA", "state/manifest.ocdbt"):
        (folder / name).unlink()
    run(workdir, **IDS)
    assert f"{newest} cannot be read" in caplog.text
    assert_same_run(workdir, finished)


def test_a_file_that_may_not_grow(finished, tmp_path):
    """A quota: writing fails in the middle of a save."""
    limit = 40_000
    process = start(tmp_path / "run", *tiny_flags(**IDS), preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)))  # fmt: skip
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    # TensorStore may print tracebacks of its own before.
    last = output.rstrip().splitlines()[-1]
    assert last.startswith("error: a checkpoint cannot be written to"), output
    assert "(File too large); there is none yet" in last
    run(tmp_path / "run", **IDS)
    assert_same_run(tmp_path / "run", finished)


def test_the_disk_is_full(finished, small_disk):
    """Saves until a small file system is full; with more room the same command ends well."""
    disk, mount = small_disk
    mount("size=900k")
    flags = tiny_flags(checkpoint__every_steps=1, checkpoint__keep=50, **IDS)
    process = start(disk / "run", *flags)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    # Whichever file meets the end of the disk.
    error = output.rstrip().splitlines()[-1]
    assert "No space left" in error or f"the disk of --workdir={disk}/run is full" in error, output
    assert error.startswith("error: ") and "the same command resumes" in error, output
    assert "Traceback" not in output and "Event loop" not in output, output
    complete = [p.name for p in (disk / "run" / "checkpoints").iterdir() if p.name.isdigit()]
    last = max(map(int, complete))
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
    process = start(disk / "run", *flags)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and f"going on from step {last} " in output, output
    assert_same_run(disk / "run", finished)


@pytest.mark.parametrize("folder", [".", "run"])
def test_a_workdir_that_may_not_be_written(folder, small_disk):
    disk, mount = small_disk
    mount("ro")
    process = start(disk / folder, *tiny_flags())
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert "cannot be made or written (Read-only file system)" in output
    assert "Traceback" not in output


def test_a_checkpoint_of_another_model_names_its_parameters(tmp_path):
    stopped(tmp_path / "run", 8)
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    config["model"]["streams"] = "separable"
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError) as caught:
        run(tmp_path / "run", model__streams="separable")
    assert "checkpoint of another model" in str(caught.value)
    assert re.search(r"  params/standard\S+: \(.*\) there, absent now", str(caught.value))
    assert not (tmp_path / "run" / "damaged-checkpoints").exists()


@pytest.fixture
def infinite(monkeypatch):
    """The loss is infinite where the first image of a batch is of class 1: steps 4 and 12."""
    build = setup_run.build_losses

    def wrong(*arguments):
        losses, weights = build(*arguments)

        class Infinite(Loss):
            def __call__(self, logits, labels):
                values, weights = super().__call__(logits, labels)
                return jnp.where(labels[0] == 1, jnp.inf, values), weights

        return {"TO1": Infinite(**vars(losses["TO1"])), "TO2": losses["TO2"]}, weights

    monkeypatch.setattr(setup_run, "build_losses", wrong)


def test_a_loss_that_is_not_finite_names_step_examples_and_checkpoint(infinite, tmp_path):
    with pytest.raises(ValueError) as caught:
        run(tmp_path / "run", checkpoint__every_steps=1, log_example_ids=True, log_every=4)
    text = str(caught.value)
    step = int(re.search(r"step (\d+): the loss is inf", text)[1])
    ids = example_ids.read(tmp_path / "run")
    assert f"The batch: {', '.join(ids[step])}." in text
    assert (
        step > 1 and f"The last good checkpoint is {tmp_path}/run/checkpoints/{step - 1}." in text
    )
    for array in checkpoint.read_arrays(tmp_path / "run" / "checkpoints").values():
        assert np.isfinite(array).all()


def test_steps_that_are_not_finite_can_be_skipped(infinite, tmp_path, capsys):
    run(tmp_path / "run", on_nan="skip", log_every=4)
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").open()]
    skipped = sum(line.get("skipped_steps", 0) for line in lines)
    assert skipped == 2 and "skipped" in capsys.readouterr().out
    assert all(np.isfinite(a).all() for a in state_of(tmp_path / "run").values())
    assert int(state_of(tmp_path / "run")["['step']"]) == 12


def test_a_stop_does_not_save_what_is_not_finite(infinite, tmp_path):
    with pytest.raises(ValueError, match="the loss is inf"):
        train(tiny_config(log_every=100, checkpoint__every_steps=100), tmp_path / "run",
              StopAfter(7))  # fmt: skip
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def test_a_damaged_record_is_named(tmp_path):
    data = damaged_octdl(tmp_path)
    process = start(tmp_path / "run", *tiny_flags(data__data_dir=str(data)),
                    "--config.data.dataset=octdl")  # fmt: skip
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert re.search(r"error: .*octdl.*: record \d+ of split train \(\w+\) is damaged", output)
    assert "--overwrite" in output and "Traceback" not in output


def test_a_reading_thread_that_dies_ends_the_run(tmp_path, monkeypatch):
    read = phantom.PhantomSource.__getitem__

    def dies(source, index):
        if index == 50 and source.split == "train":
            raise MemoryError("no memory for image 50")
        return read(source, index)

    monkeypatch.setattr(phantom.PhantomSource, "__getitem__", dies)
    start_time = time.monotonic()
    with pytest.raises(MemoryError, match="image 50"):
        run(tmp_path / "run")
    assert time.monotonic() - start_time < 60


@pytest.mark.parametrize("phase", ["start", "import", "compile", "evaluation", "testing"])
def test_sigterm_in_every_phase_has_one_status_and_loses_nothing(phase, finished, tmp_path):
    """Between steps and within a save: test_sigterm_saves_and_leaves_with_its_own_status."""
    workdir = tmp_path / "run"
    process = start(workdir, *tiny_flags(**IDS), "--config.log_every=1")
    marks = {"compile": "model:", "evaluation": "step 5/", "testing": "testing step"}
    if phase in marks:
        for line in process.stdout:
            if line.startswith(marks[phase]):
                break
    else:
        time.sleep({"start": 0.3, "import": 1.5}[phase])
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert "start again with the same command" in output
    if phase in ("start", "import", "compile"):
        written = [p.name for p in workdir.rglob("*") if p.is_file()] if workdir.exists() else []
        assert set(written) <= {".lock", ".holder"}
    run(workdir, **IDS)
    assert_same_run(workdir, finished)


def test_links_that_leave_the_source_are_refused(tmp_path):
    source = sources.octdl(tmp_path / "octdl")
    secret = tmp_path / "secret.jpg"
    shutil.move(source / "AMD" / "amd_000.jpg", secret)
    (source / "AMD" / "amd_000.jpg").symlink_to(secret)
    with pytest.raises(Mistake, match="amd_000.jpg: a link that leaves --source"):
        prepare.prepare("octdl", source, str(tmp_path / "data"), size=(32, 32))
    shutil.move(source / "AMD", tmp_path / "AMD")
    (source / "AMD").symlink_to(tmp_path / "AMD")
    with pytest.raises(Mistake, match="AMD is a link that leaves --source"):
        prepare.prepare("octdl", source, str(tmp_path / "data"), size=(32, 32))


def test_names_in_a_table_are_never_paths(tmp_path):
    source = sources.octdl(tmp_path / "octdl")
    table = source / "OCTDL_labels.csv"
    table.write_text(table.read_text().replace("amd_000", "../../secret", 1))
    (tmp_path.parent / "secret.jpg").write_bytes(sources.picture(1))
    with pytest.raises(Mistake) as caught:
        prepare.prepare("octdl", source, str(tmp_path / "data"), size=(32, 32))
    assert "../../secret" in str(caught.value) and "there is no such image" in str(caught.value)


def test_a_signal_while_the_finished_run_leaves(finished, tmp_path):
    """The interpreter gives signal handlers back while it ends, when the run is complete."""
    shutil.copytree(finished, tmp_path / "run")
    process = start(tmp_path / "run", *tiny_flags(**IDS))
    for line in process.stdout:
        if line.startswith("results:"):
            break
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.002)
    assert process.returncode == 0
