"""Mixup: convex mixtures of two images and of their labels (Zhang et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def mixup(
    images: jax.Array, labels: Mapping[str, Any], widths: Mapping[str, int], alpha: float, key: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Mixes every row with the one before it, all by one drawn share.

    The share of the row itself is :math:`\max(\lambda, 1 - \lambda)` with
    :math:`\lambda \sim \mathrm{Beta}(\alpha, \alpha)`. Every loss here is linear in its labels,
    so that a mixture's loss is the mixture of two losses, and a missing label adds exactly zero.

    Args:
      images: uint8 ``[B, H, W, C]``.
      labels: task -> int32 ``[B]``; outside ``[0, C)`` where missing.
      widths: task -> number of classes C.
      alpha: of the Beta distribution, > 0.
      key: a JAX random key.

    Returns:
      (float32 images in 0..255, task -> float32 ``[B, C]``; a row whose label is missing in one
      of the two sums to less than 1).
    """
    share = jax.random.beta(key, alpha, alpha)
    share = jnp.maximum(share, 1.0 - share)

    def mix(x: jax.Array) -> jax.Array:
        return share * x + (1.0 - share) * jnp.roll(x, 1, axis=0)

    soft = {t: mix(jax.nn.one_hot(y, widths[t], dtype=jnp.float32)) for t, y in labels.items()}
    return mix(images.astype(jnp.float32)), soft
