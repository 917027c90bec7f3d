import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wlsrl_jax.files import Mistake
from wlsrl_jax.training.optimizer import decay_mask, learning_rate_schedule, make_optimizer

PARAMS = {
    "dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
    "norm": {"scale": jnp.ones(3)},
}
ZEROS = jax.tree.map(jnp.zeros_like, PARAMS)


def one_update(name, grads, **options):
    optimizer = make_optimizer(name, lambda _: 0.1, **options)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    return updates


def test_warm_up_from_the_first_step_then_cosine():
    rate = learning_rate_schedule(0.2, 100, 10, 0.05)
    warm_up = [float(rate(k)) for k in range(11)]
    np.testing.assert_allclose(warm_up, [0.2 * (k + 1) / 11 for k in range(11)], rtol=1e-6)
    assert float(rate(55)) == pytest.approx((0.2 + 0.01) / 2)
    assert float(rate(100)) == pytest.approx(0.01)
    assert float(learning_rate_schedule(0.2, 100, 0, 0.0)(0)) == pytest.approx(0.2)
    with pytest.raises(Mistake, match="warmup_epochs gives 100"):
        learning_rate_schedule(0.2, 100, 100, 0.0)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_is_decoupled_and_spares_biases_and_scales(name):
    assert decay_mask(PARAMS) == {"dense": {"kernel": True, "bias": False},
                                  "norm": {"scale": False}}  # fmt: skip
    updates = one_update(name, ZEROS, weight_decay=0.3)
    np.testing.assert_allclose(updates["dense"]["kernel"], -0.1 * 0.3, rtol=1e-6)
    np.testing.assert_array_equal(updates["dense"]["bias"], 0)
    np.testing.assert_array_equal(updates["norm"]["scale"], 0)


def test_sgd_is_nesterov():
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    updates = one_update("sgd", grads, momentum=0.9)
    np.testing.assert_allclose(updates["dense"]["bias"], -0.1 * 1.9, rtol=1e-6)


def test_clipping_is_by_the_global_norm():
    grads = jax.tree.map(lambda p: 100.0 * jnp.ones_like(p), PARAMS)
    clipped = one_update("sgd", grads, momentum=0.0, clip_norm=1.0)
    assert float(optax.tree.norm(clipped)) == pytest.approx(0.1, rel=1e-5)
    free = one_update("sgd", grads, momentum=0.0, clip_norm=0.0)
    assert float(optax.tree.norm(free)) > 10


def test_unknown_name():
    with pytest.raises(ValueError, match="adamw, sgd"):
        make_optimizer("lion", lambda _: 0.1)
