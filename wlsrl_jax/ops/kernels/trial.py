"""What a freshly compiled library is asked before it is used; run in a process of its own.

    python -m wlsrl_jax.ops.kernels.trial LIBRARY

ends with status 0 if every kind of kernel answers as XLA does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from wlsrl_jax.ops.kernels import calls
from wlsrl_jax.ops.kernels.build import register

_PADS = ((1, 1), (1, 1))


def check(library: str) -> None:
    """Compares the answers of a library with those of XLA.

    Raises:
      AssertionError: where they differ.
      OSError: if it cannot be opened.
      AttributeError: if it lacks a function.
    """
    register(library)
    for ours, plain in _answers():
        np.testing.assert_allclose(ours, plain, rtol=1e-3, atol=1e-3)


def _answers() -> Iterator[tuple[jax.Array, jax.Array]]:
    rng = np.random.default_rng(0)
    x, kernel, depthwise, g = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((2, 9, 11, 20), (3, 3, 20, 24), (3, 3, 1, 20), (2, 9, 11, 24))
    )
    plain, carry = jax.vjp(_conv, x, kernel)
    yield calls.conv(x, kernel, _PADS), plain
    yield calls.conv_kernel_gradient(x, g, kernel, _PADS), carry(g)[1]
    yield calls.conv(g, kernel, _PADS, transposed=True), carry(g)[0]
    a, b = jnp.linspace(-1, 1, 24), jnp.linspace(0, 1, 24)
    yield calls.conv_norm_relu(x, kernel, a, b, _PADS, False), jax.nn.relu(plain * a + b)
    plain, carry = jax.vjp(lambda x, k: _conv(x, k, 20), x, depthwise)
    yield calls.depthwise(x, depthwise, _PADS), plain
    yield calls.depthwise_kernel_gradient(x, x, depthwise, _PADS), carry(x)[1]
    mean, variance = calls.moments(x)
    yield mean, x.mean((0, 1, 2))
    yield variance, x.var((0, 1, 2))
    a, b = jnp.linspace(-1, 1, 20), jnp.linspace(0, 1, 20)
    plain, carry = jax.vjp(lambda x: jax.nn.relu(a * x + b), x)
    yield calls.norm_relu(x, a, b, False), plain
    zero = jnp.zeros(20)
    d = jnp.where(plain > 0, x, 0)
    yield calls.norm_relu_gradient(x, a, b, zero, zero, x, False), a * d
    first, second = calls.norm_relu_sums(x, a, b, zero, x, False)
    yield first, d.sum((0, 1, 2))
    yield second, (d * x).sum((0, 1, 2))


def _conv(x: jax.Array, kernel: jax.Array, groups: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), _PADS, dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )  # fmt: skip


if __name__ == "__main__":
    check(sys.argv[1])
