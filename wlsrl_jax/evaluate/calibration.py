"""Temperature scaling of probabilities, fitted on validation.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
"""

from __future__ import annotations

import numpy as np

_BOUNDS = (-3.0, 3.0)  # of log T
_SMALLEST = 1e-30


def scale(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Divides the logits that the probabilities came from by a temperature.

    Args:
      probabilities: ``[N, C]``, rows sum to 1.
      temperature: above 1 softens, 1 changes nothing.

    Returns:
      float64 ``[N, C]``, rows sum to 1; the order of the classes stays.
    """
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), _SMALLEST)) / temperature
    out = np.exp(logits - logits.max(axis=1, keepdims=True))
    return out / out.sum(axis=1, keepdims=True)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """Finds the temperature of the smallest log loss.

    Args:
      labels: ``[N]`` integers in ``[0, C)``; negative ones are left out.
      probabilities: ``[N, C]``.

    Returns:
      The temperature, in e^-3..e^3; None where fewer than two classes have examples.
    """
    from scipy.optimize import minimize_scalar

    known = np.asarray(labels) >= 0
    labels, probabilities = np.asarray(labels)[known], np.asarray(probabilities)[known]
    if np.unique(labels).size < 2:
        return None
    rows = np.arange(labels.size)

    def log_loss(log_temperature: float) -> float:
        p = scale(probabilities, float(np.exp(log_temperature)))[rows, labels]
        return float(-np.log(np.maximum(p, _SMALLEST)).mean())

    return float(np.exp(minimize_scalar(log_loss, bounds=_BOUNDS, method="bounded").x))
