"""Classification metrics of a task, from probabilities, labels and weights of the examples.

All of them are computed for many weightings of the same examples at once: one of ones gives
the value, a few thousand random ones a bootstrap interval (``evaluate/bootstrap.py``).
scikit-learn has most of these metrics one weighting at a time, which is minutes instead of
seconds; the tests hold every one to it.

A metric that is undefined (a class without examples, a class that is never predicted) is NaN,
with the reason; it is never 0.
"""

from __future__ import annotations

import numpy as np

from wlsrl_jax.tasks import MISSING, Task

Metrics = dict[str, float]
Columns = dict[str, np.ndarray]

CALIBRATION_BINS = 15
OVERALL = (
    "accuracy", "balanced_accuracy", "macro_f1", "mcc", "sensitivity", "specificity", "ppv", "npv",
    "auroc", "auprc", "brier", "log_loss", "ece", "ece_equal_mass",
)  # fmt: skip
"""Metrics of every task; an ordinal one has "qwk" as well."""
PER_CLASS = ("prevalence", "sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "auprc")


def evaluate_task(
    task: Task, labels: np.ndarray, probabilities: np.ndarray
) -> tuple[Metrics, dict[str, str]]:
    """Computes the metrics of one task over the labelled examples; see ``weighted_metrics``.

    Args:
      task: the task.
      labels: ``[N]`` integers in ``[0, C)``, or ``MISSING``, which is left out.
      probabilities: ``[N, C]``, rows sum to 1.

    Returns:
      (metric name -> value, metric name -> reason why it is NaN).

    Raises:
      ValueError: if the shapes disagree or a probability is not finite.
    """
    labels, probabilities = labelled(task, labels, probabilities)
    columns, _ = weighted_metrics(task, labels, probabilities, np.ones((1, labels.size)))
    values = {"count": float(labels.size), **{k: float(v[0]) for k, v in columns.items()}}
    return values, undefined_reasons(task, labels, probabilities, values)


def labelled(
    task: Task, labels: np.ndarray, probabilities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Checks labels and probabilities and drops examples without label.

    Args:
      task: the task.
      labels: ``[N]`` integers in ``[0, C)`` or ``MISSING``.
      probabilities: ``[N, C]``.

    Returns:
      (labels ``[M]``, probabilities float64 ``[M, C]``) of the labelled ones.

    Raises:
      ValueError: if the shapes disagree or a probability is not finite.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, np.float64)
    if probabilities.shape != (labels.size, task.num_classes):
        raise ValueError(
            f"Task {task.name}: probabilities have shape {probabilities.shape}, expected "
            f"({labels.size}, {task.num_classes})."
        )
    known = labels != MISSING
    labels, probabilities = labels[known], probabilities[known]
    if not np.isfinite(probabilities).all():
        raise ValueError(f"Task {task.name}: a predicted probability is not finite.")
    return labels, probabilities


def weighted_metrics(
    task: Task, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> tuple[Columns, dict[str, Columns]]:
    """Computes every metric for every row of weights.

    The predicted class is the most probable one. Balanced accuracy is the mean recall over the
    classes that have examples, macro-F1 the mean F1 over the same classes. AUROC of more than
    two classes is the macro mean of one class against the rest; AUPRC is average precision,
    likewise. Sensitivity, specificity, PPV and NPV of a two-class task take class 1 (abnormal)
    as positive; of a larger one they are macro means of one against the rest. MCC is that of
    Gorodkin (2004), QWK quadratic-weighted Cohen's kappa (Cohen 1968), for ordinal tasks. The
    Brier score of two classes is that of class 1, of more the sum over classes (Brier 1950), as
    in scikit-learn. ECE compares the confidence in the predicted class with its accuracy, in
    ``CALIBRATION_BINS`` bins of equal width (Guo et al. 2017) or of equal mass (Nguyen and
    O'Connor 2015).

    Args:
      task: the task.
      labels: ``[N]`` integers in ``[0, C)``.
      probabilities: ``[N, C]``, rows sum to 1.
      weights: ``[R, N]``, not negative.

    Returns:
      (metric -> ``[R]``, class -> metric of that class against the rest -> ``[R]``). NaN where
      undefined: where a class of ``labels`` has no weight, and where all labels are one class.
    """
    weights = np.asarray(weights, np.float64)
    classes = task.num_classes
    names = [*OVERALL, *(["qwk"] if task.ordinal else [])]
    if not labels.size:
        nothing = np.full(weights.shape[0], np.nan)
        each = {c: {m: nothing for m in PER_CLASS} for c in task.classes}
        return {n: nothing for n in names}, each
    present = np.unique(labels)
    predicted = probabilities.argmax(axis=1)
    matrix = confusion(labels, predicted, weights, classes)
    total = matrix.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        one = _one_against_rest(matrix)
        one["auroc"] = np.full_like(one["f1"], np.nan)
        one["auprc"] = np.full_like(one["f1"], np.nan)
        for k in present if present.size > 1 else ():
            curves = RankCurve(labels == k, probabilities[:, k], weights, merged=True)
            one["auroc"][:, k], one["auprc"][:, k] = curves.auroc(), curves.average_precision()
        # A constant answer would be perfect where there is one class.
        means = {
            k: v[:, present].mean(axis=1) if present.size > 1 else np.full(len(v), np.nan)
            for k, v in one.items()
        }
        values = {
            "accuracy": matrix.trace(axis1=1, axis2=2) / total,
            "balanced_accuracy": means["sensitivity"],
            "macro_f1": means["f1"],
            "mcc": _mcc(matrix),
            **{k: means[k] for k in ("sensitivity", "specificity", "ppv", "npv")},
            "auroc": means["auroc"],
            "auprc": means["auprc"],
            "brier": _brier(labels, probabilities, weights),
            "log_loss": _log_loss(labels, probabilities, weights),
        }
    if classes == 2:
        positive = ("sensitivity", "specificity", "ppv", "npv", "auroc", "auprc")
        values |= {k: one[k][:, 1] for k in positive}
    confidence, correct = probabilities.max(axis=1), predicted == labels
    for name, equal_mass in (("ece", False), ("ece_equal_mass", True)):
        values[name] = calibration_error(confidence, correct, weights, equal_mass=equal_mass)
    if task.ordinal:
        values["qwk"] = _qwk(matrix)
        if present.size < 2:  # kappa compares with chance, and chance needs a second class
            values["qwk"] = np.full(len(total), np.nan)
    each = {
        c: {m: np.ascontiguousarray(one[m][:, k]) for m in PER_CLASS}
        for k, c in enumerate(task.classes)
    }
    return {n: values[n] for n in names}, each


def undefined_reasons(
    task: Task, labels: np.ndarray, probabilities: np.ndarray, values: Metrics
) -> dict[str, str]:
    """Says of each metric that is NaN why, and which classes have no example.

    Args:
      task: the task.
      labels: ``[N]`` integers in ``[0, C)``.
      probabilities: ``[N, C]``.
      values: metric name -> value.

    Returns:
      Metric name -> reason.
    """
    if not labels.size:
        return dict.fromkeys((k for k in values if k != "count"), "no labelled example here")
    present = np.unique(labels)
    absent = [task.classes[k] for k in range(task.num_classes) if k not in present]
    never = [task.classes[k] for k in present if k not in probabilities.argmax(axis=1)]
    reasons: dict[str, str] = {}
    for name, value in values.items():
        if not np.isnan(value):
            continue
        if present.size == 1:
            reasons[name] = f"only class {task.classes[present[0]]} has examples"
        elif never:
            reasons[name] = f"never predicted: {', '.join(never)}"
        else:
            reasons[name] = "all predictions are one class"
    if absent:
        reasons["classes_without_examples"] = ", ".join(absent)
    return reasons


def confusion(
    labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray, classes: int
) -> np.ndarray:
    """Counts (true class, predicted class) by weight.

    Args:
      labels: ``[N]`` integers in ``[0, C)``.
      predicted: ``[N]`` integers in ``[0, C)``.
      weights: ``[R, N]``.
      classes: C.

    Returns:
      ``[R, C, C]``, true class first.
    """
    order = np.argsort(labels * classes + predicted, kind="stable")
    cell, starts = np.unique((labels * classes + predicted)[order], return_index=True)
    matrix = np.zeros((len(weights), classes * classes))
    ordered = np.take(np.asarray(weights, np.float64), order, axis=1)
    matrix[:, cell] = np.add.reduceat(ordered, starts, axis=1)
    return matrix.reshape(-1, classes, classes)


def _one_against_rest(matrix: np.ndarray) -> Columns:
    """Metric -> ``[R, C]`` of each class against the rest."""
    total = matrix.sum(axis=(1, 2))[:, None]
    true = np.diagonal(matrix, axis1=1, axis2=2)
    actual, claimed = matrix.sum(axis=2), matrix.sum(axis=1)
    true_negative = total - actual - claimed + true
    f1 = 2 * true / (actual + claimed)
    return {
        "prevalence": actual / total,
        "sensitivity": true / actual,
        "specificity": true_negative / (total - actual),
        "ppv": true / claimed,
        "npv": true_negative / (total - claimed),
        "f1": np.where(actual > 0, f1, np.nan),
    }


def _mcc(matrix: np.ndarray) -> np.ndarray:
    total = matrix.sum(axis=(1, 2))
    actual, claimed = matrix.sum(axis=2), matrix.sum(axis=1)
    covariance = matrix.trace(axis1=1, axis2=2) * total - (actual * claimed).sum(axis=1)
    spread = (total**2 - (actual**2).sum(axis=1)) * (total**2 - (claimed**2).sum(axis=1))
    return np.where(spread > 0, covariance / np.sqrt(np.maximum(spread, 0)), np.nan)


def _qwk(matrix: np.ndarray) -> np.ndarray:
    grade = np.arange(matrix.shape[1])
    penalty = (grade[:, None] - grade[None, :]) ** 2
    actual, claimed = matrix.sum(axis=2), matrix.sum(axis=1)
    expected = actual[:, :, None] * claimed[:, None, :] / matrix.sum(axis=(1, 2), keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1.0 - (penalty * matrix).sum(axis=(1, 2)) / (penalty * expected).sum(axis=(1, 2))


class RankCurve:
    """ROC and precision-recall curves of a score for many weightings, ties in one step.

    Args:
      positive: ``[N]`` bool.
      score: ``[N]``, higher is more positive.
      weights: ``[R, N]``; whole numbers, such as how often an example was drawn, are added
        without rounding.
      merged: whether thresholds between which no positive lies are one. Curves and areas stay
        what they are, and where positives are few they take a fraction of the time.
    """

    def __init__(
        self, positive: np.ndarray, score: np.ndarray, weights: np.ndarray, *, merged: bool = False
    ) -> None:
        order = np.argsort(-score, kind="stable")
        descending, hit = score[order], positive[order]
        new = np.r_[True, descending[1:] != descending[:-1]]
        starts = np.flatnonzero(new)
        self._distinct = starts.size
        last = np.arange(starts.size)  # distinct score that each threshold ends at
        if merged and (weights.dtype == np.float64 or _is_exact(positive, weights)):
            rising = np.logical_or.reduceat(hit, starts)
            last = np.flatnonzero(rising | np.r_[rising[1:], True])
        self._last = last
        self.thresholds = descending[starts[last]]
        """``[U]`` scores, descending; all distinct ones unless merged."""
        ends = np.r_[starts[1:], hit.size][last]  # one behind the last example
        negative = np.take(weights, order, axis=1)  # far faster than weights[:, order]
        positions = np.flatnonzero(hit)
        own = np.take(negative, positions, axis=1)
        negative[:, positions] = 0
        self.true = _sums(own, np.r_[0, np.cumsum(hit)][ends])
        """``[R, U]`` weight of positives at or above each threshold."""
        self.false = _sums(negative, ends)
        """``[R, U]`` weight of negatives at or above each threshold."""

    def auroc(self) -> np.ndarray:
        """``[R]`` area under the ROC curve; NaN without positives or negatives."""
        before = np.pad(self.true, ((0, 0), (1, 0)))[:, :-1]
        step = np.diff(self.false, axis=1, prepend=0.0)
        area = (step * (before + self.true) / 2).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return area / (self.true[:, -1] * self.false[:, -1])

    def average_precision(self) -> np.ndarray:
        """``[R]`` sum of precision times the step of recall; NaN without positives."""
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = self.true / (self.true + self.false)
            step = np.diff(self.true, axis=1, prepend=0.0)
            terms = np.where(step > 0, precision * step, 0.0)
            # Zeros where thresholds were merged: NumPy adds in another order without them.
            spread = np.zeros((len(terms), self._distinct), terms.dtype)
            spread[:, self._last] = terms
            return spread.sum(axis=1) / self.true[:, -1]


def _is_exact(positive: np.ndarray, weights: np.ndarray) -> bool:
    """Whether areas of whole weights are free of rounding, so that their order is free."""
    true = weights @ positive.astype(weights.dtype)
    area = (true * (weights.sum(axis=1) - true)).max(initial=0)
    return bool(area < 2.0 ** (np.finfo(weights.dtype).nmant - 1))


def _sums(values: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """``[R, U]`` sums of ``[R, N]`` before each of the ascending ``ends``."""
    if 4 * ends.size > values.shape[1]:  # short runs, for which reduceat is slow
        return np.pad(values.cumsum(axis=1), ((0, 0), (1, 0)))[:, ends]
    filled = np.r_[True, np.diff(ends) > 0] & (ends > 0)
    starts = np.r_[0, ends[filled]][:-1]
    out = np.zeros((len(values), ends.size), values.dtype)
    if starts.size:
        out[:, filled] = np.add.reduceat(values[:, : ends[-1]], starts, axis=1)
    return out.cumsum(axis=1, out=out)


def _brier(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    truth = np.eye(probabilities.shape[1])[labels]
    loss = ((probabilities - truth) ** 2).sum(axis=1)
    return weights @ (loss / 2 if probabilities.shape[1] == 2 else loss) / weights.sum(axis=1)


def _log_loss(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    smallest = np.finfo(np.float64).eps
    chosen = probabilities[np.arange(labels.size), labels]
    return weights @ -np.log(np.clip(chosen, smallest, 1.0)) / weights.sum(axis=1)


def calibration_bins(
    confidence: np.ndarray, weights: np.ndarray, *, equal_mass: bool
) -> np.ndarray:
    """Bins of confidence; examples of equal confidence share one.

    Args:
      confidence: ``[N]`` in 0..1.
      weights: ``[R, N]``.
      equal_mass: whether bins hold equal weight instead of having equal width.

    Returns:
      Bin of each example: ``[N]`` for equal width, ``[R, N]`` for equal mass.
    """
    if not equal_mass:
        bins = np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1  # (0, 1/15], (1/15, 2/15]
        return np.clip(bins, 0, CALIBRATION_BINS - 1)
    _, tie = np.unique(confidence, return_inverse=True)
    starts = np.flatnonzero(np.r_[True, np.diff(np.sort(tie)) > 0])
    mass = np.take(weights, np.argsort(tie, kind="stable"), axis=1)
    if starts.size < tie.size:
        mass = np.add.reduceat(mass, starts, axis=1)
    middle = (mass.cumsum(axis=1) - mass / 2) / mass.sum(axis=1, keepdims=True)
    bins = np.minimum((middle * CALIBRATION_BINS).astype(np.int8), CALIBRATION_BINS - 1)
    return np.take(bins, tie, axis=1)


def calibration_error(
    confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray, *, equal_mass: bool
) -> np.ndarray:
    """Expected calibration error; see ``weighted_metrics``.

    Args:
      confidence: ``[N]`` in 0..1, of the predicted class.
      correct: ``[N]`` bool.
      weights: ``[R, N]``.
      equal_mass: see ``calibration_bins``.

    Returns:
      ``[R]``.
    """
    gap = weights * (confidence - correct)
    bins = calibration_bins(confidence, weights, equal_mass=equal_mass)
    error = np.zeros(len(weights))
    for k in range(CALIBRATION_BINS):
        inside = bins == k
        error += np.abs(gap[:, inside].sum(axis=1) if inside.ndim == 1 else (gap * inside).sum(1))
    return error / weights.sum(axis=1)


def selection_score(results: dict[str, Metrics]) -> float:
    """The number that chooses a checkpoint, from validation metrics.

    The mean over tasks; of a task, the mean of AUROC and QWK where it is ordinal, else of
    AUROC and macro-F1. Undefined parts are left out.

    Args:
      results: task -> metrics.

    Returns:
      A number, higher is better; ``-inf`` if nothing is defined.
    """
    scores = []
    for values in results.values():
        names = ["qwk", "auroc"] if "qwk" in values else ["macro_f1", "auroc"]
        parts = [values[n] for n in names if not np.isnan(values[n])]
        if parts:
            scores.append(np.mean(parts))
    return float(np.mean(scores)) if scores else float("-inf")
