"""What a config says reaches the training, the averages and the evaluation."""

import json

import jax
import numpy as np
import pytest

from tests.tiny import StopAfter, read_predictions, state_of, tiny_config
from wlsrl_jax.data import batches as pipeline
from wlsrl_jax.metrics import evaluate_task, selection_score
from wlsrl_jax.models.predictor import make_predict_step
from wlsrl_jax.runs.open import load_trained
from wlsrl_jax.runtime.stop import PreemptedError, StopRequest
from wlsrl_jax.tasks import task_labels
from wlsrl_jax.training import step as steps
from wlsrl_jax.training.loop import train
from wlsrl_jax.training.setup import build_run

SIZE = (32, 32)


def test_a_run_is_the_steps_of_its_config_by_hand(tmp_path):
    """Every value here is another than the default, so that one which is dropped is seen."""
    config = tiny_config(
        seed=7,
        task_weights={"TO1": 1.0, "TO2": 0.25},
        mixup=0.4,
        model__dropout=0.3,
        optimizer__warmup_epochs=0.0,
        optimizer__accumulation=2,
        optimizer__ema_decay=0.15,
        eval__mirror=True,
        data__sampling="sqrt",
        num_epochs=0.5,
    )
    document = train(config, tmp_path, StopRequest())

    run = build_run(config)
    state = steps.init_state(run.model, run.optimizer, (*SIZE, 1), 7)
    step = jax.jit(
        steps.make_train_step(
            run.model,
            run.optimizer,
            run.losses,
            {"TO1": 1.0, "TO2": 0.25},
            seed=7,
            ema_decay=0.15,
            accumulation=2,
            mixup_alpha=0.4,
        )
    )
    batches = pipeline.train_batches(
        run.dataset.splits["train"], image_size=SIZE, ranges=run.augmentation,
        global_batch_size=16, seed=7, sampling="sqrt",
    )  # fmt: skip
    stream = iter(batches)
    for _ in range(3):
        state, _ = step(state, pipeline.device_batch(next(stream), run.tasks))
    found = state_of(tmp_path)
    by_hand = {"params": state.params, "batch_stats": state.batch_stats, "ema": state.ema}
    for path, leaf in jax.tree_util.tree_leaves_with_path(by_hand):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(found[name], leaf, rtol=1e-5, atol=1e-6, err_msg=name)

    predict = jax.jit(make_predict_step(run.model))
    for split in ("validation", "test"):
        source = run.dataset.splits[split]
        images = np.stack([source[k]["image"] for k in range(len(source))])
        own, other = predict(state.ema, images), predict(state.ema, images[:, :, ::-1])
        expected = {t.name: np.asarray(own[t.name] + other[t.name]) / 2 for t in run.tasks}
        rows = [r for r in read_predictions(tmp_path) if r["split"] == split]
        for task in run.tasks:
            written = [[float(r[f"{task.name}/{c}"]) for c in task.classes] for r in rows]
            np.testing.assert_allclose(written, expected[task.name], atol=1e-5)
        if split == "validation":
            labels = task_labels(run.tasks, source.labels())
            scores = {
                t.name: evaluate_task(t, labels[t.name], expected[t.name])[0] for t in run.tasks
            }
            assert document["selected"]["score"] == pytest.approx(selection_score(scores))


def test_the_test_split_is_opened_with_the_selected_checkpoint_not_the_last(tmp_path):
    config = tiny_config()
    with pytest.raises(PreemptedError):
        train(config, tmp_path, StopAfter(13))  # behind the first of two evaluations
    path = tmp_path / "validation.json"
    (first,) = json.loads(path.read_text())
    path.write_text(json.dumps([{**first, "score": 0.999}]))
    document = train(config, tmp_path, StopRequest())
    assert document["selected"]["step"] == first["step"] == 6

    run = load_trained(tmp_path)
    last = state_of(tmp_path)
    for path, leaf in jax.tree_util.tree_leaves_with_path({"ema": run.variables}):
        if "kernel" in (name := jax.tree_util.keystr(path)):
            assert (last[name] != leaf).any(), name
    source = build_run(config).dataset.splits["test"]
    expected = run.predictor()(np.stack([source[k]["image"] for k in range(len(source))]))
    rows = [r for r in read_predictions(tmp_path) if r["split"] == "test"]
    for task in run.tasks:
        written = [[float(r[f"{task.name}/{c}"]) for c in task.classes] for r in rows]
        np.testing.assert_allclose(written, expected[task.name], atol=1e-6)
