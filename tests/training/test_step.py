"""The step draws what is random from the seed and its own number."""

import jax
import numpy as np
import optax
import pytest

from wlsrl_jax.losses import make_loss
from wlsrl_jax.models.by_name import make_model
from wlsrl_jax.models.predictor import normalize
from wlsrl_jax.training import step as steps

HEADS = {"TO1": 4, "TO2": 2}


def test_dropout_is_of_the_seed_and_the_step():
    model = make_model("tiny", HEADS, dropout=0.5, conv_implementation="lax")
    losses = {task: make_loss("ce", num_classes=count) for task, count in HEADS.items()}
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 16, 16, 1), dtype=np.uint8)
    labels = {task: rng.integers(0, count, 8, dtype=np.int32) for task, count in HEADS.items()}
    optimizer = optax.sgd(0.1)
    state = steps.init_state(model, optimizer, (16, 16, 1), 0)
    found, expected = [], []
    for seed in (3, 4):
        step = jax.jit(
            steps.make_train_step(model, optimizer, losses, dict.fromkeys(HEADS, 1.0), seed=seed)
        )
        for number in (0, 1):
            at = state.replace(step=state.step + number)
            found.append(float(step(at, {"image": image, "labels": labels})[1]["loss"]))
            logits, _ = model.apply(
                {"params": state.params, "batch_stats": state.batch_stats},
                normalize(image),
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.fold_in(jax.random.key(seed), number)},
            )
            loss = optax.softmax_cross_entropy_with_integer_labels
            expected.append(float(sum(loss(logits[t], labels[t]).mean() for t in HEADS)))
    assert found == pytest.approx(expected, rel=1e-5)
    assert len({round(value, 4) for value in found}) == 4
