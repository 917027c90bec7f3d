"""Means over seeds and folds with intervals over seeds and patients, and tests against a baseline.

Both sources of chance are resampled, crossed: the same draw of patients for every seed and every
condition, the same draw of seeds for every condition, so that what two conditions share cancels
in their difference (the "pigeonhole bootstrap", slightly conservative: Owen 2007). Folds have
other patients and are not resampled themselves.

Of S seeds, S - 1 are drawn: with so few, drawing S would make the variance of their mean too
small by (S - 1) / S (Rao and Wu 1988). Three seeds say little about how much seeds vary, which
the interval takes into account as Student's does: it is widened by the quantile of a t
distribution whose degrees of freedom follow from those of the two sources (Satterthwaite 1946).

References:
  Owen, The Pigeonhole Bootstrap, Annals of Applied Statistics 1(2), 2007.
  Rao and Wu, Resampling Inference With Complex Survey Data, JASA 83, 1988.
  Satterthwaite, An Approximate Distribution of Estimates of Variance Components, Biometrics
    Bulletin 2(6), 1946.
  Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statistics 6, 1979.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from wlsrl_jax.evaluate.bootstrap import LEVEL

_FEWEST = 0.5  # of the replicates must be defined
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True)
class Sample:
    """A metric of one condition on one test set, a row a seed.

    Attributes:
      point: ``[S]`` values on the test set as it is.
      drawn: ``[S, R]`` values on the replicates of its patients.
      groups: number of patients.
    """

    point: np.ndarray
    drawn: np.ndarray
    groups: int

    def __sub__(self, other: Sample) -> Sample:
        return Sample(self.point - other.point, self.drawn - other.drawn, self.groups)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
      value: mean over folds of the means over seeds.
      low: end of the interval, NaN where there is none.
      high: its other end.
      p: two-sided p-value of "the value is 0".
      seeds: ``[S]`` values of the seeds, means over folds; of every cell where folds have
        different seeds.
    """

    value: float
    low: float
    high: float
    p: float
    seeds: tuple[float, ...]


def estimate(samples: Sequence[Sample], *, level: float = LEVEL, seed: int = 0) -> Estimate:
    """Mean of a metric with its interval over seeds and patients.

    Args:
      samples: a sample a fold, all with the same number of replicates.
      level: of confidence.
      seed: of the drawing of seeds.

    Returns:
      The estimate. Without a value where one of the seeds has none, without an interval where
      fewer than half of the replicates are defined. With one seed, the interval is over patients
      alone.
    """
    from scipy import stats  # half a second to import: not before it is needed

    value = float(np.mean([s.point.mean() for s in samples]))
    points = [s.point for s in samples]
    even = len({len(p) for p in points}) == 1  # else a fold is not finished yet
    own = tuple((np.mean(points, axis=0) if even else np.concatenate(points)).tolist())
    nothing = Estimate(value, math.nan, math.nan, math.nan, own)
    if not math.isfinite(value):
        return nothing
    rng = np.random.default_rng(seed)
    total, patients = 0.0, 0.0
    parts = []  # (variance, degrees of freedom)
    for sample in samples:
        count, replicates = sample.drawn.shape
        total = total + _mean_of_seeds(sample.drawn, rng) / len(samples)
        patients = patients + sample.drawn.mean(axis=0) / len(samples)
        if count > 1:
            spread = float(sample.point.var(ddof=1)) / count / len(samples) ** 2
            parts.append((spread, count - 1))
    total = np.asarray(total)
    good = np.isfinite(total)
    groups = sum(s.groups for s in samples)
    if good.sum() < max(2, _FEWEST * good.size) or groups < 2:
        return nothing
    # The bootstrap's variance of a mean over G patients is too small by (G - 1) / G.
    wider = math.sqrt(groups / (groups - 1))
    parts.append((float(np.nanvar(patients)), groups - 1))
    error = float(total[good].std()) * wider
    if error < _ROUNDING:  # all replicates are equal: resampling says nothing
        return nothing
    freedom = sum(v for v, _ in parts) ** 2 / sum(v**2 / d for v, d in parts)
    width = wider * float(stats.t.ppf((1 + level) / 2, freedom) / stats.norm.ppf((1 + level) / 2))
    low, high = np.quantile(total[good], [(1 - level) / 2, (1 + level) / 2])
    return Estimate(
        value,
        value - width * (value - float(low)),
        value + width * (float(high) - value),
        float(2 * stats.t.sf(abs(value) / error, freedom)),
        own,
    )


def _mean_of_seeds(drawn: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """From ``[S, R]``, ``[R]`` means over S - 1 seeds drawn with replacement."""
    count, replicates = drawn.shape
    if count == 1:
        return drawn[0]
    rows = rng.integers(0, count, (count - 1, replicates))
    return drawn[rows, np.arange(replicates)].mean(axis=0)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number: the chance of any false alarm stays below the level.

    Args:
      p_values: of the comparisons; NaN stays NaN and does not count.

    Returns:
      The corrected ones, in the same order.
    """
    known = sorted((p, k) for k, p in enumerate(p_values) if not math.isnan(p))
    corrected, running = [math.nan] * len(p_values), 0.0
    for rank, (p, k) in enumerate(known):
        running = max(running, min(1.0, p * (len(known) - rank)))
        corrected[k] = running
    return corrected
