import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import run
from wlsrl_jax.losses import LOSSES, make_loss
from wlsrl_jax.training.mixup import mixup

WIDTHS = {"TO1": 4, "TO2": 2}


def drawn(rows=6, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (rows, 5, 7, 1), dtype=np.uint8)
    labels = {t: rng.integers(0, c, rows).astype(np.int32) for t, c in WIDTHS.items()}
    return jnp.asarray(images), labels


def share_of(images, mixed):
    """The share of a row itself, found by least squares."""
    own, before = np.float64(images), np.roll(np.float64(images), 1, axis=0)
    direction = own - before
    return ((np.float64(mixed) - before) * direction).sum() / (direction**2).sum()


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_images_and_labels_are_mixed_by_one_share(alpha):
    images, labels = drawn()
    for seed in range(5):
        mixed, soft = mixup(images, labels, WIDTHS, alpha, jax.random.key(seed))
        share = share_of(images, mixed)
        assert 0.5 <= share <= 1.0 + 1e-6
        before = np.roll(np.float64(images), 1, axis=0)
        np.testing.assert_allclose(mixed, share * images + (1 - share) * before, atol=1e-3)
        for task, classes in WIDTHS.items():
            hot = np.eye(classes)[labels[task]]
            wanted = share * hot + (1 - share) * np.roll(hot, 1, axis=0)
            np.testing.assert_allclose(soft[task], wanted, atol=1e-5)


def test_shares_follow_the_distribution():
    images, labels = drawn(2)
    shares = [
        share_of(images, mixup(images, labels, WIDTHS, 1.0, jax.random.key(s))[0])
        for s in range(200)
    ]
    # max(u, 1 - u) of a uniform u is uniform in [0.5, 1].
    assert abs(np.mean(shares) - 0.75) < 0.04 and min(shares) < 0.53 and max(shares) > 0.97


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_loss_of_a_mixture_is_the_mixture_of_losses_and_a_missing_label_adds_nothing(name):
    images, labels = drawn(8, seed=1)
    labels["TO1"][3] = -1
    loss = make_loss(name, num_classes=4, class_weights=[1.0, 2.0, 0.5, 4.0], ordinal=True)

    def sums(labels):
        return [part.sum() for part in loss(logits, labels)]

    logits = jax.random.normal(jax.random.key(2), (8, 4))
    mixed, soft = mixup(images, labels, WIDTHS, 1.0, jax.random.key(3))
    share = share_of(images, mixed)
    own = sums(jnp.asarray(labels["TO1"]))
    other = sums(jnp.roll(jnp.asarray(labels["TO1"]), 1))
    for found, a, b in zip(sums(soft["TO1"]), own, other, strict=True):
        np.testing.assert_allclose(found, share * a + (1 - share) * b, rtol=2e-5)


def test_a_run_mixes_and_repeats_itself(tmp_path):
    for name, alpha in [("plain", 0.0), ("first", 0.4), ("second", 0.4)]:
        run(tmp_path / name, mixup=alpha)
    plain, first, second = (
        (tmp_path / name / "predictions.csv").read_bytes() for name in ("plain", "first", "second")
    )
    assert first == second != plain
