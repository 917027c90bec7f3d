"""ResNet-18 with this project's heads: the network that the dual-stream one is compared with.

He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, CVPR 2016, as torchvision
lays it out: a 7x7 convolution and a 3x3 max pool, both with stride 2, four stages of two basic
blocks, projection by 1x1 convolutions where a stage begins, global average pooling. So that the
comparison is fair, convolutions start as the dual-stream network's, and the last scale of each
block starts at 0 (Goyal et al., arXiv:1706.02677), which helps deep residual networks.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from wlsrl_jax.files import Mistake
from wlsrl_jax.models.dual_stream import check_shared, task_logits
from wlsrl_jax.models.layers import BatchNorm, Conv, conv_norm
from wlsrl_jax.ops.pooling import max_pool_3x3

STREAM = "resnet18"
"""Name of the trunk."""
BLOCKS = 2  # of each stage


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Attributes:
      features: output channels.
      stride: of the first convolution and the shortcut.
      dtype: of the computation.
      implementation: see ``ops``.
    """

    features: int
    stride: int
    dtype: Any
    implementation: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H', W', features]``, H' = ceil(H / stride)."""
        width, shared = self.features, {"dtype": self.dtype, "implementation": self.implementation}
        conv = Conv(width, stride=self.stride, name="conv1", **shared)
        y = conv_norm(x, conv, BatchNorm(width, relu=True, name="norm1", **shared), train=train)
        conv = Conv(width, name="conv2", **shared)
        # A block starts as its shortcut alone.
        zeros = nn.initializers.zeros
        norm = BatchNorm(width, scale_init=zeros, name="norm2", **shared)
        y = conv_norm(y, conv, norm, train=train)
        if self.stride > 1 or x.shape[-1] != width:
            conv = Conv(width, 1, stride=self.stride, name="shortcut_conv", **shared)
            norm = BatchNorm(width, name="shortcut_norm", **shared)
            x = conv_norm(x, conv, norm, train=train)
        return nn.relu(x + y)


class ResNetTrunk(nn.Module):
    """The network up to its last feature map.

    Attributes:
      widths: channels of each stage; the stem has those of the first.
      dtype: of the computation.
      implementation: see ``ops``.
    """

    widths: tuple[int, ...]
    dtype: Any
    implementation: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H', W', widths[-1]]``, H' about H / 32."""
        shared = {"dtype": self.dtype, "implementation": self.implementation}
        conv = Conv(self.widths[0], 7, stride=2, name="stem_conv", **shared)
        norm = BatchNorm(self.widths[0], relu=True, name="stem_norm", **shared)
        x = max_pool_3x3(conv_norm(x, conv, norm, train=train))
        for stage, width in enumerate(self.widths):
            for block in range(BLOCKS):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage}_block{block}"
                x = BasicBlock(width, stride, name=name, **shared)(x, train=train)
        self.sow("intermediates", "features", x)
        return x


class ResNet18(nn.Module):
    """Multitask ResNet-18.

    Attributes:
      heads: (task, number of classes) of each linear head.
      widths: channels of each of the four stages.
      hidden: width of the shared dense layer.
      dropout: rate before the heads.
      dtype: of the computation; parameters and logits are float32.
      conv_implementation: "auto" (by platform), "xla" or "lax", see ``ops``.
    """

    heads: tuple[tuple[str, int], ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    hidden: int = 128
    dropout: float = 0.0
    dtype: Any = jnp.float32
    conv_implementation: str = "auto"

    def __post_init__(self) -> None:
        check_shared(self.widths, self.hidden, self.dropout, self.conv_implementation)
        if len(self.widths) != 4:
            raise Mistake(
                f"model: widths={self.widths} must be four numbers for resnet18, one a stage."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images_BxHxWxC: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """Computes the logits of every task.

        Args:
          images_BxHxWxC: normalised images.
          train: use batch statistics and dropout (needs rng "dropout" if dropout > 0).

        Returns:
          Task -> float32 logits ``[B, classes]``. The trunk sows its last feature map as the
          intermediate ``features``.
        """
        trunk = ResNetTrunk(self.widths, self.dtype, self.conv_implementation, name=STREAM)
        features = trunk(images_BxHxWxC, train=train)
        x_BxF = jnp.mean(features.astype(jnp.float32), axis=(1, 2))
        return task_logits(
            x_BxF, self.heads, self.hidden, self.dropout, dtype=self.dtype, train=train
        )
