"""The dual-stream network: a separable and a standard convolution trunk, fused, with heads.

The abstract of Kaloi et al. (iCoMET 2023) fixes two streams, one of separable and one of
conventional convolutions, and one head a task. Depth, widths, normalisation and fusion
are reconstructions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

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
from wlsrl_jax.ops.pooling import max_pool

NORMS = ("batch", "group")
FUSIONS = ("concat", "sum", "gated")
STREAMS = {
    "dual": ("separable", "standard"),
    "separable": ("separable",),
    "standard": ("standard",),
}


def task_logits(
    x_BxF: jax.Array,
    heads: tuple[tuple[str, int], ...],
    hidden: int,
    dropout: float,
    *,
    dtype: Any,
    train: bool,
) -> dict[str, jax.Array]:
    """The shared dense layer, dropout and one linear head a task, as layers of the caller.

    Args:
      x_BxF: pooled features, of shape ``[B, F]``.
      heads: (task, number of classes).
      hidden: width of the shared layer.
      dropout: rate before the heads.
      dtype: of the shared layer.
      train: whether dropout acts.

    Returns:
      Task -> float32 logits ``[B, classes]``.
    """
    x_BxF = nn.relu(nn.Dense(hidden, dtype=dtype, name="shared")(x_BxF))
    x_BxF = nn.Dropout(dropout, deterministic=not train)(x_BxF)
    return {
        task: nn.Dense(classes, dtype=jnp.float32, name=f"head_{task}")(x_BxF)
        for task, classes in heads
    }


class Stream(nn.Module):
    """One trunk: stages of ``blocks`` x (convolution, norm, ReLU), then 2x max pooling.

    The separable trunk uses a depthwise 3x3 and a pointwise 1x1 convolution for each
    standard 3x3. Its first convolution is a standard one: with one or three input
    channels a depthwise filter could only see one channel and would save nothing.

    Attributes:
      kind: "separable" or "standard".
      widths: channels of each stage.
      blocks: convolutions of each stage.
      norm: see ``DualStream``.
      dtype: of the computation.
      implementation: see ``ops``.
    """

    kind: str
    widths: tuple[int, ...]
    blocks: int
    norm: str
    dtype: Any
    implementation: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H', W', widths[-1]]``, H' about H / 2^(stages - 1).

        An odd side is pooled with its last row or column standing alone.
        """
        shared = {"dtype": self.dtype, "implementation": self.implementation}
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks):
                name = f"stage{stage}_block{block}"
                if self.kind == "standard" or (stage == 0 and block == 0):
                    conv = Conv(width, name=f"{name}_conv", **shared)
                else:
                    x = Conv(x.shape[-1], depthwise=True, name=f"{name}_depthwise", **shared)(x)
                    conv = Conv(width, 1, name=f"{name}_pointwise", **shared)
                pool = block == self.blocks - 1 and stage < len(self.widths) - 1
                if self.norm == "batch":
                    norm = BatchNorm(width, relu=True, pool=pool, name=f"{name}_norm", **shared)
                    x = conv_norm(x, conv, norm, train=train)
                    continue
                groups = max(g for g in range(1, 9) if width % g == 0)
                group_norm = nn.GroupNorm(groups, dtype=self.dtype, name=f"{name}_norm")
                x = nn.relu(group_norm(conv(x)))
                x = max_pool(x) if pool else x
        self.sow("intermediates", "features", x)
        return x


