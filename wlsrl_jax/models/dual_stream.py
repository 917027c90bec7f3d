"""The network: a trunk or two, fused, a shared layer and one head a task.

The abstract of Kaloi et al. (iCoMET 2023) fixes two streams, one of separable and one of
conventional convolutions, and one head a task. Depth, widths, normalisation and fusion
are reconstructions.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from wlsrl_jax.files import Mistake
from wlsrl_jax.models.layers import check_choice, check_positive
from wlsrl_jax.models.trunks import Trunk

FUSIONS = ("concat", "sum", "gated")


class Grader(nn.Module):
    """Multitask network of one or two streams.

    Attributes:
      trunks: of the streams, each with a name, at which its parameters are.
      fusion: of the pooled features of two: "concat", "sum", or "gated", a learnt mix for each
        image and feature, ``g * first + (1 - g) * second``.
      heads: (task, number of classes) of each linear head.
      hidden: width of the shared dense layer.
      dropout: rate before the heads.
      dtype: of the shared layer; parameters and logits are float32.
    """

    trunks: tuple[Trunk, ...]
    fusion: str
    heads: tuple[tuple[str, int], ...]
    hidden: int = 128
    dropout: float = 0.0
    dtype: Any = jnp.float32

    preserve_adopted_names: ClassVar[bool] = True
    """Flax leaves the trunks their own names, rather than ``trunks_0`` and ``trunks_1``."""

    def __post_init__(self) -> None:
        check_choice("fusion", self.fusion, FUSIONS)
        check_positive("hidden", self.hidden)
        if not 0.0 <= self.dropout < 1.0:
            raise Mistake(f"model: dropout={self.dropout} must be in [0, 1).")
        if self.fusion != "concat" and len({trunk.widths[-1] for trunk in self.trunks}) > 1:
            found = ", ".join(f"{trunk.name} has {trunk.widths[-1]}" for trunk in self.trunks)
            raise Mistake(
                f"model: fusion={self.fusion} needs streams of equally many features, but {found}; "
                "choose fusion=concat, or widths that end alike."
            )
        super().__post_init__()

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the trunks."""
        return tuple(str(trunk.name) for trunk in self.trunks)

    @nn.compact
    def __call__(self, images_BxHxWxC: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """Computes the logits of every task.

        Args:
          images_BxHxWxC: normalised images.
          train: use batch statistics and dropout (needs rng "dropout" if dropout > 0).

        Returns:
          Task -> float32 logits ``[B, classes]``.

        Raises:
          Mistake: if a trunk cannot read images of this size.
        """
        features = [trunk(images_BxHxWxC, train=train) for trunk in self.trunks]
        x_BxF = self._fuse([jnp.mean(f.astype(jnp.float32), axis=(1, 2)) for f in features])
        x_BxF = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="shared")(x_BxF))
        x_BxF = nn.Dropout(self.dropout, deterministic=not train)(x_BxF)
        return {
            task: nn.Dense(classes, dtype=jnp.float32, name=f"head_{task}")(x_BxF)
            for task, classes in self.heads
        }

    def _fuse(self, pooled: list[jax.Array]) -> jax.Array:
        """Makes one ``[B, F]`` of those of the trunks."""
        if len(pooled) == 1:
            return pooled[0]
        first, second = pooled
        both = jnp.concatenate(pooled, axis=-1)
        if self.fusion == "concat":
            return both
        if self.fusion == "sum":
            return first + second
        gate = nn.sigmoid(nn.Dense(first.shape[-1], dtype=self.dtype, name="gate")(both))
        return gate * first + (1.0 - gate) * second
