"""ROC, precision-recall and reliability curves, with bands by bootstrap over groups."""

from __future__ import annotations

from typing import Any

import numpy as np

from wlsrl_jax.evaluate import bootstrap
from wlsrl_jax.metrics import CALIBRATION_BINS, RankCurve, calibration_bins

GRID = np.linspace(0.0, 1.0, 101)
REPLICATES = 400  # enough for a band in a plot


def _roc(curve: RankCurve) -> np.ndarray:
    """Sensitivity ``[R, 101]`` at each false positive rate of ``GRID``."""
    rows = []
    for true, false in zip(curve.true, curve.false, strict=True):
        if true[-1] > 0 and false[-1] > 0:
            x, y = np.r_[0.0, false / false[-1]], np.r_[0.0, true / true[-1]]
            rows.append(np.interp(GRID, x, y))
        else:
            rows.append(np.full(GRID.size, np.nan))
    return np.stack(rows)


def _precision(curve: RankCurve) -> np.ndarray:
    """Precision ``[R, 101]`` at the first threshold that reaches each recall of ``GRID``."""
    rows = []
    for true, false in zip(curve.true, curve.false, strict=True):
        if true[-1] > 0:
            precision = true / np.maximum(true + false, 1e-12)
            first = np.searchsorted(true / true[-1], GRID - 1e-12)
            rows.append(precision[np.minimum(first, precision.size - 1)])
        else:
            rows.append(np.full(GRID.size, np.nan))
    return np.stack(rows)


def rank_curves(truth: np.ndarray, score: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """ROC and precision-recall curve of a score with pointwise 95% bands.

    Args:
      truth: ``[N]`` bool, with both values.
      score: ``[N]``.
      groups: ``[N]`` group numbers.

    Returns:
      {"roc": {"y", "low", "high"}, "pr": {...}}, each ``[101]`` over ``GRID`` (false positive
      rate, recall).
    """

    def both(weights: np.ndarray) -> dict[str, np.ndarray]:
        curve = RankCurve(truth, score, weights)
        return {"roc": _roc(curve), "pr": _precision(curve)}

    point = both(np.ones((1, truth.size)))
    drawn = bootstrap.replicated(both, groups, replicates=REPLICATES)
    out = {}
    for name, lines in drawn.items():
        good = lines[np.isfinite(lines[:, 0])]
        tail = (1 - bootstrap.LEVEL) / 2
        low, high = np.quantile(good, [tail, 1 - tail], axis=0) if len(good) else (point[name],) * 2
        out[name] = {
            "y": point[name][0].round(5).tolist(),
            "low": np.ravel(low).round(5).tolist(),
            "high": np.ravel(high).round(5).tolist(),
        }
    return out


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """Confidence, accuracy and number of examples of each bin of equal width that has any.

    Args:
      labels: ``[N]`` integers.
      probabilities: ``[N, C]``.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = calibration_bins(confidence, np.ones((1, labels.size)), equal_mass=False)
    return [
        {
            "confidence": float(confidence[bins == k].mean()),
            "accuracy": float(correct[bins == k].mean()),
            "count": int((bins == k).sum()),
        }
        for k in range(CALIBRATION_BINS)
        if (bins == k).any()
    ]
