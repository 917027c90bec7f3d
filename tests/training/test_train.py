import csv
import dataclasses
import json
import re
import shutil
import signal
import time

import jax
import numpy as np
import optax
import pytest

from tests import sources
from tests.tiny import (
    StopAfter,
    assert_same_run,
    read_predictions,
    run,
    start,
    start_verb,
    tiny_config,
    tiny_flags,
)  # fmt: skip
from wlsrl_jax.data import batches as pipeline
from wlsrl_jax.data.dataset import Dataset
from wlsrl_jax.data.prepare import __main__ as prepare
from wlsrl_jax.evaluate import external
from wlsrl_jax.evaluate.predict_split import predict_split
from wlsrl_jax.losses import make_loss
from wlsrl_jax.models.by_name import make_model
from wlsrl_jax.models.predictor import make_predict_step
from wlsrl_jax.runs import checkpoint
from wlsrl_jax.runs.open import load_trained
from wlsrl_jax.runtime.mesh import make_mesh
from wlsrl_jax.runtime.stop import PreemptedError, StopRequest
from wlsrl_jax.training import step as steps
from wlsrl_jax.training.loop import train
from wlsrl_jax.training.setup import build_run

HEADS = {"TO1": 4, "TO2": 2}


def test_a_run_leaves_what_the_readme_promises(finished):
    document = json.loads((finished / "metrics.json").read_text())
    assert document["phantom"] is True and "PHANTOM" in document["note"]
    for split, count in (("validation", 40), ("test", 50)):
        assert {t: v["count"] for t, v in document[split].items()} == {"TO1": count, "TO2": count}
    assert {"balanced_accuracy", "macro_f1", "auroc", "sensitivity"} <= set(document["test"]["TO1"])
    rows = read_predictions(finished)
    classes = ["CNV", "DME", "DRUSEN", "NORMAL"]
    assert list(rows[0]) == ["id", "group", "split", "TO1", "TO2", *(f"TO1/{c}" for c in classes),
                             "TO2/normal", "TO2/abnormal"]  # fmt: skip
    assert len({r["id"] for r in rows}) == len(rows) == 90
    for row in rows:
        assert sum(float(row[f"TO1/{c}"]) for c in classes) == pytest.approx(1, abs=1e-5)
        assert (row["TO1"] == "NORMAL") == (row["TO2"] == "normal")
    hits = [max(classes, key=lambda c: float(r[f"TO1/{c}"])) == r["TO1"]
            for r in rows if r["split"] == "test"]  # fmt: skip
    assert np.mean(hits) == pytest.approx(document["test"]["TO1"]["accuracy"])
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"train", "validation"}
    assert all(line["phantom"] for line in lines)
    assert list((finished / "tensorboard").glob("events*"))
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["versions"]["jax"] == jax.__version__
    data = json.loads((finished / "data.json").read_text())
    assert len(data["fingerprint"]) == 64 and data["phantom"] is True
    assert json.loads((finished / "config.json").read_text())["batch_size"] == 16


def test_selection_reads_validation_only(finished):
    document = json.loads((finished / "metrics.json").read_text())
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["score"] for line in lines if line["kind"] == "validation"}
    best = max(scores, key=lambda s: (scores[s], -s))
    assert document["selected"]["step"] == best
    assert checkpoint.best_entry(
        [{"step": 1, "score": 0.5}, {"step": 2, "score": 0.7}, {"step": 3, "score": 0.7}]
    ) == {"step": 2, "score": 0.7}


def test_every_epoch_sees_every_example_once(finished):
    lines = (finished / "example_ids.jsonl").read_text().splitlines()
    ids = [name for line in lines for name in json.loads(line)["ids"]]
    assert len(ids) == 2 * 96
    first, second = ids[:96], ids[96:]
    assert len(set(first)) == len(set(second)) == 96 and first != second


def test_a_finished_run_prints_its_results_again(finished, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    run(finished, log_example_ids=True)
    assert "finished run" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}


