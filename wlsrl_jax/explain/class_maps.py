"""Class activation maps: which pixels speak for a class, by stream and fused.

Two maps of the same gradients:

- ``grad_cam`` proper (Selvaraju et al., Grad-CAM, ICCV 2017): channels of the last feature map,
  weighted by their mean gradient. Eight cells wide at 64 pixels: too coarse to point at a druse.
- ``layer_cam`` (Jiang et al., LayerCAM, IEEE TIP 2021), the default: every element of a feature
  map weighted by its own positive gradient, which stays meaningful in early, fine stages. The
  maps of all stages are scaled to 1 and averaged. (The paper takes the larger one at each
  place; then each stage's peak is a peak of the result, and the coarse ones win.)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wlsrl_jax.explain.features import features_and_gradients
from wlsrl_jax.models.dual_stream import Grader

METHODS = ("layer_cam", "grad_cam")


def grad_cam(
    model: Grader,
    variables: Any,
    images: jax.Array | np.ndarray,
    task: str,
    classes: jax.Array | np.ndarray,
    *,
    method: str = "layer_cam",
) -> dict[str, np.ndarray]:
    """Maps of what speaks for a class of a task.

    "fused" is the sum over the streams before it is scaled: the streams' shares of the
    logit, which the gradient weighs as the network fuses them. Stages are counted from the last;
    one that a stream lacks takes no part in it. Each map is scaled to its own
    largest value, so maps compare within an image, not between images. Where nothing
    speaks for the class the map is 0 everywhere.

    Args:
      model: the network.
      variables: its parameters and running statistics.
      images: uint8 ``[B, H, W, C]`` of the model's input size.
      task: whose head.
      classes: ``[B]`` index of the class to explain: the one that is shown beside the map. What
        the network says of this side alone may be another, where ``eval.mirror`` shows the mean.
      method: "layer_cam" or "grad_cam".

    Returns:
      Stream (see ``Grader.streams``) and "fused" -> float32 ``[B, H, W]`` in 0..1.

    Raises:
      ValueError: for an unknown task or method, or images or classes of another shape.
    """
    images, classes = check_arguments(model, images, task, classes)
    if method not in METHODS:
        raise ValueError(f"grad_cam: method={method!r}; choose one of {', '.join(METHODS)}.")
    found = _maps(model, method, task, variables, images, classes)
    return {stream: np.asarray(found[stream]) for stream in (*model.streams, "fused")}


def check_arguments(
    model: Grader, images: Any, task: str, classes: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Checks what is to be explained.

    Args:
      model: the network.
      images: uint8 ``[B, H, W, C]``.
      task: whose head.
      classes: ``[B]`` integers.

    Returns:
      (images, classes int32 ``[B]``).

    Raises:
      ValueError: naming the argument that is wrong.
    """
    heads = dict(model.heads)
    if task not in heads:
        raise ValueError(f"task={task!r} is not of this model; it has {', '.join(heads)}.")
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be uint8 [B, H, W, C], got {images.dtype} {list(images.shape)}."
        )
    classes = np.asarray(classes)
    if classes.shape != (len(images),) or not np.issubdtype(classes.dtype, np.integer):
        raise ValueError(
            f"classes must be {len(images)} integers, one an image, got {classes.dtype} "
            f"{list(classes.shape)}."
        )
    if classes.size and not 0 <= classes.min() <= classes.max() < heads[task]:
        raise ValueError(
            f"classes span {classes.min()}..{classes.max()}; task {task} has 0..{heads[task] - 1}."
        )
    return images, classes.astype(np.int32)


def class_logit(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """Picks the logit of a class of each image.

    Args:
      logits: ``[B, C]``.
      classes: ``[B]``.

    Returns:
      ``[B]``.
    """
    return jnp.take_along_axis(logits, classes[:, None], axis=1)[:, 0]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _maps(
    model: Grader,
    method: str,
    task: str,
    variables: Any,
    images: jax.Array,
    classes: jax.Array,
) -> dict[str, jax.Array]:
    shape = images.shape[:3]
    depth = max(len(trunk.widths) for trunk in model.trunks)
    stages = [-1] if method == "grad_cam" else range(-depth, 0)
    total: dict[str, jax.Array] = {}
    for stage in stages:
        features, gradients = features_and_gradients(
            model, variables, images, stage, lambda logits: class_logit(logits[task], classes)
        )
        raw = {s: _weighted(method, features[s], gradients[s]) for s in features}
        if len(raw) == len(model.streams):
            raw["fused"] = _sum(list(raw.values()))
        for stream, heat in raw.items():
            heat = _scaled(jax.image.resize(jnp.maximum(heat, 0.0), shape, "bilinear"))
            total[stream] = total.get(stream, 0.0) + heat
    return {stream: _scaled(heat) for stream, heat in total.items()}


def _weighted(method: str, features: jax.Array, gradients: jax.Array) -> jax.Array:
    """Channels of ``[B, h, w, F]`` summed with their weights, ``[B, h, w]``."""
    if method == "grad_cam":
        weights = gradients.mean(axis=(1, 2), keepdims=True)
    else:
        weights = jnp.maximum(gradients, 0.0)
    return (weights * features).sum(axis=-1)


def _sum(maps: Sequence[jax.Array]) -> jax.Array:
    """Adds maps ``[B, h, w]`` on the grid of the finest, where a cell's share is spread out."""
    shape = max((heat.shape for heat in maps), key=math.prod)
    spread = (
        jax.image.resize(heat, shape, "bilinear") * (heat.size / math.prod(shape)) for heat in maps
    )
    return functools.reduce(jnp.add, spread)


def _scaled(heat: jax.Array) -> jax.Array:
    """Divides ``[B, H, W]`` >= 0 by the largest of each image; zeros stay."""
    top = heat.max(axis=(1, 2), keepdims=True)
    return heat / jnp.where(top > 0, top, 1.0)
