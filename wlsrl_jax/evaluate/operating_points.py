"""Sensitivity and specificity at thresholds that validation has chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from wlsrl_jax.evaluate import bootstrap
from wlsrl_jax.metrics import RankCurve
from wlsrl_jax.tasks import DR_GRADES, Task

TARGET = 0.95
REFERABLE_GRADE = 2


@dataclasses.dataclass(frozen=True)
class Question:
    """A yes-or-no question to a task.

    Attributes:
      name: what is asked for.
      task: name of the task.
      positive: classes that are a yes.
    """

    name: str
    task: str
    positive: tuple[int, ...]

    def ask(self, labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(truth ``[N]`` bool, score ``[N]``) of labels ``[N]`` and probabilities ``[N, C]``."""
        return np.isin(labels, self.positive), probabilities[:, list(self.positive)].sum(axis=1)


def questions(task: Task) -> list[Question]:
    """What a task can be asked: abnormal; referable retinopathy (grade 2 or more); each class."""
    if task.num_classes == 2:
        return [Question(task.classes[1], task.name, (1,))]
    each = [Question(name, task.name, (k,)) for k, name in enumerate(task.classes)]
    if task.classes == DR_GRADES:
        grades = tuple(range(REFERABLE_GRADE, task.num_classes))
        return [Question("referable (grade 2 or more)", task.name, grades)]
    return each


def choose_thresholds(truth: np.ndarray, score: np.ndarray) -> dict[str, float]:
    """Chooses thresholds for 95% specificity and for 95% sensitivity.

    Args:
      truth: ``[N]`` bool of validation.
      score: ``[N]``; an example is a yes where its score is at least the threshold.

    Returns:
      {"specificity": the lowest threshold of at least 95% specificity, "sensitivity": the
      highest one of at least 95% sensitivity}; empty where a side has no examples.
    """
    if truth.all() or not truth.any():
        return {}
    curve = RankCurve(truth, score, np.ones((1, truth.size)))
    sensitivity = curve.true[0] / truth.sum()
    specificity = 1.0 - curve.false[0] / (~truth).sum()
    above = np.nextafter(curve.thresholds[0], np.inf)  # nobody is a yes
    specific = curve.thresholds[specificity >= TARGET]
    return {
        "specificity": float(specific[-1] if specific.size else above),
        "sensitivity": float(curve.thresholds[sensitivity >= TARGET][0]),
    }


def at_threshold(
    truth: np.ndarray, score: np.ndarray, threshold: float, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Sensitivity, specificity, PPV and NPV ``[R]`` at a threshold, for weights ``[R, N]``."""
    yes = score >= threshold
    sides = np.stack([truth, ~truth, yes, ~yes, truth & yes, ~truth & ~yes], axis=1)
    positive, negative, claimed, denied, hit, left = (weights @ sides.astype(weights.dtype)).T
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "sensitivity": hit / positive,
            "specificity": left / negative,
            "ppv": hit / claimed,
            "npv": left / denied,
        }


def operating_points(
    asked: Sequence[Question],
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    groups: np.ndarray,
    **options: Any,
) -> list[dict[str, Any]]:
    """Results of questions on test at the thresholds of validation, with intervals.

    All are answered on each replicate in turn, since drawing replicates takes time.

    Args:
      asked: the questions.
      validation: labels ``[N]`` and probabilities ``[N, C]``.
      test: the same of test.
      groups: ``[N]`` group numbers of test.
      **options: of ``bootstrap.with_intervals``.

    Returns:
      For each question {"question", "positives", "negatives", "auroc", "points": [{"target",
      "threshold", "sensitivity", ...}]}; "reason" instead of "auroc", and no points, where a
      side has no examples.
    """
    found: list[dict[str, Any]] = []
    answers: dict[int, dict[str, float]] = {}  # position -> target -> threshold
    trials: dict[str, np.ndarray] = {}
    for k, question in enumerate(asked):
        truth, score = question.ask(*test)
        one = {
            "task": question.task,
            "question": question.name,
            "positives": int(truth.sum()),
            "negatives": int((~truth).sum()),
            "points": [],
        }
        thresholds = choose_thresholds(*question.ask(*validation))
        if truth.all() or not truth.any() or not thresholds:
            where = "test" if truth.all() or not truth.any() else "validation"
            one["reason"] = f"{where} has no positive or no negative example"
        else:
            answers[k] = thresholds
        found.append(one)
        for target, threshold in thresholds.items():
            yes = score >= threshold
            own = {"sensitivity": truth, "specificity": ~truth, "ppv": yes, "npv": ~yes}
            trials |= {f"{k}/{target}/{name}": inside for name, inside in own.items()}
    if not answers:
        return found

    def answer(weights: np.ndarray) -> dict[str, np.ndarray]:
        out = {}
        for k, thresholds in answers.items():
            truth, score = asked[k].ask(*test)
            out[f"{k}/auroc"] = RankCurve(truth, score, weights, merged=True).auroc()
            for target, threshold in thresholds.items():
                values = at_threshold(truth, score, threshold, weights)
                out |= {f"{k}/{target}/{name}": value for name, value in values.items()}
        return out

    values = bootstrap.with_intervals(answer, groups, trials=trials, **options)
    for k, thresholds in answers.items():
        found[k]["auroc"] = values[f"{k}/auroc"]
        for target, threshold in thresholds.items():
            point = {"target": f"{TARGET:.0%} {target} on validation", "threshold": threshold}
            for name in ("sensitivity", "specificity", "ppv", "npv"):
                point[name] = values[f"{k}/{target}/{name}"]
            found[k]["points"].append(point)
    return found
