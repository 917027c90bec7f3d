"""How uncertain a prediction is, and what referring the most uncertain ones brings.

Leibig et al., Leveraging uncertainty information from deep neural networks for disease
detection, Scientific Reports 7, 2017.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wlsrl_jax.metrics import evaluate_task, labelled
from wlsrl_jax.tasks import MISSING, Task

MEASURES = ("entropy", "mutual_information", "one_minus_confidence")
FRACTIONS = np.linspace(0.0, 0.9, 19)


def uncertainties(members: np.ndarray) -> dict[str, np.ndarray]:
    """Measures of uncertainty of the mean of several predictions.

    Args:
      members: ``[M, N, C]`` probabilities of M members.

    Returns:
      "entropy" of the mean, "mutual_information", the part of it that comes from members
      that disagree (Houlsby et al. 2011; 0 for one member), and "one_minus_confidence", each
      ``[N]``, in nats or probability.
    """
    mean = members.mean(axis=0)
    total = _entropy(mean)
    shared = _entropy(members).mean(axis=0)
    return {
        "entropy": total,
        "mutual_information": np.maximum(total - shared, 0.0),
        "one_minus_confidence": 1.0 - mean.max(axis=-1),
    }


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.maximum(p, 1e-30))).sum(axis=-1)


def referral_curve(
    task: Task, labels: np.ndarray, probabilities: np.ndarray, uncertainty: np.ndarray
) -> dict[str, Any]:
    """Performance on what is left when the most uncertain images are referred to a person.

    Of equally uncertain images the later one is referred first.

    Args:
      task: the task.
      labels: ``[N]`` integers, or ``MISSING``, which is left out.
      probabilities: ``[N, C]``.
      uncertainty: ``[N]``, higher is referred earlier.

    Returns:
      {"referred": fractions, metric -> values at them (NaN where undefined), "area": metric ->
      mean over the fractions where it is defined}.
    """
    known = np.asarray(labels) != MISSING
    labels, probabilities = labelled(task, labels, probabilities)
    order = np.argsort(uncertainty[known], kind="stable")
    names = ["accuracy", "balanced_accuracy", "auroc", *(["qwk"] if task.ordinal else [])]
    values: dict[str, list[float]] = {name: [] for name in names}
    for fraction in FRACTIONS:
        left = order[: max(1, round(labels.size * (1 - fraction)))]
        found, _ = evaluate_task(task, labels[left], probabilities[left])
        for name in names:
            values[name].append(found[name])
    area = {
        n: float(np.nanmean(v)) if np.isfinite(v).any() else float("nan") for n, v in values.items()
    }
    return {"referred": FRACTIONS.round(4).tolist(), **values, "area": area}