def test_another_config_is_refused_by_field(finished):
    with pytest.raises(ValueError, match=r"config\.loss\.smoothing: 0\.1 there, 0\.3 now"):
        run(finished, loss__smoothing=0.3)


def _size(tree):
    """Root mean square over all numbers of a tree."""
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)]
    return float(np.sqrt(np.mean(np.concatenate(leaves) ** 2)))


@pytest.mark.parametrize("name", ["oct", "fundus"])
def test_golden_numbers_of_four_train_steps(name):
    """Bit changes of jax or of this code show here first.

    A row per step: loss, gradient's norm, and root mean squares of the parameters, of their update,
    and of how far the average that is evaluated lies behind. No warm-up, for a learning rate of 0
    would hide the optimizer; weight decay, clipping and averaging strong enough to be seen.

    If a change was meant to alter training, run the test, check the new numbers by hand
    and put them in; say so in the changelog.
    """
    run_ = build_run(
        tiny_config(
            name,
            optimizer__warmup_epochs=0.0,
            optimizer__weight_decay=2.0,
            optimizer__clip_norm=0.5,
            optimizer__ema_decay=0.2,
            loss__by_task={"TO1": "", "TO2": "focal"} if name == "oct" else {},
        )
    )
    state = run_.init_state()
    step = jax.jit(
        steps.make_train_step(
            run_.model,
            run_.optimizer,
            run_.losses,
            dict(zip(run_.losses, (1.0, 0.5), strict=True)),
            seed=0,
            ema_decay=run_.config.optimizer.ema_decay,
        )
    )
    batches = pipeline.train_batches(
        run_.dataset.splits["train"], image_size=(32, 32), ranges=run_.augmentation,
        global_batch_size=16, seed=0,
    )  # fmt: skip
    stream = iter(batches)
    got = []
    for _ in range(4):
        before = state.params
        state, metrics = step(state, pipeline.device_batch(next(stream), run_.tasks))
        update = jax.tree.map(np.subtract, state.params, before)
        behind = jax.tree.map(np.subtract, state.ema["params"], state.params)
        sizes = [_size(tree) for tree in (state.params, update, behind)]
        got.append([float(metrics["loss"]), float(metrics["gradient_norm"]), *sizes])
    np.testing.assert_allclose(got, GOLDEN[name], rtol=1e-3)
    assert int(state.step) == 4


GOLDEN = {
    "oct": [
        [1.70025, 1.10084, 0.221814, 0.00210078, 0.000210077],
        [1.5856, 0.662859, 0.22119, 0.00150391, 0.000294833],
        [1.39366, 0.562545, 0.220617, 0.00129401, 0.000307375],
        [1.59369, 0.766306, 0.220088, 0.00108487, 0.000274366],
    ],
    "fundus": [
        [1.49934, 0.34893, 0.218993, 0.00207932, 0.000207931],
        [1.52838, 0.676751, 0.218411, 0.00156943, 0.000315227],
        [1.45097, 0.385893, 0.217871, 0.00129389, 0.000314851],
        [1.5571, 0.494461, 0.217369, 0.0010742, 0.000271755],
    ],
}


