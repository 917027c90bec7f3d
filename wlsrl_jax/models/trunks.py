"""What a stream can be: trunks, from images to a feature map.

``TRUNKS`` has a row for each. To add one, write a ``Trunk`` here and its row; what it needs of the
image (such as ``space_to_depth``) it does itself, first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from wlsrl_jax import ops
from wlsrl_jax.files import Mistake
from wlsrl_jax.models.layers import (
    BatchNorm,
    Conv,
    check_choice,
    check_positive,
    conv_norm,
    space_to_depth,
)
from wlsrl_jax.ops.pooling import max_pool, max_pool_3x3

PLAIN = "plain"
NORMS = ("batch", "group")


class Trunk(nn.Module):
    """A network without its heads: maps normalised images to a feature map ``[B, h, w, F]``.

    At the end of each stage it hands the features to ``stage_output``.

    Attributes:
      widths: channels of each stage; those of the last are F.
      dtype: of the computation; parameters are float32.
      implementation: of convolutions, "auto" (by platform), "xla" or "lax"; see ``ops``.
    """

    widths: tuple[int, ...]
    dtype: Any = jnp.float32
    implementation: str = "auto"

    def __post_init__(self) -> None:
        if not self.widths or not all(isinstance(w, int) and w > 0 for w in self.widths):
            raise Mistake(
                f"model: widths={self.widths} must be positive whole numbers, one a stage, such as "
                "16,32,64."
            )
        check_choice("conv_implementation", self.implementation, ops.IMPLEMENTATIONS)
        super().__post_init__()

    @property
    def title(self) -> str:
        """What it is called in a text."""
        return type(self).__name__

    def stage_output(self, stage: int, x: jax.Array) -> jax.Array:
        """Hands on the features ``[B, h, w, widths[stage]]`` that a stage ends with, as they are.

        Explanations intercept this call to see and to change them (``explain/features.py``).
        """
        return x


class PlainTrunk(Trunk):
    """Stages of ``blocks`` x (convolution, norm, ReLU), then 2x max pooling.

    The separable trunk uses a depthwise 3x3 and a pointwise 1x1 convolution for each
    standard 3x3. Its first convolution is a standard one: with one or three input
    channels a depthwise filter could only see one channel and would save nothing.

    Attributes:
      separable: whether convolutions are depthwise separable.
      blocks: convolutions of each stage.
      norm: "batch" (global over devices under jit) or "group" (no running state).
      space_to_depth: side of the blocks of pixels that become channels before the first
        convolution; 1 for none. With 2, an image of twice the sides costs little more.
    """

    separable: bool = False
    blocks: int = 1
    norm: str = "batch"
    space_to_depth: int = 1

    def __post_init__(self) -> None:
        check_positive("blocks", self.blocks)
        check_positive("space_to_depth", self.space_to_depth)
        check_choice("norm", self.norm, NORMS)
        super().__post_init__()

    @property
    def title(self) -> str:
        """Its name and the fields that make it so."""
        fields = ("blocks", "norm", "space_to_depth")
        return ", ".join([PLAIN, *(f"{field} {getattr(self, field)}" for field in fields)])

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H', W', widths[-1]]``, H' about H / 2^(stages - 1).

        An odd side is pooled with its last row or column standing alone.

        Raises:
          Mistake: if ``space_to_depth`` does not divide a side.
        """
        shared = {"dtype": self.dtype, "implementation": self.implementation}
        x = space_to_depth(x, self.space_to_depth)
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks):
                name = f"stage{stage}_block{block}"
                if self.separable and (stage or block):
                    x = Conv(x.shape[-1], depthwise=True, name=f"{name}_depthwise", **shared)(x)
                    conv = Conv(width, 1, name=f"{name}_pointwise", **shared)
                else:
                    conv = Conv(width, name=f"{name}_conv", **shared)
                pool = block == self.blocks - 1 and stage < len(self.widths) - 1
                if self.norm == "batch":
                    norm = BatchNorm(width, relu=True, pool=pool, name=f"{name}_norm", **shared)
                    x = conv_norm(x, conv, norm, train=train)
                else:
                    groups = max(g for g in range(1, 9) if width % g == 0)
                    group_norm = nn.GroupNorm(groups, dtype=self.dtype, name=f"{name}_norm")
                    x = nn.relu(group_norm(conv(x)))
                    x = max_pool(x) if pool else x
            x = self.stage_output(stage, x)
        return x


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


class ResNet18(Trunk):
    """ResNet-18, for comparison.

    He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, CVPR 2016, as torchvision
    lays it out: a 7x7 convolution and a 3x3 max pool, both with stride 2, four stages of two basic
    blocks, projection by 1x1 convolutions where a stage begins. So that the comparison is fair,
    convolutions start as the plain trunk's, and the last scale of each block starts at 0 (Goyal et
    al., arXiv:1706.02677), which helps deep residual networks.
    """

    blocks: ClassVar[int] = 2
    """Of each stage."""

    def __post_init__(self) -> None:
        if len(self.widths) != 4:
            raise Mistake(
                f"model: widths={self.widths} must be four numbers for resnet18, one a stage."
            )
        super().__post_init__()

    @property
    def title(self) -> str:
        """Its name and source."""
        return "ResNet-18 (He et al., CVPR 2016)"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H', W', widths[-1]]``, H' about H / 32."""
        shared = {"dtype": self.dtype, "implementation": self.implementation}
        conv = Conv(self.widths[0], 7, stride=2, name="stem_conv", **shared)
        norm = BatchNorm(self.widths[0], relu=True, name="stem_norm", **shared)
        x = max_pool_3x3(conv_norm(x, conv, norm, train=train))
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage}_block{block}"
                x = BasicBlock(width, stride, name=name, **shared)(x, train=train)
            x = self.stage_output(stage, x)
        return x


class Row(NamedTuple):
    """A trunk that a config can name.

    Attributes:
      name: in ``config.model``.
      kind: of its convolutions, "separable" or "standard": the stream that it can be.
      make: its module, called with ``widths``, ``dtype``, ``implementation``, ``name`` and what it
        reads.
      widths: its own channels of each stage; () for the preset's.
      reads: fields of ``config.model`` that change it.
    """

    name: str
    kind: str
    make: Callable[..., Trunk]
    widths: tuple[int, ...]
    reads: tuple[str, ...]

    @property
    def scope(self) -> str:
        """Name of its module, at which its parameters are: a plain trunk has its stream's."""
        return self.kind if self.name == PLAIN else self.name


_OF_PLAIN = ("widths", "blocks", "norm", "space_to_depth")

TRUNKS = (
    Row(PLAIN, "separable", functools.partial(PlainTrunk, separable=True), (), _OF_PLAIN),
    Row(PLAIN, "standard", PlainTrunk, (), _OF_PLAIN),
    Row("resnet18", "standard", ResNet18, (64, 128, 256, 512), ("widths",)),
)
SEPARABLE, STANDARD = (
    tuple(row.name for row in TRUNKS if row.kind == kind) for kind in ("separable", "standard")
)
"""What ``config.model.separable`` and ``config.model.standard`` may be."""


def trunk_row(kind: str, name: str) -> Row:
    """Finds a trunk.

    Args:
      kind: "separable" or "standard".
      name: of the trunk.

    Raises:
      Mistake: if there is none, listing those of the kind.
    """
    rows = {row.name: row for row in TRUNKS if row.kind == kind}
    check_choice(kind, name, rows)
    return rows[name]
