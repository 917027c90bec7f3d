"""The most confident mistakes of a run, with what the network looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wlsrl_jax.data.batches import filled_up
from wlsrl_jax.data.images.pixels import resize
from wlsrl_jax.evaluate.predictions import Predictions
from wlsrl_jax.explain.class_maps import grad_cam
from wlsrl_jax.explain.overlay import enlarged_overlay, upscale
from wlsrl_jax.html.picture import jpeg_uri
from wlsrl_jax.runs.open import TrainedRun

_SIDE = 160  # pixels of a picture's shorter side, about


def most_confident(predictions: Predictions, task: str, most: int) -> list[int]:
    """Positions of the wrong answers of the highest probability, the highest first."""
    labels, p = predictions.labels[task], predictions.probabilities[task]
    wrong = np.flatnonzero((labels >= 0) & (p.argmax(axis=1) != labels))
    return wrong[np.argsort(-p[wrong].max(axis=1), kind="stable")][:most].tolist()


def mistakes(
    run: TrainedRun, source: Any, predictions: Predictions, *, most: int, show_ids: bool
) -> list[dict[str, Any]]:
    """Pictures of the most confident mistakes of every task.

    Args:
      run: the model.
      source: the split that was predicted, in the same order.
      predictions: on it.
      most: pictures of each task.
      show_ids: name the images.

    Returns:
      A dict a task: "task" and "items", each with the two pictures, what was said and what is
      true.
    """
    height, width, _ = run.image_shape
    found = []
    for task in run.tasks:
        positions = most_confident(predictions, task.name, most)
        items: list[dict[str, Any]] = []
        if positions:
            images = np.stack([resize(source[k]["image"], height, width) for k in positions])
            said = predictions.probabilities[task.name][positions].argmax(axis=1)
            filled, classes = (filled_up(rows, most) for rows in (images, said))
            heat = grad_cam(run.model, run.variables, filled, task.name, classes)["fused"]
            items = [
                _item(task.classes, predictions, task.name, k, image, heat[i], show_ids)
                for i, (k, image) in enumerate(zip(positions, images, strict=True))
            ]
        found.append({"task": task.name, "items": items})
    return found


def _item(
    classes: Sequence[str],
    predictions: Predictions,
    task: str,
    position: int,
    image: np.ndarray,
    heat: np.ndarray,
    show_ids: bool,
) -> dict[str, Any]:
    p = predictions.probabilities[task][position]
    return {
        "image": jpeg_uri(upscale(image, _SIDE)),
        "overlay": jpeg_uri(enlarged_overlay(image, heat, side=_SIDE)),
        "said": classes[int(p.argmax())],
        "probability": float(p.max()),
        "true": classes[int(predictions.labels[task][position])],
        "id": str(predictions.ids[position]) if show_ids else "",
    }