@pytest.mark.parametrize("variant", ["target", "prior"])
def test_accumulation_is_exact_for_the_weighted_loss(variant):
    # GroupNorm: BatchNorm's statistics are those of a micro-batch, as documented.
    model = make_model("tiny", HEADS, norm="group")
    losses = {
        t: make_loss("wlsrl", num_classes=c, class_weights=np.arange(1.0, c + 1), variant=variant)
        for t, c in HEADS.items()
    }
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 255, (8, 16, 16, 1), dtype=np.uint8),
        # Unlabelled rows sit unevenly in the micro-batches.
        "labels": {"TO1": np.array([0, 1, -1, 3, -1, -1, -1, 2], np.int32),
                   "TO2": np.array([0, 1, 1, -1, 1, 0, 1, 1], np.int32)},
    }  # fmt: skip
    optimizer = optax.sgd(0.1)
    state = steps.init_state(model, optimizer, (16, 16, 1), 0)
    results = []
    for parts in (1, 2, 4):
        step = jax.jit(
            steps.make_train_step(
                model, optimizer, losses, {"TO1": 1.0, "TO2": 0.5}, seed=0, accumulation=parts
            )
        )
        results.append(step(state, batch))
    for other, metrics in results[1:]:
        np.testing.assert_allclose(metrics["loss"], results[0][1]["loss"], rtol=1e-5)
        for a, b in zip(jax.tree.leaves(other.params), jax.tree.leaves(results[0][0].params)):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_task_of_weight_zero_trains_like_one_that_is_not_there():
    model = make_model("tiny", HEADS)
    losses = {t: make_loss("wlsrl", num_classes=c) for t, c in HEADS.items()}
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (8, 16, 16, 1), dtype=np.uint8)
    states = []
    for labels in (np.zeros(8, np.int32), np.ones(8, np.int32)):
        batch = {"image": image, "labels": {"TO1": np.arange(8, dtype=np.int32) % 4, "TO2": labels}}
        optimizer = optax.adam(0.01)
        state = steps.init_state(model, optimizer, (16, 16, 1), 0)
        step = jax.jit(steps.make_train_step(model, optimizer, losses, {"TO1": 1.0, "TO2": 0.0},
                                             seed=0))  # fmt: skip
        states.append(step(state, batch)[0])
    for a, b in zip(*map(jax.tree.leaves, states)):
        np.testing.assert_array_equal(a, b)


def test_evaluation_counts_once_at_any_batch_size(finished):
    config = tiny_config()
    run_ = build_run(config)
    variables = load_trained(finished).variables
    predict = jax.jit(make_predict_step(run_.model))
    source = run_.dataset.splits["test"]
    results = [
        predict_split(predict, variables, source, run_.tasks, image_size=(32, 32),
                      batch_size=size, mesh=make_mesh())
        for size in (7, 32, len(source))
    ]  # fmt: skip
    for p in results:
        assert p.ids.tolist() == [source[i]["id"] for i in range(len(source))]
        for task in HEADS:
            np.testing.assert_allclose(
                p.probabilities[task], results[0].probabilities[task], atol=1e-5
            )
            np.testing.assert_array_equal(
                p.probabilities[task].argmax(1), results[0].probabilities[task].argmax(1)
            )
    stored = [r for r in read_predictions(finished) if r["split"] == "test"]
    got = results[0].probabilities["TO1"][:, 0]
    np.testing.assert_allclose([float(r["TO1/CNV"]) for r in stored], got, atol=1e-5)


def test_device_counts_give_the_same_run(tmp_path):
    runs = {}
    for devices in (1, 2, 8):
        workdir = tmp_path / str(devices)
        env = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        flags = tiny_flags(log_example_ids=True, log_every=1)
        process = start(workdir, *flags, env=env)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0 and f"devices: {devices} x" in output, output
        losses = [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").open()
                  if '"train"' in line]  # fmt: skip
        runs[devices] = ((workdir / "example_ids.jsonl").read_text(), losses,
                         read_predictions(workdir))  # fmt: skip
    ids, losses, rows = runs[1]
    for other_ids, other_losses, other_rows in (runs[2], runs[8]):
        assert other_ids == ids
        np.testing.assert_allclose(other_losses, losses, rtol=1e-3)
        assert [r["id"] for r in other_rows] == [r["id"] for r in rows]
        for column in ("TO1/CNV", "TO2/normal"):
            np.testing.assert_allclose(
                [float(r[column]) for r in other_rows], [float(r[column]) for r in rows], atol=5e-3
            )