class DualStream(nn.Module):
    """Dual-stream multitask network.

    Attributes:
      heads: (task, number of classes) of each linear head.
      widths: channels of each stage; a stage ends with 2x pooling, but for the last.
      blocks: convolutions of each stage.
      space_to_depth: side of the blocks of pixels that become channels before the first
        convolution; 1 for none. With 2, an image of twice the sides costs little more.
      norm: "batch" (global over devices under jit) or "group" (no running state).
      fusion: of the pooled features: "concat", "sum", or "gated", a learnt mix for each
        image and feature, ``g * separable + (1 - g) * standard``.
      streams: "dual", or one trunk alone, "separable" or "standard", for ablation.
      hidden: width of the shared dense layer.
      dropout: rate before the heads.
      dtype: of the computation; parameters and logits are float32.
      conv_implementation: "auto" (by platform), "xla" or "lax", see ``ops``.
    """

    heads: tuple[tuple[str, int], ...]
    widths: tuple[int, ...] = (16, 32, 64, 128)
    blocks: int = 1
    space_to_depth: int = 1
    norm: str = "batch"
    fusion: str = "concat"
    streams: str = "dual"
    hidden: int = 128
    dropout: float = 0.0
    dtype: Any = jnp.float32
    conv_implementation: str = "auto"

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, NORMS)
        check_choice("fusion", self.fusion, FUSIONS)
        check_choice("streams", self.streams, STREAMS)
        check_positive("blocks", self.blocks)
        check_positive("space_to_depth", self.space_to_depth)
        check_shared(self.widths, self.hidden, self.dropout, self.conv_implementation)
        super().__post_init__()

    @nn.compact
    def __call__(self, images_BxHxWxC: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """Computes the logits of every task.

        Args:
          images_BxHxWxC: normalised images.
          train: use batch statistics and dropout (needs rng "dropout" if dropout > 0).

        Returns:
          Task -> float32 logits ``[B, classes]``. Each trunk sows its last feature map as
          the intermediate ``features``.

        Raises:
          Mistake: if ``space_to_depth`` does not divide a side.
        """
        x_BxHxWxC = space_to_depth(images_BxHxWxC, self.space_to_depth)
        pooled = []
        for kind in STREAMS[self.streams]:
            trunk = Stream(
                kind,
                self.widths,
                self.blocks,
                self.norm,
                self.dtype,
                self.conv_implementation,
                name=kind,
            )
            features = trunk(x_BxHxWxC, train=train)
            pooled.append(jnp.mean(features.astype(jnp.float32), axis=(1, 2)))
        x_BxF = pooled[0] if len(pooled) == 1 else self._fuse(*pooled)
        return task_logits(
            x_BxF, self.heads, self.hidden, self.dropout, dtype=self.dtype, train=train
        )

    def _fuse(self, separable: jax.Array, standard: jax.Array) -> jax.Array:
        both = jnp.concatenate([separable, standard], axis=-1)
        if self.fusion == "concat":
            return both
        if self.fusion == "sum":
            return separable + standard
        gate = nn.sigmoid(nn.Dense(separable.shape[-1], dtype=self.dtype, name="gate")(both))
        return gate * separable + (1.0 - gate) * standard


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"widths": (8, 16, 16), "blocks": 1, "hidden": 16},
    "small": {"widths": (16, 32, 64, 128), "blocks": 1, "hidden": 128},
    "medium": {"widths": (16, 32, 64, 96, 128), "blocks": 2, "hidden": 128},
    "base": {"widths": (32, 64, 128, 256, 384), "blocks": 2, "hidden": 256},
}
"""tiny: tests. small: 64 px on a laptop. medium: real scans on a workstation. base: 224 px
and more on accelerators."""


def check_shared(
    widths: tuple[int, ...], hidden: int, dropout: float, conv_implementation: str
) -> None:
    """Checks the fields that every network has.

    Args:
      widths: channels of each stage.
      hidden: width of the shared dense layer.
      dropout: rate before the heads.
      conv_implementation: see ``ops``.

    Returns:
      Nothing.

    Raises:
      Mistake: names the field that is wrong.
    """
    if not widths or not all(isinstance(w, int) and w > 0 for w in widths):
        raise Mistake(
            f"model: widths={widths} must be positive whole numbers, one a stage, such as 16,32,64."
        )
    check_positive("hidden", hidden)
    if not 0.0 <= dropout < 1.0:
        raise Mistake(f"model: dropout={dropout} must be in [0, 1).")
    check_choice("conv_implementation", conv_implementation, ops.IMPLEMENTATIONS)


def make_model(preset: str, heads: Mapping[str, int], **overrides: Any) -> DualStream:
    """Builds a model from a preset.

    Args:
      preset: a key of ``PRESETS``.
      heads: task -> number of classes.
      **overrides: fields of ``DualStream`` that replace the preset's.

    Returns:
      The module.

    Raises:
      Mistake: for an unknown preset, field or field value, listing the valid ones.
    """
    check_choice("preset", preset, PRESETS)
    fields = [f.name for f in dataclasses.fields(DualStream) if f.name not in ("parent", "name")]
    for field in overrides:
        if field not in fields:
            raise Mistake(f"model has no field {field!r}; it has: {', '.join(fields)}.")
    return DualStream(heads=tuple(heads.items()), **{**PRESETS[preset], **overrides})
