import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from wlsrl_jax.ops.pooling import max_pool, max_pool_3x3


def images(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 5, 7, 2), (1, 1, 1, 1)])
def test_max_pool(shape):
    x = images(shape)
    padded = np.full((shape[0], -(-shape[1] // 2) * 2, -(-shape[2] // 2) * 2, shape[3]), -np.inf)
    padded[:, : shape[1], : shape[2]] = x
    views = [padded[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    np.testing.assert_array_equal(max_pool(x), np.maximum.reduce(views).astype(np.float32))


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 5, 7, 2), (2, 1, 4, 1), (1, 1, 1, 1)])
def test_max_pool_3x3(shape):
    x = images(shape)

    def plain(x):
        margins = ((0, 0), (1, 1), (1, 1), (0, 0))
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), margins)

    ours, theirs = (jax.vjp(f, x) for f in (max_pool_3x3, plain))
    np.testing.assert_array_equal(ours[0], theirs[0])
    g = jnp.cos(jnp.arange(ours[0].size, dtype=jnp.float32)).reshape(ours[0].shape)
    np.testing.assert_allclose(ours[1](g)[0], theirs[1](g)[0], atol=1e-6)
