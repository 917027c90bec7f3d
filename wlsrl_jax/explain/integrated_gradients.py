"""Integrated gradients (Sundararajan, Taly and Yan, Axiomatic Attribution, ICML 2017)."""

from __future__ import annotations

import functools
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from wlsrl_jax.explain.class_maps import check_arguments, class_logit
from wlsrl_jax.models.dual_stream import Grader
from wlsrl_jax.models.predictor import normalize

BLUR = 1 / 8
"""Standard deviation of ``blurred``, as a fraction of the shorter side."""


def blurred(images: np.ndarray, fraction: float = BLUR) -> np.ndarray:
    """The images without their detail: what is left when lesions are gone.

    Args:
      images: uint8 ``[B, H, W, C]``.
      fraction: standard deviation of the Gaussian, of the shorter side.

    Returns:
      float32 ``[B, H, W, C]``, pixels 0..255.
    """
    sigma = fraction * min(images.shape[1:3])
    done = [cv2.GaussianBlur(i, (0, 0), sigma) for i in images.astype(np.float32)]
    return np.stack(done).reshape(images.shape)


def integrated_gradients(
    model: Grader,
    variables: Any,
    images: np.ndarray,
    task: str,
    classes: np.ndarray,
    *,
    baseline: np.ndarray | None = None,
    steps: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Attributes the change of a class logit from a baseline to the pixels.

    The integral along the straight line is a Gauss-Legendre sum. The baseline is the blurred
    image (Sturmfels, Lundberg and Lee, Distill 2020): from a black one a dark lesion,
    such as a cyst, can never get an attribution.

    Args:
      model: the network.
      variables: its parameters and running statistics.
      images: uint8 ``[B, H, W, C]`` of the model's input size.
      task: whose head.
      classes: ``[B]`` index of the class to explain: the one that is shown.
      baseline: pixels 0..255 that broadcast to the images, or None for ``blurred``.
      steps: points of the sum.

    Returns:
      (attributions float32 ``[B, H, W, C]`` in units of the logit, completeness error
      ``[B]``: their sum less the logit's true change, which the axiom says is 0).

    Raises:
      ValueError: for an unknown task, or an argument of another shape.
    """
    images, classes = check_arguments(model, images, task, classes)
    if steps < 1:
        raise ValueError(f"integrated_gradients: steps={steps} must be at least 1.")
    start = blurred(images) if baseline is None else np.asarray(baseline, np.float32)
    try:
        start = np.broadcast_to(start, images.shape)
    except ValueError:
        raise ValueError(
            f"integrated_gradients: baseline {list(start.shape)} does not fit images "
            f"{list(images.shape)}."
        ) from None
    points, weights = np.polynomial.legendre.leggauss(steps)
    positions, weights = (points + 1.0) / 2.0, weights / 2.0
    found = _integrate(
        model,
        task,
        variables,
        normalize(jnp.asarray(images)),
        normalize(jnp.asarray(start)),
        jnp.asarray(classes),
        jnp.asarray(np.stack([positions, weights], 1), jnp.float32),
    )
    attributions, error = jax.device_get(found)
    return attributions, error


@functools.partial(jax.jit, static_argnums=(0, 1))
def _integrate(
    model: Grader,
    task: str,
    variables: Any,
    end: jax.Array,
    start: jax.Array,
    classes: jax.Array,
    rule: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    def logits(x: jax.Array) -> jax.Array:
        heads: Any = model.apply(variables, x, train=False)
        return heads[task]

    def score(x: jax.Array) -> jax.Array:
        return class_logit(logits(x), classes)

    gradient = jax.grad(lambda x: score(x).sum())

    def add(total: jax.Array, point: jax.Array) -> tuple[jax.Array, None]:
        return total + point[1] * gradient(start + point[0] * (end - start)), None

    mean, _ = jax.lax.scan(add, jnp.zeros_like(end), rule)
    attributions = (end - start) * mean
    error = attributions.sum(axis=(1, 2, 3)) - (score(end) - score(start))
    return attributions, error


def to_heat(attributions: np.ndarray, percentile: float = 99.5) -> np.ndarray:
    """Where the attributions speak for the class, for drawing and comparing.

    Attributions of neighbouring pixels differ in sign as the noise of the image does; a narrow
    Gaussian, a 64th of the shorter side, joins them to regions.

    Args:
      attributions: ``[B, H, W, C]``.
      percentile: of the positive sums over channels; it and what is above it becomes 1, for
        single pixels stand out by far.

    Returns:
      float32 ``[B, H, W]`` in 0..1; 0 everywhere if nothing is positive.
    """
    sigma = min(attributions.shape[1:3]) / 64
    joined = [cv2.GaussianBlur(a, (0, 0), sigma) for a in attributions.sum(axis=-1)]
    heat = np.maximum(np.stack(joined), 0.0)
    top = np.percentile(heat, percentile, axis=(1, 2), keepdims=True)
    top = np.where(top > 0, top, heat.max(axis=(1, 2), keepdims=True))
    return np.clip(heat / np.where(top > 0, top, 1.0), 0.0, 1.0).astype(np.float32)
