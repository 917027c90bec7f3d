"""Two models on the same images: paired differences with intervals and p-values."""

from __future__ import annotations

from typing import Any

import numpy as np

from wlsrl_jax.evaluate import bootstrap
from wlsrl_jax.evaluate.predictions import Predictions
from wlsrl_jax.evaluate.telling import Tell, silent
from wlsrl_jax.files import Mistake
from wlsrl_jax.metrics import OVERALL, labelled, weighted_metrics
from wlsrl_jax.tasks import Task


def compare(
    task: Task,
    first: Predictions,
    second: Predictions,
    *,
    replicates: int = bootstrap.REPLICATES,
    tell: Tell = silent,
) -> dict[str, Any]:
    """Differences of every metric of a task, first minus second, on the images of both.

    Both are weighted by the same replicates of groups, so what they share cancels.

    Args:
      task: of both runs.
      first: predictions of a run.
      second: predictions of another one on the same split.
      replicates: number of bootstrap replicates.
      tell: is told how far it is.

    Returns:
      {"count": images of both, "only_first", "only_second": images of one alone, "metrics":
      name -> {"first", "second", "difference", "low", "high", "p"}}.

    Raises:
      Mistake: if they share no image, or disagree on a label or group.
    """
    where = {name: k for k, name in enumerate(second.ids.tolist())}
    mine = np.asarray([k for k, name in enumerate(first.ids.tolist()) if name in where], int)
    if not mine.size:
        raise Mistake("the two runs have no image in common in this split.")
    theirs = np.asarray([where[name] for name in first.ids[mine].tolist()])
    labels = first.labels[task.name][mine]
    if (labels != second.labels[task.name][theirs]).any():
        raise Mistake(f"task {task.name}: the two runs have different labels for one image.")
    known = labels >= 0
    if not known.any():
        raise Mistake(f"task {task.name}: no image that the two runs have in common has a label.")
    p = labelled(task, labels, first.probabilities[task.name][mine])[1]
    q = labelled(task, labels, second.probabilities[task.name][theirs])[1]
    labels, index = labels[known], bootstrap.group_index(first.groups[mine][known])

    def both(weights: np.ndarray) -> dict[str, np.ndarray]:
        a, b = (weighted_metrics(task, labels, x, weights)[0] for x in (p, q))
        return {name: np.stack([a[name], b[name]], axis=1) for name in a}

    point = both(np.ones((1, labels.size)))
    drawn = bootstrap.replicated(both, index, replicates=replicates, tell=tell)
    metrics = {}
    for name in (*OVERALL, *(["qwk"] if task.ordinal else [])):
        difference = drawn[name][:, 0] - drawn[name][:, 1]
        a, b = point[name][0]
        low, high = bootstrap.interval(difference, int(index.max()) + 1)
        metrics[name] = {
            "first": float(a),
            "second": float(b),
            "difference": float(a - b),
            "low": low,
            "high": high,
            "p": bootstrap.p_value(difference),
        }
    return {
        "count": int(labels.size),
        "groups": int(index.max()) + 1,
        "only_first": int(len(first.ids) - mine.size),
        "only_second": int(len(second.ids) - mine.size),
        "metrics": metrics,
    }
