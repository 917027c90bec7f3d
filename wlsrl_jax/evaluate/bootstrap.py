"""Confidence intervals and tests by resampling groups (patients), not images.

Images of one patient are alike, so resampling images would make intervals too narrow.

References:
  Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
  Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician 69(4), 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from wlsrl_jax.evaluate.telling import Tell, silent

LEVEL = 0.95
REPLICATES = 2000
_CHUNK = 2_000_000  # weights at a time
_FEWEST = 0.5  # of the replicates must be defined


def group_index(groups: Sequence[Any]) -> np.ndarray:
    """Numbers ``[N]`` of the groups of ``N`` examples, from 0."""
    return np.unique(np.asarray(groups), return_inverse=True)[1]


def replicate_weights(
    index: np.ndarray, *, replicates: int = REPLICATES, seed: int = 0
) -> Iterator[np.ndarray]:
    """Draws groups with replacement, as many as there are.

    Args:
      index: ``[N]`` group numbers, from 0.
      replicates: R.
      seed: of the drawing.

    Yields:
      float32 ``[r, N]``, how often each example was drawn; the r add up to R. The same
      replicates for the same (index, seed), so that two models can be compared on them.
    """
    count = int(index.max()) + 1
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // max(index.size, 1))
    for start in range(0, replicates, rows):
        size = min(rows, replicates - start)
        drawn = rng.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        # Not np.take: the order in memory decides how products are rounded.
        yield times.astype(np.float32)[:, index]


def replicated(
    function: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    index: np.ndarray,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    tell: Tell = silent,
) -> dict[str, np.ndarray]:
    """Values of statistics on every replicate.

    Args:
      function: weights ``[r, N]`` -> name -> ``[r]`` or ``[r, ...]``.
      index: ``[N]`` group numbers.
      replicates: R.
      seed: of the drawing.
      tell: is told how many replicates are done.

    Returns:
      Name -> ``[R]`` or ``[R, ...]``.
    """
    parts, done = [], 0
    for weights in replicate_weights(index, replicates=replicates, seed=seed):
        parts.append(function(weights))
        done += len(weights)
        tell(f"{done} of {replicates} replicates")
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def interval(values: np.ndarray, groups: int, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval, widened for few groups (Hesterberg 2015, "expanded percentile").

    Args:
      values: ``[R]`` of the replicates; undefined ones (NaN) are left out.
      groups: number of groups that were resampled.
      level: of confidence.

    Returns:
      (low, high); NaN where fewer than half of the replicates are defined or there is one group.
    """
    from scipy import stats  # half a second to import: not before it is needed

    good = values[np.isfinite(values)]
    if groups < 2 or good.size < _FEWEST * values.size or not good.size:
        return float("nan"), float("nan")
    quantile = stats.t.ppf((1 - level) / 2, groups - 1) * np.sqrt(groups / (groups - 1))
    tail = stats.norm.cdf(quantile)
    low, high = np.quantile(good, [tail, 1 - tail])
    return float(low), float(high)


def p_value(differences: np.ndarray) -> float:
    """Two-sided p-value of "no difference", from differences ``[R]`` on the replicates.

    Twice the smaller share of replicates on one side of zero, one added to count and number
    so that it is never 0 (Davison and Hinkley 1997, section 4.2).

    Returns:
      The p-value; NaN where fewer than half of the replicates are defined.
    """
    good = differences[np.isfinite(differences)]
    if good.size < _FEWEST * differences.size or not good.size:
        return float("nan")
    below = (np.sum(good <= 0) + 1) / (good.size + 1)
    above = (np.sum(good >= 0) + 1) / (good.size + 1)
    return float(min(1.0, 2 * min(below, above)))


def with_intervals(
    function: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    index: np.ndarray,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    trials: Mapping[str, np.ndarray] | None = None,
    tell: Tell = silent,
) -> dict[str, dict[str, float]]:
    """Statistics with their intervals.

    Where all replicates are equal, resampling says nothing. A proportion of 0 or 1 then has the
    exact binomial interval (Clopper and Pearson 1934) with the groups as its number of trials;
    anything else has none.

    Args:
      function: weights ``[r, N]`` -> name -> ``[r]``.
      index: ``[N]`` group numbers.
      replicates: R.
      seed: of the drawing.
      trials: name of a proportion -> ``[N]`` bool, the examples in its denominator.
      tell: is told how many replicates are done.

    Returns:
      Name -> {"value", "low", "high"}.
    """
    point = function(np.ones((1, index.size)))
    drawn = replicated(function, index, replicates=replicates, seed=seed, tell=tell)
    groups = int(index.max()) + 1
    out = {}
    for name, values in point.items():
        value, ends = float(values[0]), (np.nan, np.nan)
        if np.isfinite(value):  # what is undefined has no interval, whatever replicates say
            ends = interval(drawn[name], groups)
            if ends[0] == ends[1]:
                inside = (trials or {}).get(name)
                ends = (np.nan, np.nan)
                if inside is not None and value in (0.0, 1.0):
                    ends = exact_interval(value, np.unique(index[inside]).size)
        out[name] = {"value": value, "low": float(ends[0]), "high": float(ends[1])}
    return out


def exact_interval(value: float, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Clopper-Pearson interval of a proportion of 0 or 1."""
    edge = ((1 - level) / 2) ** (1 / trials)
    return (edge, 1.0) if value == 1.0 else (0.0, 1.0 - edge)
