"""Batch normalisation, ReLU and pooling as one operation.

On a CPU these read and write memory far more than they compute, so they are done in as few
passes as possible: two forward, two backward, and where pooling follows, the activation at
full size is never written. Elsewhere XLA fuses the plain operations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from wlsrl_jax.ops import convolution as ops
from wlsrl_jax.ops.kernels import calls

Array = jax.Array


def max_pool(x: Array) -> Array:
    """2x2 max pooling with stride 2.

    Written as a maximum of four strided views, whose gradient is elementwise: XLA's
    select-and-scatter, the gradient of a windowed reduction, is slow on CPU.

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

    Written as maxima of strided views, as ``max_pool``.

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


def _activate(z: Array, pool: bool) -> Array:
    z = nn.relu(z)
    return max_pool(z) if pool else z


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _affine(x: Array, a: Array, b: Array) -> Array:
    return (_wide(x) * a + b).astype(x.dtype)


def _norm_relu(x: Array, a: Array, b: Array, pool: bool, native: bool) -> Array:
    def plain(x: Array, a: Array, b: Array) -> Array:
        return _activate(_affine(x, a, b), pool)

    if not native:
        return plain(x, a, b)
    return lax.platform_dependent(
        x, a, b, cpu=lambda x, a, b: calls.norm_relu(x, a, b, pool), default=plain
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def conv_norm_relu(
    x: Array, kernel: Array, a: Array, b: Array, pool: bool, implementation: str
) -> Array:
    """``relu(a conv(x) + b)``, pooled if asked for: inference, where a and b are known.

    Args:
      x: ``[N, H, W, in]``.
      kernel: ``[kh, kw, in, out]``.
      a: ``[out]`` float32.
      b: ``[out]`` float32.
      pool: whether 2x2 max pooling follows.
      implementation: see ``ops``.

    Returns:
      ``[N, H, W, out]``, or half of both sides, rounded up.
    """

    def plain(x: Array, kernel: Array, a: Array, b: Array) -> Array:
        return _separate(x, kernel, a, b, pool, implementation)

    if implementation != "auto" or not calls.usable(x, kernel):
        return plain(x, kernel, a, b)
    pads = ops.explicit_pads(x, kernel, 1, "SAME", 1)
    return lax.platform_dependent(
        x,
        kernel,
        a,
        b,
        cpu=lambda x, k, a, b: calls.conv_norm_relu(x, k, a, b, pads, pool),
        default=plain,
    )


def _separate(
    x: Array, kernel: Array, a: Array, b: Array, pool: bool, implementation: str
) -> Array:
    y = ops.conv2d(x, kernel, implementation=implementation)
    return _activate(_affine(y, a, b), pool)


def _conv_norm_relu_forward(
    x: Array, kernel: Array, a: Array, b: Array, pool: bool, implementation: str
) -> tuple[Array, Any]:
    return conv_norm_relu(x, kernel, a, b, pool, implementation), (x, kernel, a, b)


def _conv_norm_relu_backward(pool: bool, implementation: str, saved: Any, g: Array) -> Any:
    x, kernel, a, b = saved
    apart = functools.partial(_separate, pool=pool, implementation=implementation)
    return jax.vjp(apart, x, kernel, a, b)[1](g)


conv_norm_relu.defvjp(_conv_norm_relu_forward, _conv_norm_relu_backward)


def _plain_moments(x: Array) -> tuple[Array, Array]:
    mean = jnp.mean(_wide(x), (0, 1, 2))
    # E[x^2] - E[x]^2, as Flax: one pass over the data.
    return mean, jnp.maximum(jnp.mean(jnp.square(_wide(x)), (0, 1, 2)) - jnp.square(mean), 0.0)


def _moments(x: Array, native: bool) -> tuple[Array, Array]:
    if not native:
        return _plain_moments(x)
    return lax.platform_dependent(x, cpu=calls.moments, default=_plain_moments)


def _coefficients(
    mean: Array, var: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Array, Array]:
    inverse = lax.rsqrt(var + epsilon)
    a = scale * inverse
    return a, bias - mean * a, inverse


def _factors(
    x: Array, a: Array, mean: Array, inverse: Array, sum_d: Array, sum_dx: Array
) -> tuple[Array, Array, Array]:
    """Gives d(scale), then k0 and k1 of dx = a d - k1 x - k0, d being the gradient of a x + b."""
    count = x.size // x.shape[3]
    d_scale = sum_dx * inverse
    k1 = a * inverse * d_scale / count
    return d_scale, a * sum_d / count - mean * k1, k1


# --- followed by ReLU -------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _train(
    x: Array, scale: Array, bias: Array, epsilon: float, pool: bool, native: bool
) -> tuple[Array, Array, Array]:
    mean, var = _moments(x, native)
    a, b, _ = _coefficients(mean, var, scale, bias, epsilon)
    return _norm_relu(x, a, b, pool, native), mean, var


def _forward(
    x: Array, scale: Array, bias: Array, epsilon: float, pool: bool, native: bool
) -> tuple[Any, Any]:
    y, mean, var = _train(x, scale, bias, epsilon, pool, native)
    return (y, mean, var), (x, scale, bias, mean, var)


