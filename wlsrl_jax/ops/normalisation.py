"""Batch normalisation alone, and with ReLU and pooling as one operation.

On a CPU these read and write memory far more than they compute, so they are done in as few
passes as possible: two forward, two backward, and where pooling follows, the activation at
full size is never written. Elsewhere XLA fuses the plain operations.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from wlsrl_jax.ops import convolution as ops
from wlsrl_jax.ops.kernels import calls
from wlsrl_jax.ops.pooling import max_pool

Array = jax.Array


def relu_pool(z: Array, pool: bool) -> Array:
    """ReLU of ``[B, H, W, C]``, and 2x2 max pooling if asked for."""
    z = jax.nn.relu(z)
    return max_pool(z) if pool else z


def affine(x: Array, a: Array, b: Array) -> Array:
    """``a x + b`` of ``[B, H, W, C]``, a and b ``[C]``, computed in float32 at least."""
    return (_wide(x) * a + b).astype(x.dtype)


def coefficients(
    mean: Array, var: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[Array, Array, Array]:
    """Batch normalisation as ``a x + b``: a, b and the inverse deviation, ``[C]`` each."""
    inverse = lax.rsqrt(var + epsilon)
    a = scale * inverse
    return a, bias - mean * a, inverse


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _native(x: Array, implementation: str) -> bool:
    return implementation == "auto" and calls.usable(x)


def _norm_relu(x: Array, a: Array, b: Array, pool: bool, implementation: str) -> Array:
    def plain(x: Array, a: Array, b: Array) -> Array:
        return relu_pool(affine(x, a, b), pool)

    if not _native(x, implementation):
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
    return relu_pool(affine(y, a, b), pool)


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


def _moments(x: Array, implementation: str) -> tuple[Array, Array]:
    if not _native(x, implementation):
        return _plain_moments(x)
    return lax.platform_dependent(x, cpu=calls.moments, default=_plain_moments)


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
def batch_norm_relu(
    x: Array, scale: Array, bias: Array, epsilon: float, pool: bool, implementation: str
) -> tuple[Array, Array, Array]:
    """Batch normalisation by the batch's own statistics (Ioffe and Szegedy 2015), then ReLU.

    The gradient treats the statistics that are returned as constants, for they are only stored.
    Under a jit over several devices they are those of the global batch.

    Args:
      x: ``[B, H, W, C]``.
      scale: ``[C]`` float32.
      bias: ``[C]`` float32.
      epsilon: added to the variance.
      pool: whether 2x2 max pooling follows.
      implementation: see ``ops``.

    Returns:
      (``[B, H, W, C]``, or half of both sides, rounded up; mean ``[C]``; variance ``[C]``).
    """
    mean, var = _moments(x, implementation)
    a, b, _ = coefficients(mean, var, scale, bias, epsilon)
    return _norm_relu(x, a, b, pool, implementation), mean, var


def _relu_forward(
    x: Array, scale: Array, bias: Array, epsilon: float, pool: bool, implementation: str
) -> tuple[Any, Any]:
    y, mean, var = batch_norm_relu(x, scale, bias, epsilon, pool, implementation)
    return (y, mean, var), (x, scale, bias, mean, var)


def _relu_backward(
    epsilon: float, pool: bool, implementation: str, saved: Any, gradients: Any
) -> Any:
    x, scale, bias, mean, var = saved
    g = gradients[0]
    a, b, inverse = coefficients(mean, var, scale, bias, epsilon)
    factors = functools.partial(_factors, x, a, mean, inverse)

    def cpu(x: Array, g: Array) -> tuple[Array, Array, Array]:
        sum_d, sum_dx = calls.norm_relu_sums(x, a, b, mean, g, pool)
        d_scale, k0, k1 = factors(sum_d, sum_dx)
        return calls.norm_relu_gradient(x, a, b, k0, k1, g, pool), d_scale, sum_d

    def plain(x: Array, g: Array) -> tuple[Array, Array, Array]:
        _, pull = jax.vjp(lambda z: relu_pool(z, pool), affine(x, a, b))
        d = _wide(pull(g)[0])
        sum_d = jnp.sum(d, (0, 1, 2))
        d_scale, k0, k1 = factors(sum_d, jnp.sum(d * (_wide(x) - mean), (0, 1, 2)))
        return (a * d - k1 * _wide(x) - k0).astype(x.dtype), d_scale, sum_d

    if not _native(x, implementation):
        return plain(x, g)
    return lax.platform_dependent(x, g, cpu=cpu, default=plain)


batch_norm_relu.defvjp(_relu_forward, _relu_backward)


# --- alone ------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(
    x: Array, scale: Array, bias: Array, epsilon: float, implementation: str
) -> tuple[Array, Array, Array]:
    """``batch_norm_relu`` without what follows: (``[B, H, W, C]``, mean, variance)."""
    mean, var = _moments(x, implementation)
    a, b, _ = coefficients(mean, var, scale, bias, epsilon)
    return affine(x, a, b), mean, var


def _alone_forward(
    x: Array, scale: Array, bias: Array, epsilon: float, implementation: str
) -> tuple[Any, Any]:
    y, mean, var = batch_norm(x, scale, bias, epsilon, implementation)
    return (y, mean, var), (x, scale, bias, mean, var)


def _alone_backward(epsilon: float, implementation: str, saved: Any, gradients: Any) -> Any:
    x, scale, bias, mean, var = saved
    g = gradients[0]
    a, _, inverse = coefficients(mean, var, scale, bias, epsilon)

    def cpu(x: Array, g: Array) -> tuple[Array, Array]:
        # relu(0 x + 1) lets every gradient through.
        return calls.norm_relu_sums(x, jnp.zeros_like(a), jnp.ones_like(a), mean, g, False)

    def plain(x: Array, g: Array) -> tuple[Array, Array]:
        d = _wide(g)
        return jnp.sum(d, (0, 1, 2)), jnp.sum(d * (_wide(x) - mean), (0, 1, 2))

    if _native(x, implementation):
        sum_d, sum_dx = lax.platform_dependent(x, g, cpu=cpu, default=plain)
    else:
        sum_d, sum_dx = plain(x, g)
    d_scale, k0, k1 = _factors(x, a, mean, inverse, sum_d, sum_dx)
    return (a * _wide(g) - k1 * _wide(x) - k0).astype(x.dtype), d_scale, sum_d


batch_norm.defvjp(_alone_forward, _alone_backward)
