"""Layers that trunks are made of."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from wlsrl_jax import ops
from wlsrl_jax.files import Mistake
from wlsrl_jax.ops import normalisation

_kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
# Fan-out of a depthwise kernel counts all channels as outputs of one filter; each has its own.
_depthwise_init = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal")


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015); ReLU and 2x2 max pooling if asked for.

    Parameters and statistics have the names and shapes of ``nn.BatchNorm``'s.

    Attributes:
      features: channels.
      relu: whether ReLU follows.
      pool: whether 2x2 max pooling follows the ReLU.
      momentum: of the running statistics.
      epsilon: added to the variance.
      scale_init: start of the scale.
      dtype: of the result.
      implementation: see ``ops``.
    """

    features: int
    relu: bool = False
    pool: bool = False
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Callable[..., jax.Array] = nn.initializers.ones
    dtype: Any = jnp.float32
    implementation: str = "auto"

    def setup(self) -> None:
        """Parameters and running statistics, ``[features]`` float32 each."""
        shape = (self.features,)
        self.scale = self.param("scale", self.scale_init, shape, jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        self.var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """Factors and offsets ``[features]`` of inference, from the running statistics."""
        mean, var = self.mean.value, self.var.value
        return normalisation.coefficients(mean, var, self.scale, self.bias, self.epsilon)[:2]

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps ``[B, H, W, features]`` to the same, or to half of both sides.

        Args:
          x: the input.
          train: use the statistics of the batch, and move the running ones towards them.
        """
        x = x.astype(self.dtype)
        if not train:
            y = normalisation.affine(x, *self.affine())
            return normalisation.relu_pool(y, self.pool) if self.relu else y
        start = (self.scale, self.bias, self.epsilon)
        if self.relu:
            y, mean, var = normalisation.batch_norm_relu(x, *start, self.pool, self.implementation)
        else:
            y, mean, var = normalisation.batch_norm(x, *start, self.implementation)
        if not self.is_initializing():
            for running, new in ((self.mean, mean), (self.var, var)):
                kept = self.momentum * running.value
                running.value = kept + (1 - self.momentum) * lax.stop_gradient(new)
        return y


class Conv(nn.Module):
    """Convolution without bias, padded by half its kernel; parameters as ``nn.Conv``'s.

    Attributes:
      features: output channels; for a depthwise convolution, those of the input.
      kernel_size: side of the square kernel.
      depthwise: one filter a channel instead of a full mix.
      stride: step in both directions.
      dtype: of the computation; parameters stay float32.
      implementation: see ``ops``.
    """

    features: int
    kernel_size: int = 3
    depthwise: bool = False
    stride: int = 1
    dtype: Any = jnp.float32
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array, norm: BatchNorm | None = None) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H', W', features]``, H' = ceil(H / stride).

        Args:
          x: the input.
          norm: what follows in inference; see ``conv_norm``.
        """
        inputs = 1 if self.depthwise else x.shape[-1]
        shape = (self.kernel_size, self.kernel_size, inputs, self.features)
        init = _depthwise_init if self.depthwise else _kernel_init
        kernel = self.param("kernel", init, shape, jnp.float32).astype(self.dtype)
        x = x.astype(self.dtype)
        if norm is not None and norm.relu and self.stride == 1 and not self.depthwise:
            a, b = norm.affine()
            return normalisation.conv_norm_relu(x, kernel, a, b, norm.pool, self.implementation)
        apply = ops.depthwise_conv2d if self.depthwise else ops.conv2d
        margin = (self.kernel_size // 2, (self.kernel_size - 1) // 2)
        y = apply(
            x,
            kernel,
            stride=self.stride,
            padding=(margin, margin) if self.stride > 1 else "SAME",
            implementation=self.implementation,
        )
        return y if norm is None else norm(y, train=False)


def conv_norm(x: jax.Array, conv: Conv, norm: BatchNorm, *, train: bool) -> jax.Array:
    """A convolution and the normalisation that follows.

    In inference the normalisation is known before, so both are one pass over memory where the
    compiled kernels have it. (Two layers and a function, not a layer of two: parameters keep their
    names, by which weights are found and from which initial values are drawn.)

    Args:
      x: ``[B, H, W, C]``.
      conv: the convolution.
      norm: of its outputs.
      train: see ``BatchNorm``.

    Returns:
      ``[B, H', W', features]``.
    """
    return norm(conv(x), train=True) if train else conv(x, norm)


def space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """Makes channels of blocks of pixels: the same numbers at a lower resolution.

    A convolution afterwards is one with a larger kernel and that stride on the image (Ridnik et
    al. 2021 begin a network this way); the order is that of ONNX's SpaceToDepth.

    Args:
      x: ``[B, H, W, C]``.
      block: side of a block, pixels; 1 changes nothing.

    Returns:
      ``[B, H / block, W / block, block * block * C]``.

    Raises:
      Mistake: if a side is not a multiple of ``block``.
    """
    if block == 1:
        return x
    batch, height, width, channels = x.shape
    if height % block or width % block:
        raise Mistake(
            f"model: space_to_depth={block} does not divide an image of {height}x{width} pixels; "
            "choose config.data.height and config.data.width that are multiples of it."
        )
    x = x.reshape(batch, height // block, block, width // block, block, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // block, width // block, block * block * channels)


def check_choice(field: str, value: Any, valid: Collection[str]) -> None:
    """Checks a choice of ``config.model``.

    Args:
      field: its name.
      value: what was chosen.
      valid: what there is.

    Raises:
      Mistake: names the field and lists what there is.
    """
    if value not in valid:
        raise Mistake(
            f"model: {field}={value!r} is unknown; choose one of {', '.join(map(str, valid))}."
        )


def check_positive(field: str, value: int) -> None:
    """Checks a number of ``config.model``.

    Args:
      field: its name.
      value: what was chosen.

    Raises:
      Mistake: names the field.
    """
    if value < 1:
        raise Mistake(f"model: {field}={value} must be positive.")