def _backward(epsilon: float, pool: bool, native: bool, saved: Any, gradients: Any) -> Any:
    x, scale, bias, mean, var = saved
    g = gradients[0]
    a, b, inverse = _coefficients(mean, var, scale, bias, epsilon)
    factors = functools.partial(_factors, x, a, mean, inverse)

    def cpu(x: Array, g: Array) -> tuple[Array, Array, Array]:
        sum_d, sum_dx = calls.norm_relu_sums(x, a, b, mean, g, pool)
        d_scale, k0, k1 = factors(sum_d, sum_dx)
        return calls.norm_relu_gradient(x, a, b, k0, k1, g, pool), d_scale, sum_d

    def plain(x: Array, g: Array) -> tuple[Array, Array, Array]:
        _, pull = jax.vjp(lambda z: _activate(z, pool), _affine(x, a, b))
        d = _wide(pull(g)[0])
        sum_d = jnp.sum(d, (0, 1, 2))
        d_scale, k0, k1 = factors(sum_d, jnp.sum(d * (_wide(x) - mean), (0, 1, 2)))
        return (a * d - k1 * _wide(x) - k0).astype(x.dtype), d_scale, sum_d

    return lax.platform_dependent(x, g, cpu=cpu, default=plain) if native else plain(x, g)


_train.defvjp(_forward, _backward)


# --- alone ------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _train_alone(
    x: Array, scale: Array, bias: Array, epsilon: float, native: bool
) -> tuple[Array, Array, Array]:
    mean, var = _moments(x, native)
    a, b, _ = _coefficients(mean, var, scale, bias, epsilon)
    return _affine(x, a, b), mean, var


def _forward_alone(
    x: Array, scale: Array, bias: Array, epsilon: float, native: bool
) -> tuple[Any, Any]:
    y, mean, var = _train_alone(x, scale, bias, epsilon, native)
    return (y, mean, var), (x, scale, bias, mean, var)


def _backward_alone(epsilon: float, native: bool, saved: Any, gradients: Any) -> Any:
    x, scale, bias, mean, var = saved
    g = gradients[0]
    a, _, inverse = _coefficients(mean, var, scale, bias, epsilon)

    def cpu(x: Array, g: Array) -> tuple[Array, Array]:
        # relu(0 x + 1) lets every gradient through.
        return calls.norm_relu_sums(x, jnp.zeros_like(a), jnp.ones_like(a), mean, g, False)

    def plain(x: Array, g: Array) -> tuple[Array, Array]:
        d = _wide(g)
        return jnp.sum(d, (0, 1, 2)), jnp.sum(d * (_wide(x) - mean), (0, 1, 2))

    sum_d, sum_dx = lax.platform_dependent(x, g, cpu=cpu, default=plain) if native else plain(x, g)
    d_scale, k0, k1 = _factors(x, a, mean, inverse, sum_d, sum_dx)
    return (a * _wide(g) - k1 * _wide(x) - k0).astype(x.dtype), d_scale, sum_d


_train_alone.defvjp(_forward_alone, _backward_alone)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015).

    Parameters and statistics have the names and shapes of ``nn.BatchNorm``'s. The gradient
    treats the batch statistics that are stored as constants, as every implementation does.

    Attributes:
      features: channels.
      momentum: of the running statistics.
      epsilon: added to the variance.
      dtype: of the result.
      implementation: see ``ops``.
      scale_init: start of the scale.
    """

    features: int
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    implementation: str = "auto"
    scale_init: Callable[..., Array] = nn.initializers.ones

    def setup(self) -> None:
        """Parameters and running statistics, ``[features]`` float32 each."""
        shape = (self.features,)
        self.scale = self.param("scale", self.scale_init, shape, jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        self.var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)

    def affine(self) -> tuple[Array, Array]:
        """Factors and offsets ``[features]`` of inference, from the running statistics."""
        mean, var = self.mean.value, self.var.value
        return _coefficients(mean, var, self.scale, self.bias, self.epsilon)[:2]

    def infer(self, x: Array) -> Array:
        """Inference: maps ``[B, H, W, features]`` to the same."""
        return _affine(x.astype(self.dtype), *self.affine())

    def __call__(self, x: Array) -> Array:
        """Training: maps ``[B, H, W, features]`` to the same.

        Under a jit over several devices the statistics are those of the global batch.
        """
        x = x.astype(self.dtype)
        y, mean, var = _train_alone(x, self.scale, self.bias, self.epsilon, self.native(x))
        self.follow(mean, var)
        return y

    def native(self, x: Array) -> bool:
        """Whether the compiled kernels compute it."""
        return self.implementation == "auto" and calls.usable(x)

    def follow(self, mean: Array, var: Array) -> None:
        """Moves the running statistics towards those ``[features]`` of a batch."""
        if not self.is_initializing():
            for running, new in ((self.mean, mean), (self.var, var)):
                kept = self.momentum * running.value
                running.value = kept + (1 - self.momentum) * lax.stop_gradient(new)


class BatchNormRelu(BatchNorm):
    """Batch normalisation, ReLU, and 2x2 max pooling if asked for.

    Attributes:
      pool: whether 2x2 max pooling follows.
    """

    pool: bool = False

    def infer(self, x: Array) -> Array:
        """Inference: maps ``[B, H, W, features]`` to the same, or to half of both sides."""
        return _activate(super().infer(x), self.pool)

    def __call__(self, x: Array) -> Array:
        """Training: maps ``[B, H, W, features]`` to the same, or to half of both sides."""
        x = x.astype(self.dtype)
        y, mean, var = _train(x, self.scale, self.bias, self.epsilon, self.pool, self.native(x))
        self.follow(mean, var)
        return y
