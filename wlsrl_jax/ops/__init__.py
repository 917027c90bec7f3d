"""Arithmetic by platform: convolution, normalisation, pooling."""

from wlsrl_jax.ops.convolution import (
    IMPLEMENTATIONS,
    conv2d,
    depthwise_conv2d,
    explicit_pads,
)

__all__ = ["IMPLEMENTATIONS", "conv2d", "depthwise_conv2d", "explicit_pads"]
