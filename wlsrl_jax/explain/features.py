"""Feature maps of the streams and gradients with respect to them, from outside the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from wlsrl_jax.models.dual_stream import Grader
from wlsrl_jax.models.predictor import normalize


def forward(
    model: Grader,
    variables: Any,
    images: jax.Array,
    stage: int,
    change: Callable[[str, jax.Array], jax.Array],
) -> Any:
    """Runs the network with the output of one stage of every stream replaced.

    The network's own code stays as it is: Flax hands every call of a module to the
    interceptor, which exists only here, so training pays nothing for it.

    Args:
      model: the network.
      variables: its parameters and running statistics.
      images: normalised ``[B, H, W, C]``.
      stage: whose output, after pooling, as an index of the stages of a trunk: -1 is the last
        feature map. A trunk that has fewer stages is left as it is.
      change: (stream, ``[B, h, w, F]``) -> what takes its place.

    Returns:
      Task -> logits ``[B, C]``.
    """

    def intercept(
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        out = call(*args, **kwargs)
        if context.method_name != "stage_output":
            return out
        trunk: Any = context.module
        number = args[0]
        here = number in (stage, stage + len(trunk.widths))
        return change(str(trunk.name), out) if here else out

    with nn.intercept_methods(intercept):
        return model.apply(variables, images, train=False)


def features_and_gradients(
    model: Grader,
    variables: Any,
    images: jax.Array,
    stage: int,
    objective: Callable[[Mapping[str, jax.Array]], jax.Array],
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The output of a stage, and the gradient of a score of each image with respect to it.

    Args:
      model: the network.
      variables: its parameters and running statistics.
      images: uint8 ``[B, H, W, C]``.
      stage: see ``forward``.
      objective: of task -> logits ``[B, C]``, giving a score an image, ``[B]``.

    Returns:
      (stream -> float32 ``[B, h, w, F]``, stream -> its gradient, of the same shape), of the
      streams that have the stage.
    """
    x = normalize(images)
    found: dict[str, jax.Array] = {}

    def record(stream: str, value: jax.Array) -> jax.Array:
        found[stream] = value
        return value

    forward(model, variables, x, stage, record)
    values = dict(found)

    def score(offsets: Mapping[str, jax.Array]) -> jax.Array:
        logits = forward(model, variables, x, stage, lambda stream, v: v + offsets[stream])
        return objective(logits).sum()  # images do not touch each other: running statistics

    gradients = jax.grad(score)(jax.tree.map(jnp.zeros_like, values))
    wide = jax.tree.map(lambda v: v.astype(jnp.float32), (values, gradients))
    return wide