def test_checkpoint_of_one_device_goes_on_with_four(tmp_path):
    """The step count and the example ids go on where one device stopped."""
    config = tiny_config(log_example_ids=True)
    stop = StopAfter(10)
    with pytest.raises(PreemptedError):
        train(config, tmp_path / "a", stop)
    env = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    process = start(tmp_path / "a", *tiny_flags(log_example_ids=True), env=env)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "going on from step" in output and "devices: 4 x" in output
    lines = [json.loads(line) for line in (tmp_path / "a" / "example_ids.jsonl").open()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    ids = [name for line in lines for name in line["ids"]]
    assert len(set(ids[:96])) == len(set(ids[96:])) == 96


@pytest.mark.parametrize("looks", [1, 2, 5, 9, 14])
def test_stopped_anywhere_it_ends_with_the_same_bits(looks, finished, tmp_path):
    # Looks fall between steps, and between the batches of an evaluation.
    workdir = tmp_path / "run"
    with pytest.raises(PreemptedError, match="SIGTERM"):
        train(tiny_config(log_example_ids=True), workdir, StopAfter(looks))
    run(workdir, log_example_ids=True)
    assert_same_run(workdir, finished)


def test_sigterm_saves_and_leaves_with_its_own_status(finished, tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir, *tiny_flags(log_example_ids=True, log_every=1))
    for line in process.stdout:
        if re.match(r"step [3-9]/", line):
            process.send_signal(signal.SIGTERM)
            break
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert "saved step" in output and "same command" in output
    run(workdir, log_example_ids=True)
    assert_same_run(workdir, finished)


@pytest.mark.parametrize("looks", [4, 9])
def test_balanced_sampling_goes_on_where_it_was_stopped(looks, balanced, tmp_path):
    with pytest.raises(PreemptedError):
        train(BALANCED, tmp_path, StopAfter(looks))
    run_again = train(BALANCED, tmp_path, StopRequest())
    assert_same_run(balanced, tmp_path)
    assert run_again["test"]["TO1"]["count"] == 50


BALANCED = tiny_config(data__sampling="balanced", log_example_ids=True)


@pytest.fixture(scope="module")
def balanced(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("balanced")
    train(BALANCED, workdir, StopRequest())
    return workdir


def test_balanced_sampling_shows_each_class_equally_often(balanced):
    data = json.loads((balanced / "data.json").read_text())
    assert set(data["seen_in_epoch"].values()) == {24}
    assert data["class_weights"] == {"TO1": [1.0] * 4, "TO2": pytest.approx([2, 2 / 3])}
    labels = build_run(BALANCED).dataset.splits["train"].labels()
    lines = (balanced / "example_ids.jsonl").read_text().splitlines()
    shown = [int(name[-6:]) for line in lines for name in json.loads(line)["ids"]]
    for epoch in (shown[:96], shown[96:]):
        assert np.bincount(labels[epoch]).tolist() == [24] * 4


def test_a_run_from_before_a_field_goes_on_and_evaluates(tmp_path, finished, capsys):
    config = tiny_config(log_example_ids=True)
    with pytest.raises(PreemptedError):
        train(config, tmp_path, StopAfter(4))
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    del saved["data"]["sampling"]
    path.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="sampling: 'natural' there, 'sqrt' now"):
        run(tmp_path, log_example_ids=True, data__sampling="sqrt")
    train(config, tmp_path, StopRequest())
    assert_same_run(finished, tmp_path)
    assert "sampling" not in json.loads(path.read_text())["data"]
    external.evaluate_run(tmp_path, StopRequest())
    assert "test" in capsys.readouterr().out


def test_damaged_newest_checkpoint_is_reported_and_the_one_before_used(finished, tmp_path, caplog):
    workdir = tmp_path / "run"
    with pytest.raises(PreemptedError):
        train(tiny_config(log_example_ids=True), workdir, StopAfter(15))
    numbers = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    assert len(numbers) >= 2
    for file in (workdir / "checkpoints" / str(numbers[-1]) / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    run(workdir, log_example_ids=True)
    assert f"{numbers[-1]} cannot be read" in caplog.text
    assert_same_run(workdir, finished)


@pytest.mark.parametrize("item", ["state", "run"])
def test_damage_to_the_selected_checkpoint_is_made_good(item, finished, tmp_path, caplog):
    """The newest checkpoint is the selected one, and whichever part of it is damaged."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    (workdir / "metrics.json").unlink()
    assert json.loads((finished / "metrics.json").read_text())["selected"]["step"] == 12
    for file in (workdir / "checkpoints" / "12" / item).rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:10])
    run(workdir, log_example_ids=True)
    assert "12 cannot be read" in caplog.text
    assert [p.name for p in (workdir / "damaged-checkpoints").iterdir()] == ["12-0"]
    assert_same_run(workdir, finished)


def test_only_complete_checkpoints_replace_others(tmp_path, monkeypatch):
    """A kill while the newest is being written leaves the one before."""
    seen = []
    delete = checkpoint.ocp.CheckpointManager.delete

    def watched(manager, step):
        seen.append((step, sorted(manager.all_steps()), [
            p.name for p in manager.directory.iterdir() if "tmp" in p.name]))  # fmt: skip
        delete(manager, step)

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, "delete", watched)
    run(tmp_path / "run", checkpoint__keep=1)
    assert seen
    for step, complete, in_flight in seen:
        assert max(complete) > step and not in_flight


def test_stopped_in_the_last_evaluation_the_results_name_the_right_checkpoint(finished, tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(PreemptedError):
        train(tiny_config(log_example_ids=True), workdir, StopAfter(17))
    run(workdir, log_example_ids=True)
    assert_same_run(workdir, finished)
    external.evaluate_run(workdir, StopRequest())
    again, first = (json.loads((workdir / folder / "metrics.json").read_text())["test"]
                    for folder in ("evaluation-phantom-test", "."))  # fmt: skip
    assert again == first
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    steps_ = [line["step"] for line in lines if line["kind"] == "validation"]
    assert steps_ == [6, 12]


def test_evaluated_and_continued_on_other_device_counts(finished, tmp_path):
    env = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    workdir = shutil.copytree(finished, tmp_path / "one")
    process = start_verb("evaluate", f"--workdir={workdir}", env=env)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    there = json.loads((workdir / "evaluation-phantom-test" / "metrics.json").read_text())
    here = json.loads((finished / "metrics.json").read_text())
    for task in HEADS:
        assert there["test"][task]["accuracy"] == here["test"][task]["accuracy"]
    process = start(tmp_path / "four", *tiny_flags(), env=env)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    document = external.evaluate_run(tmp_path / "four", StopRequest())
    theirs = json.loads((tmp_path / "four" / "metrics.json").read_text())
    assert document["test"]["TO1"]["accuracy"] == theirs["test"]["TO1"]["accuracy"]
    with pytest.raises(PreemptedError):
        train(tiny_config(init_from=str(tmp_path / "four"), seed=3), tmp_path / "b", StopAfter(2))


def test_a_task_that_is_not_trained_selects_nothing(tmp_path):
    document = run(tmp_path / "run", task_weights={"TO1": 1.0, "TO2": 0.0})
    history = json.loads((tmp_path / "run" / "validation.json").read_text())
    for entry in history:
        values = entry["results"]["TO1"]
        parts = [v for v in (values["macro_f1"], values["auroc"]) if v is not None]
        assert entry["score"] == pytest.approx(np.mean(parts))
    assert "not trained" in document["undefined"]["test"]["TO2"]["head"]
    again = external.evaluate_run(tmp_path / "run", StopRequest())
    assert again["undefined"]["test"] == document["undefined"]["test"]


def test_a_set_without_a_split_is_refused_at_once(monkeypatch):
    from wlsrl_jax.training import setup as setup_run

    load = setup_run.load_dataset

    def without_test(*arguments):
        found = load(*arguments)
        return dataclasses.replace(found, splits={k: found.splits[k] for k in ("train",)})

    monkeypatch.setattr(setup_run, "load_dataset", without_test)
    with pytest.raises(ValueError, match="without a validation and a test split"):
        build_run(tiny_config())


def test_steps_of_a_run_are_not_rounded_up():
    config = tiny_config(data__phantom__train=62, batch_size=30, num_epochs=30.0)
    assert build_run(config).total_steps == 62


def test_nothing_readable_is_an_error_not_a_fresh_start(tmp_path):
    workdir = tmp_path / "run"
    with pytest.raises(PreemptedError):
        train(tiny_config(), workdir, StopAfter(8))
    for step in (workdir / "checkpoints").iterdir():
        shutil.rmtree(step / "state")
    with pytest.raises(ValueError, match="none of the checkpoints"):
        run(workdir)


def test_a_workdir_in_use_is_refused(tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir, *tiny_flags(num_epochs=500.0))
    try:
        deadline = time.monotonic() + 60
        while not (workdir / "config.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        with pytest.raises(ValueError, match="in use by another run"):
            run(workdir, num_epochs=500.0)
    finally:
        process.kill()
        process.communicate()


def test_init_from_takes_what_fits_and_names_the_rest(finished, tmp_path, capsys):
    config = tiny_config("fundus", init_from=str(finished))
    with pytest.raises(PreemptedError):
        train(config, tmp_path / "run", StopAfter(2))
    out = capsys.readouterr().out
    assert "head_TF2" in out and "starts afresh" in out
    fresh = build_run(tiny_config("oct", seed=9)).init_state()
    theirs = load_trained(finished).variables
    merged, left = checkpoint.transfer(fresh.params, theirs["params"])
    assert not left
    for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(theirs["params"])):
        np.testing.assert_array_equal(a, b)


def test_init_from_nowhere_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"config\.init_from=.*none: .*no such directory"):
        run(tmp_path / "a", init_from=str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"config\.init_from=.*holds no checkpoint"):
        run(tmp_path / "a", init_from=str(tmp_path))
    assert not (tmp_path / "a" / "config.json").exists()  # the corrected command may follow


def test_data_that_changed_since_the_start_is_refused(tmp_path):
    with pytest.raises(PreemptedError):
        train(tiny_config(), tmp_path / "run", StopAfter(4))
    path = tmp_path / "run" / "data.json"
    path.write_text(path.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    with pytest.raises(ValueError, match="was started on another version of phantom"):
        run(tmp_path / "run")


def test_a_workdir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--workdir=.*file cannot be made"):
        run(tmp_path / "file")


def test_external_evaluation_reads_other_labels(finished, capsys):
    document = external.evaluate_run(finished, StopRequest(), dataset="phantom", split="validation")
    own = json.loads((finished / "metrics.json").read_text())
    assert document["validation"]["TO1"]["accuracy"] == own["validation"]["TO1"]["accuracy"]
    assert (finished / "evaluation-phantom-validation" / "predictions.csv").exists()
    with pytest.raises(ValueError, match="holds no finished run"):
        external.evaluate_run(finished / "tensorboard", StopRequest())
    with pytest.raises(ValueError, match="train, validation, test"):
        external.evaluate_run(finished, StopRequest(), split="other")


def test_a_fold_is_of_the_own_data_set_alone(tmp_path):
    """A run of a fold is evaluated again on that fold, and on another set as that is divided."""
    for name, folds in (("octdl", 3), ("oct2017", 0)):
        source = getattr(sources, name)(tmp_path / name)
        prepare.prepare(name, source, str(tmp_path / "data"), size=(32, 32), folds=folds)
    where = {"data__dataset": "octdl", "data__data_dir": str(tmp_path / "data")}
    config = tiny_config(**where, data__fold=1)
    train(config, tmp_path / "run", StopRequest())
    manifest = json.loads((tmp_path / "data" / "octdl" / "1.0.0" / "manifest.json").read_text())
    in_test = {i["id"] for i in manifest["images"] if i["folds"][1] == "test"}
    with (tmp_path / "run" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {r["id"] for r in rows if r["split"] == "test"} == in_test
    own = external.evaluate_run(tmp_path / "run", StopRequest())
    saved = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert own["test"]["TO1"]["count"] == len(in_test)
    assert own["test"]["TO1"]["log_loss"] == saved["test"]["TO1"]["log_loss"]
    theirs = {"CNV": "AMD", "DRUSEN": "AMD", "NORMAL": "NO"}
    other = external.evaluate_run(
        tmp_path / "run", StopRequest(), dataset="oct2017", label_map=theirs
    )
    assert "TO1" in other["test"]


def test_evaluating_on_a_new_division_of_the_own_data_is_refused(finished, monkeypatch):
    load = external.load_dataset
    anew = lambda *args: dataclasses.replace(load(*args), fingerprint="another")  # noqa: E731
    monkeypatch.setattr(external, "load_dataset", anew)
    with pytest.raises(ValueError, match="has been prepared anew since"):
        external.evaluate_run(finished, StopRequest())


def test_label_maps(finished):
    saved = json.loads((finished / "data.json").read_text())
    octdl = Dataset("octdl", "oct", ("AMD", "DME", "NO", "VID"), "NO", {}, "", False)
    tasks, unmapped = external.map_tasks(saved, octdl, external.parse_label_map("AMD:CNV"))
    by_name = {t.name: t for t in tasks}
    assert by_name["TO1"].label_map == (0, 1, 3, -1)
    assert by_name["TO2"].label_map == (1, 1, 0, 1)
    assert unmapped == ["VID"]
    with pytest.raises(ValueError, match="AMD:CVN"):
        external.map_tasks(saved, octdl, {"AMD": "CVN"})
    # A class that is mapped to the healthy one is healthy in both tasks.
    tasks, _ = external.map_tasks(saved, octdl, {"AMD": "NORMAL"})
    by_name = {t.name: t for t in tasks}
    assert by_name["TO1"].label_map[0] == 3 and by_name["TO2"].label_map[0] == 0
    with pytest.raises(ValueError, match="THEIRS:OURS"):
        external.parse_label_map("AMD")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss__name": "mse"}, "choose one of wlsrl"),
        ({"loss__name": "sord"}, "TO1.*ordered classes"),
        ({"loss__smoothing": 1.5}, "smoothing"),
        ({"loss__class_weights": "cubic"}, "none, inverse"),
        ({"optimizer__name": "lion"}, "adamw, sgd"),
        ({"optimizer__warmup_epochs": 9.0}, "warmup_epochs"),
        ({"optimizer__accumulation": 3}, "accumulation=3"),
        ({"model__preset": "huge"}, "tiny, small"),
        ({"model__dtype": "float16"}, "float32, bfloat16"),
        ({"mesh__fsdp": 3}, "fsdp=3"),
        ({"task_weights": {"TO1": 0.0, "TO2": 0.0}}, "task_weights"),
        ({"allow_missing_classes": False, "data__phantom__train": 3}, "no training example of"),
    ],
)
def test_wrong_fields_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        build_run(tiny_config(**changes))


@pytest.mark.parametrize(
    ("sampling", "shares"), [("balanced", [0.25] * 4), ("sqrt", None), ("natural", None)]
)
def test_class_weights_are_those_of_what_is_seen(sampling, shares):
    run_ = build_run(tiny_config(data__sampling=sampling, data__phantom__train=400))
    counts = np.bincount(run_.dataset.splits["train"].labels())
    if shares is None:
        raw = np.sqrt(counts) if sampling == "sqrt" else counts
        shares = raw / raw.sum()
    shares = np.asarray(shares)
    seen = np.array(list(run_.seen_in_epoch.values()))
    assert seen.sum() == 400 and (np.abs(seen - 400 * shares) < 1).all()
    near = {"rel": 0.02}  # an epoch shows whole images
    assert run_.class_weights["TO1"] == pytest.approx(1 / (4 * shares), **near)
    normal = shares[3]
    expected = [1 / (2 * normal), 1 / (2 * (1 - normal))]
    assert run_.class_weights["TO2"] == pytest.approx(expected, **near)


def test_other_options_train(tmp_path):
    document = run(tmp_path / "a", "fundus", model__dtype="bfloat16", optimizer__name="sgd",
                   optimizer__accumulation=2, optimizer__ema_decay=0.0, num_epochs=1.0,
                   optimizer__warmup_epochs=0.0,
                   loss__by_task={"TF1": "ce", "TF2": "sord"})  # fmt: skip
    assert "qwk" in document["test"]["TF2"]
