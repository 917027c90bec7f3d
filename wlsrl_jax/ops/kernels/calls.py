"""The kernels of ``cpu.cc`` as functions of float32 arrays; see there for what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wlsrl_jax.ops.kernels.build import load

Array = jax.Array
Pads = tuple[tuple[int, int], tuple[int, int]]


def usable(*arrays: Array) -> bool:
    """Whether the kernels can compute on these: float32 that is not empty, on one CPU device.

    With several devices XLA has to split the work, which it can do with its own operations
    only. Builds the kernels at the first call.
    """
    return (
        all(a.dtype == jnp.float32 and a.size for a in arrays)
        and jax.default_backend() == "cpu"
        and jax.device_count() == 1
        and load()
    )


def _call(name: str, shape: Sequence[int], *arrays: Array, **attributes: Any) -> Array:
    result = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
    return jax.ffi.ffi_call(f"wlsrl_{name}", result, vmap_method="sequential")(
        *arrays, **attributes
    )


def _output(x: Array, kernel: Array, pads: Pads) -> tuple[int, int, int]:
    (top, bottom), (left, right) = pads
    n, height, width, _ = x.shape
    kh, kw = kernel.shape[:2]
    return n, height + top + bottom - kh + 1, width + left + right - kw + 1


def _corner(pads: Pads) -> dict[str, np.int64]:
    return {"top": np.int64(pads[0][0]), "left": np.int64(pads[1][0])}


def conv(x: Array, kernel: Array, pads: Pads, transposed: bool = False) -> Array:
    """Standard convolution, stride 1; ``transposed``: with the mirror image of the kernel.

    The mirror image, with inputs and outputs exchanged, carries gradients back.
    """
    shape = (*_output(x, kernel, pads), kernel.shape[2 if transposed else 3])
    return _call("conv", shape, x, kernel, transposed=transposed, **_corner(pads))


def conv_norm_relu(x: Array, kernel: Array, a: Array, b: Array, pads: Pads, pool: bool) -> Array:
    """``norm_relu`` of ``conv`` in one pass."""
    n, height, width = _output(x, kernel, pads)
    sizes = {"height": np.int64(height), "width": np.int64(width)}
    shape = _pooled((n, height, width, kernel.shape[3]), pool)
    return _call(
        "conv_norm_relu", shape, x, kernel, *_rows(a, b), pool=pool, **sizes, **_corner(pads)
    )


def conv_kernel_gradient(x: Array, g: Array, kernel: Array, pads: Pads) -> Array:
    """Gradient of ``conv`` for its kernel."""
    return _call("conv_kernel_gradient", kernel.shape, x, g, **_corner(pads))


def depthwise_usable(kernel: Array) -> bool:
    """Whether the depthwise kernels have room for the rows that one output row reads."""
    return kernel.shape[0] <= 64


def depthwise(x: Array, kernel: Array, pads: Pads) -> Array:
    """Depthwise convolution, stride 1, one filter a channel."""
    shape = (*_output(x, kernel, pads), x.shape[3])
    return _call("depthwise", shape, x, kernel, **_corner(pads))


def depthwise_kernel_gradient(x: Array, g: Array, kernel: Array, pads: Pads) -> Array:
    """Gradient of ``depthwise`` for its kernel."""
    return _call("depthwise_kernel_gradient", kernel.shape, x, g, **_corner(pads))


def _rows(*vectors: Array) -> tuple[Array, ...]:
    return tuple(v.reshape(1, 1, 1, -1) for v in vectors)  # the kernels see four dimensions


def _pooled(shape: tuple[int, ...], pool: bool) -> tuple[int, ...]:
    n, height, width, channels = shape
    return (n, -(-height // 2), -(-width // 2), channels) if pool else shape


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and variance ``[C]`` over all pixels."""
    channels = x.shape[3]
    sums = _call("moments", (1, 1, 2, channels), x).reshape(2, channels) / (x.size // channels)
    return x[0, 0, 0] + sums[0], jnp.maximum(sums[1] - jnp.square(sums[0]), 0.0)


def norm_relu(x: Array, a: Array, b: Array, pool: bool) -> Array:
    """relu(a x + b), then 2x2 max pooling if ``pool``."""
    return _call("norm_relu", _pooled(x.shape, pool), x, *_rows(a, b), pool=pool)


def norm_relu_sums(
    x: Array, a: Array, b: Array, mean: Array, g: Array, pool: bool
) -> tuple[Array, Array]:
    """Sums ``[C]`` of d and of d (x - mean), d being ``g`` carried back to a x + b."""
    shape = (1, 1, 2, x.shape[3])
    first, second = _call("norm_relu_sums", shape, x, *_rows(a, b, mean), g, pool=pool)[0, 0]
    return first, second


def norm_relu_gradient(
    x: Array, a: Array, b: Array, k0: Array, k1: Array, g: Array, pool: bool
) -> Array:
    """``a d - k1 x - k0``, d being ``g`` carried back to a x + b."""
    return _call("norm_relu_gradient", x.shape, x, *_rows(a, b, k0, k1), g, pool=pool)
