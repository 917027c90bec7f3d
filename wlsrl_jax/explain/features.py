"""Feature maps of the streams and gradients with respect to them, from outside the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from wlsrl_jax.models.by_name import Network
from wlsrl_jax.models.dual_stream import Stream
from wlsrl_jax.models.layers import Conv
from wlsrl_jax.models.predictor import normalize
from wlsrl_jax.models.resnet import BasicBlock, ResNetTrunk


def _site(module: Any, stage: int, last: int) -> str | None:
    """The stream whose stage output passes here: its result, or what the next stage reads."""
    if stage == last:
        return module.name if isinstance(module, Stream | ResNetTrunk) else None
    block = f"stage{stage + 1}_block0"  # its first convolution; a pointwise one is its second
    enters = (
        module.name == block
        if isinstance(module, BasicBlock)
        else isinstance(module, Conv) and module.name in (f"{block}_conv", f"{block}_depthwise")
    )
    return module.parent.name if enters else None


def forward(
    model: Network,
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
      stage: whose output, after pooling; ``len(model.widths) - 1`` is the last feature map.
      change: (stream, ``[B, h, w, F]``) -> what takes its place.

    Returns:
      Task -> logits ``[B, C]``.
    """
    last = len(model.widths) - 1

    def intercept(
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        stream = _site(context.module, stage, last) if context.method_name == "__call__" else None
        if stream is None:
            return call(*args, **kwargs)
        if stage == last:
            return change(stream, call(*args, **kwargs))
        return call(change(stream, args[0]), *args[1:], **kwargs)

    with nn.intercept_methods(intercept):
        return model.apply(variables, images, train=False)


def features_and_gradients(
    model: Network,
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
      (stream -> float32 ``[B, h, w, F]``, stream -> its gradient, of the same shape).
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
