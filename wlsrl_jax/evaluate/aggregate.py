"""Several images of one eye or patient as one case."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from wlsrl_jax.tasks import MISSING, Task


def aggregate(
    task: Task, cases: Sequence[Any], labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Joins the images of each case: mean probability, one label.

    The label of a case is the highest of its images where the classes are ordered or are normal
    and abnormal. Where they are not, a case with images of several classes has no one label and
    is left out.

    Args:
      task: the task.
      cases: ``[N]`` what each image belongs to.
      labels: ``[N]`` integers; an image without label counts only for the probability.
      probabilities: ``[N, C]``.

    Returns:
      (position ``[M]`` of the first image of each case, labels ``[M]``, probabilities
      ``[M, C]``, number of cases left out).
    """
    members: dict[Any, list[int]] = collections.defaultdict(list)
    for k, case in enumerate(cases):
        members[case].append(k)
    ranked = task.ordinal or task.num_classes == 2
    rows, left_out = [], 0
    for indices in members.values():
        known = labels[indices][labels[indices] != MISSING]
        if not known.size or (not ranked and np.unique(known).size > 1):
            left_out += 1
            continue
        rows.append((indices[0], int(known.max()), probabilities[indices].mean(axis=0)))
    return (
        np.asarray([r[0] for r in rows], int),
        np.asarray([r[1] for r in rows], int),
        np.asarray([r[2] for r in rows]).reshape(-1, task.num_classes),
        left_out,
    )
