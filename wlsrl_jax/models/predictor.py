"""Inference: from pixels to probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wlsrl_jax.models.dual_stream import Grader


def normalize(images: jax.Array) -> jax.Array:
    """Maps pixels 0..255 to float32 of about zero mean and unit scale."""
    return (images.astype(jnp.float32) - 127.5) / 64.0


def make_predict_step(
    model: Grader, *, mirror: bool = False
) -> Callable[[Any, jax.Array], dict[str, jax.Array]]:
    """Builds the forward pass of evaluation.

    Args:
      model: the network.
      mirror: whether an image's probabilities are the mean of its own and those of its left-right
        mirror image: the other eye's view, which has the same disease.

    Returns:
      A pure function of (variables, uint8 images ``[B, H, W, C]``) giving task ->
      float32 probabilities ``[B, C]``.
    """

    def predict(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        logits: Any = model.apply(variables, normalize(images), train=False)
        return {task: jax.nn.softmax(z.astype(jnp.float32)) for task, z in logits.items()}

    def predict_both(variables: Any, images: jax.Array) -> dict[str, jax.Array]:
        own, other = predict(variables, images), predict(variables, images[:, :, ::-1])
        return jax.tree.map(lambda a, b: (a + b) / 2.0, own, other)

    return predict_both if mirror else predict
