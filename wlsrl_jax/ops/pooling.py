"""Max pooling as maxima of strided views, whose gradients are elementwise.

XLA's select-and-scatter, the gradient of a windowed reduction, is slow on CPU.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def max_pool(x: Array) -> Array:
    """2x2 max pooling with stride 2.

    Args:
      x: floating ``[B, H, W, C]``.

    Returns:
      ``[B, ceil(H / 2), ceil(W / 2), C]``; a last odd row or column stands alone.
    """
    batch, height, width, channels = x.shape
    if height % 2 or width % 2:
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    pairs = x.reshape(batch, x.shape[1] // 2, 2, x.shape[2] // 2, 2, channels)
    rows = jnp.maximum(pairs[:, :, 0], pairs[:, :, 1])
    return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])


def max_pool_3x3(x: Array) -> Array:
    """3x3 max pooling with stride 2 and one pixel of padding on every side.

    Args:
      x: floating ``[B, H, W, C]``.

    Returns:
      ``[B, ceil(H / 2), ceil(W / 2), C]``.
    """
    outside = jnp.array(-jnp.inf, x.dtype)
    for axis in (1, 2):
        even = lax.slice_in_dim(x, 0, None, 2, axis)
        odd = lax.slice_in_dim(x, 1, None, 2, axis)
        margins = [(0, 0, 0)] * 4
        lacks = even.shape[axis] - odd.shape[axis]
        margins[axis] = (0, lacks, 0)
        after = lax.pad(odd, outside, margins)
        margins[axis] = (1, lacks - 1, 0)
        before = lax.pad(odd, outside, margins)
        x = jnp.maximum(jnp.maximum(before, after), even)
    return x
