"""How faithful a map is: deletion and insertion (Petsiuk, Das and Saenko, RISE, BMVC 2018).

Deletion takes the pixels away, those with the highest value first, and watches the class's
probability fall; insertion brings them back into a blurred image. A faithful map has a low
area under the first curve and a high one under the second. Both say something about the
network, not about the disease.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wlsrl_jax.explain.class_maps import check_arguments
from wlsrl_jax.explain.integrated_gradients import blurred
from wlsrl_jax.models.dual_stream import Grader
from wlsrl_jax.models.predictor import normalize


def random_maps(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Maps that know nothing, to compare with: float32 ``[count, height, width]`` in 0..1."""
    return np.random.default_rng(seed).random((count, height, width), np.float32)


def centred_gaussian(height: int, width: int) -> np.ndarray:
    """A map that knows only that lesions lie in the middle.

    Args:
      height: pixels.
      width: pixels.

    Returns:
      float32 ``[height, width]`` in 0..1, standard deviation a quarter of each side.
    """
    y = (np.arange(height) - (height - 1) / 2)[:, None] / (height / 4)
    x = (np.arange(width) - (width - 1) / 2)[None, :] / (width / 4)
    heat = np.exp(-(x**2 + y**2) / 2)
    return (heat / heat.max()).astype(np.float32)


def deletion_insertion(
    model: Grader,
    variables: Any,
    images: np.ndarray,
    heat: np.ndarray,
    task: str,
    classes: np.ndarray,
    *,
    steps: int = 32,
) -> dict[str, np.ndarray]:
    """Probability of a class while the pixels that a map names go, or come.

    A deleted pixel takes the mean colour of its image; insertion starts from the blurred
    image. Pixels of the same value keep their row-major order.

    Args:
      model: the network.
      variables: its parameters and running statistics.
      images: uint8 ``[B, H, W, C]`` of the model's input size.
      heat: ``[B, H, W]``; only its order counts.
      task: whose head.
      classes: ``[B]`` index of the class: the one that is shown.
      steps: equal parts that the pixels are moved in.

    Returns:
      "deletion" and "insertion", the areas ``[B]`` in 0..1, and "deletion_curve" and
      "insertion_curve" ``[B, steps + 1]``.

    Raises:
      ValueError: for an unknown task, or an argument of another shape.
    """
    images, classes = check_arguments(model, images, task, classes)
    heat = np.asarray(heat, np.float32)
    if heat.shape != images.shape[:3]:
        raise ValueError(
            f"deletion_insertion: heat {list(heat.shape)} does not fit images {list(images.shape)}."
        )
    if steps < 1:
        raise ValueError(f"deletion_insertion: steps={steps} must be at least 1.")
    order = np.argsort(-heat.reshape(len(heat), -1), axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(order.shape[1])[None, :], axis=1)
    grey = np.broadcast_to(images.mean(axis=(1, 2), keepdims=True), images.shape)
    moved = np.rint(np.linspace(0, order.shape[1], steps + 1)).astype(np.int32)
    deletion, insertion = jax.device_get(
        _curves(
            model,
            task,
            variables,
            images.astype(np.float32),
            grey.astype(np.float32),
            blurred(images),
            ranks.reshape(heat.shape).astype(np.int32),
            classes,
            moved,
        )
    )
    share = moved / moved[-1]
    return {
        "deletion": np.trapezoid(deletion, share, axis=1),
        "insertion": np.trapezoid(insertion, share, axis=1),
        "deletion_curve": deletion,
        "insertion_curve": insertion,
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _curves(
    model: Grader,
    task: str,
    variables: Any,
    images: jax.Array,
    grey: jax.Array,
    blurry: jax.Array,
    ranks: jax.Array,
    classes: jax.Array,
    moved: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    def probabilities(pixels: jax.Array) -> jax.Array:
        logits: Any = model.apply(variables, normalize(pixels), train=False)
        return jax.nn.softmax(logits[task].astype(jnp.float32))

    def at(count: jax.Array) -> tuple[jax.Array, jax.Array]:
        named = (ranks < count)[..., None]
        less = probabilities(jnp.where(named, grey, images))
        more = probabilities(jnp.where(named, images, blurry))
        rows = jnp.arange(len(classes))
        return less[rows, classes], more[rows, classes]

    deletion, insertion = jax.lax.map(at, moved)
    return deletion.T, insertion.T
