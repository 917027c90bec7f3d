"""Classification metrics of a task, from probabilities and labels.

A metric that is undefined (a class without examples, a single class) is NaN and comes
with the reason; it is never 0.
"""

from __future__ import annotations

import warnings

import numpy as np

from wlsrl_jax.tasks import MISSING, Task

Metrics = dict[str, float]


def evaluate_task(
    task: Task, labels: np.ndarray, probabilities: np.ndarray
) -> tuple[Metrics, dict[str, str]]:
    """Computes the metrics of one task over the labelled examples.

    Balanced accuracy is the mean recall over the classes that have examples, macro-F1
    the mean F1 over the same classes; both are undefined where that is one class. AUROC of
    more than two classes is the macro mean of one class against the rest. Sensitivity and
    specificity of a two-class task take class 1 (abnormal) as positive; of a larger one
    they are macro means of one against the rest. QWK is quadratic-weighted Cohen's kappa
    (Cohen 1968), for ordinal tasks.

    Args:
      task: the task.
      labels: ``[N]`` integers in ``[0, C)``, or ``MISSING``, which is left out.
      probabilities: ``[N, C]``, rows sum to 1.

    Returns:
      (metric name -> value, metric name -> reason why it is NaN).

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
    from sklearn.metrics import confusion_matrix  # a second to import: not before it is needed

    count = labels.size
    names = ["accuracy", "balanced_accuracy", "macro_f1", "auroc", "sensitivity", "specificity"]
    names += ["qwk"] if task.ordinal else []
    if not count:
        reason = "no labelled example in this split"
        return {"count": 0, **dict.fromkeys(names, float("nan"))}, dict.fromkeys(names, reason)

    predicted = probabilities.argmax(axis=1)
    present = np.unique(labels)
    absent = [task.classes[k] for k in range(task.num_classes) if k not in present]
    matrix = confusion_matrix(labels, predicted, labels=np.arange(task.num_classes))
    true = np.diag(matrix).astype(float)
    actual, claimed = matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = true / actual
        specificity = (count - actual - claimed + true) / (count - actual)
        f1 = 2 * true / (actual + claimed)
    values: Metrics = {
        "count": count,
        "accuracy": true.sum() / count,
        "balanced_accuracy": recall[present].mean(),
        "macro_f1": f1[present].mean(),
    }
    undefined: dict[str, str] = {}
    only = f"only class {task.classes[present[0]]} has examples" if present.size == 1 else ""
    values["auroc"] = _auroc(labels, probabilities, present)
    if only:  # a constant answer would be perfect
        values |= {"balanced_accuracy": np.nan, "macro_f1": np.nan}
        undefined |= dict.fromkeys(("auroc", "balanced_accuracy", "macro_f1"), only)
    if task.num_classes == 2:
        values["sensitivity"], values["specificity"] = recall[1], specificity[1]
        undefined |= {"sensitivity": only} if 1 not in present else {}
        undefined |= {"specificity": only} if 0 not in present else {}
    else:
        values["sensitivity"] = np.nan if only else recall[present].mean()
        values["specificity"] = np.nan if only else specificity[present].mean()
        undefined |= dict.fromkeys(("sensitivity", "specificity"), only) if only else {}
    if task.ordinal:
        values["qwk"] = quadratic_weighted_kappa(labels, predicted, task.num_classes)
        if only:  # kappa compares with chance, and chance needs a second class
            values["qwk"], undefined["qwk"] = np.nan, only
    if absent:
        undefined["classes_without_examples"] = ", ".join(absent)
    return {k: float(v) for k, v in values.items()}, undefined


def _auroc(labels: np.ndarray, probabilities: np.ndarray, present: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    if present.size < 2:
        return float("nan")
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(labels == 1, probabilities[:, 1]))
    return float(np.mean([roc_auc_score(labels == k, probabilities[:, k]) for k in present]))


def quadratic_weighted_kappa(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> float:
    """Quadratic-weighted Cohen's kappa.

    Args:
      labels: ``[N]`` integers in ``[0, C)``.
      predicted: ``[N]`` integers in ``[0, C)``.
      num_classes: C.

    Returns:
      The kappa; NaN if chance agreement is perfect, where it is undefined.

    References:
      Cohen, Weighted kappa, Psychological Bulletin 70(4), 1968.
    """
    from sklearn.metrics import cohen_kappa_score

    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore")
        return float(
            cohen_kappa_score(labels, predicted, labels=np.arange(num_classes), weights="quadratic")
        )


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
