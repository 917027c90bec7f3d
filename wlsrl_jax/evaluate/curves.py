"""ROC, precision-recall and reliability curves, with bands by bootstrap over groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from wlsrl_jax.evaluate import bootstrap
from wlsrl_jax.evaluate.telling import Tell, silent
from wlsrl_jax.metrics import CALIBRATION_BINS, RankCurve, calibration_bins

GRID = np.linspace(0.0, 1.0, 101)
REPLICATES = 400  # enough for a band in a plot
_KINDS = ("roc", "pr")


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


def rank_curves(
    cases: Mapping[str, tuple[np.ndarray, np.ndarray]],
    groups: np.ndarray,
    *,
    tell: Tell = silent,
) -> dict[str, Any]:
    """ROC and precision-recall curves of scores with pointwise 95% bands.

    Args:
      cases: name -> (truth ``[N]`` bool with both values, score ``[N]``).
      groups: ``[N]`` group numbers.
      tell: is told how far it is.

    Returns:
      Name -> {"roc": {"y", "low", "high"}, "pr": {...}}, each ``[101]`` over ``GRID`` (false
      positive rate, recall).
    """
    if not cases:
        return {}

    def lines_of(weights: np.ndarray) -> dict[str, np.ndarray]:
        lines = {}
        for name, (truth, score) in cases.items():
            curve = RankCurve(truth, score, weights, merged=True)
            lines[f"roc/{name}"], lines[f"pr/{name}"] = _roc(curve), _precision(curve)
        return lines

    point = lines_of(np.ones((1, groups.size)))
    drawn = bootstrap.replicated(lines_of, groups, replicates=REPLICATES, tell=tell)
    return {
        name: {kind: _band(point[f"{kind}/{name}"], drawn[f"{kind}/{name}"]) for kind in _KINDS}
        for name in cases
    }


def _band(point: np.ndarray, lines: np.ndarray) -> dict[str, list[float]]:
    good = lines[np.isfinite(lines[:, 0])]
    tail = (1 - bootstrap.LEVEL) / 2
    low, high = np.quantile(good, [tail, 1 - tail], axis=0) if len(good) else (point, point)
    return {
        "y": point[0].round(5).tolist(),
        "low": np.ravel(low).round(5).tolist(),
        "high": np.ravel(high).round(5).tolist(),
    }


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
