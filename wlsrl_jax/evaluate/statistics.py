"""The content of ``statistics.json``: all results of a run with their intervals.

It holds no ids of patients or images.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wlsrl_jax.evaluate import bootstrap
from wlsrl_jax.evaluate.aggregate import aggregate
from wlsrl_jax.evaluate.calibration import fit_temperature, scale
from wlsrl_jax.evaluate.curves import rank_curves, reliability
from wlsrl_jax.evaluate.operating_points import operating_points, questions
from wlsrl_jax.evaluate.predictions import Predictions
from wlsrl_jax.evaluate.telling import Tell, silent
from wlsrl_jax.files import write_json
from wlsrl_jax.metrics import (
    PER_CLASS,
    confusion,
    evaluate_task,
    labelled,
    undefined_reasons,
    weighted_metrics,
)
from wlsrl_jax.tasks import MISSING, Task

NAME = "statistics.json"
WITHOUT_INTERVAL = ("ece", "ece_equal_mass")
"""A bootstrap replicate repeats examples, which alone raises a calibration error: in simulations
its 95% intervals held the true value in 0 to 90% of cases."""
_SHORT = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "qwk")  # of subgroups
_MOST_VALUES = 12  # of a subgroup column; more are left out, or cut where they are numbers
_FEWEST = 5  # examples of a subgroup

Details = Mapping[str, Mapping[str, Any]]


def task_statistics(
    task: Task,
    labels: np.ndarray,
    probabilities: np.ndarray,
    groups: Any,
    *,
    replicates: int = bootstrap.REPLICATES,
    only: Sequence[str] = (),
    tell: Tell = silent,
) -> dict[str, Any]:
    """Every metric of a task with its interval.

    Args:
      task: the task.
      labels: ``[N]`` integers in ``[0, C)`` or ``MISSING``, which is left out.
      probabilities: ``[N, C]``.
      groups: ``[N]`` what is resampled.
      replicates: bootstrap replicates.
      only: names of the metrics to compute, and nothing a class; all by default.
      tell: is told how far it is.

    Returns:
      {"count", "groups", "metrics": name -> {"value", "low", "high", "reason"}, "per_class":
      class -> the same, with "count"; "confusion": true class -> predicted class}.
    """
    known = np.asarray(labels) != MISSING
    labels, probabilities = labelled(task, labels, probabilities)
    if not labels.size:
        values, reasons = evaluate_task(task, labels, probabilities)
        names = [n for n in values if n != "count" and (not only or n in only)]
        empty = {n: {"value": None, "low": None, "high": None, "reason": reasons[n]} for n in names}
        return {"count": 0, "groups": 0, "metrics": empty, "per_class": {}}
    index = bootstrap.group_index(np.asarray(groups)[known])

    def flat(weights: np.ndarray) -> dict[str, np.ndarray]:
        overall, each = weighted_metrics(task, labels, probabilities, weights)
        if only:
            return {n: v for n, v in overall.items() if n in only}
        return overall | {f"{c}/{m}": each[c][m] for c in each for m in each[c]}

    trials = _trials(task, labels, probabilities.argmax(axis=1))
    found = bootstrap.with_intervals(flat, index, replicates=replicates, trials=trials, tell=tell)
    reasons = undefined_reasons(
        task, labels, probabilities, {n: v["value"] for n, v in found.items() if "/" not in n}
    )
    for name in WITHOUT_INTERVAL:
        if name in found:
            found[name] |= {"low": float("nan"), "high": float("nan")}
    for name, reason in reasons.items():
        if name in found:
            found[name] = {**found[name], "reason": reason}  # type: ignore[dict-item]
    out: dict[str, Any] = {
        "count": int(labels.size),
        "groups": int(index.max()) + 1,
        "metrics": {n: v for n, v in found.items() if "/" not in n},
    }
    if only:
        return out
    counts = np.bincount(labels, minlength=task.num_classes)
    out["per_class"] = {
        c: {"count": int(counts[k]), **{m: found[f"{c}/{m}"] for m in PER_CLASS}}
        for k, c in enumerate(task.classes)
    }
    matrix = confusion(
        labels, probabilities.argmax(axis=1), np.ones((1, labels.size)), task.num_classes
    )
    out["confusion"] = matrix[0].astype(int).tolist()
    return out


def _trials(task: Task, labels: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics that are proportions, and of which examples."""
    trials = {"accuracy": np.ones(labels.size, bool)}
    for k, name in enumerate(task.classes):
        truth, claimed = labels == k, predicted == k
        own = {"sensitivity": truth, "specificity": ~truth, "ppv": claimed, "npv": ~claimed}
        trials |= {f"{name}/{metric}": inside for metric, inside in own.items()}
        if task.num_classes == 2 and k == 1:
            trials |= own
    return trials


def independence(details: Details, is_phantom: bool, has_patient_ids: bool) -> tuple[str, str]:
    """(what is resampled, what that means for the intervals)."""
    if is_phantom:
        return "image", "Phantoms are independent of each other by construction."
    if has_patient_ids and details:
        return "patient", (
            "Intervals are by bootstrap over patients; patients who share an identical image are "
            "one unit."
        )
    return "image", (
        "This data set names no patients: intervals are over images, and that these are "
        "independent of each other cannot be verified."
    )


def _agreement(
    tasks: Sequence[Task], predictions: Predictions, replicates: int
) -> list[dict[str, Any]]:
    """How often the head of two classes contradicts the head of the same images' classes."""
    found = []
    for coarse in (t for t in tasks if t.num_classes == 2):
        for fine in (t for t in tasks if t.num_classes > 2):
            follows = np.full(fine.num_classes, MISSING)
            for a, b in zip(fine.label_map, coarse.label_map, strict=True):
                if a != MISSING:
                    follows[a] = b
            implied = follows[predictions.probabilities[fine.name].argmax(axis=1)]
            said = predictions.probabilities[coarse.name].argmax(axis=1)
            known = implied != MISSING
            if not known.any():
                continue
            contradicts = (implied != said)[known].astype(float)
            index = bootstrap.group_index(predictions.groups[known])
            mean = functools.partial(_mean, contradicts)
            value = bootstrap.with_intervals(mean, index, replicates=replicates)["rate"]
            found.append({"tasks": [coarse.name, fine.name], "count": int(known.sum()), **value})
    return found


def _mean(values: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    return {"rate": weights @ values / weights.sum(axis=1)}


def _calibration(
    task: Task, validation: Predictions, test: Predictions
) -> tuple[dict[str, Any], list[Any]]:
    """(temperature and what it does to test, reliability before and after)."""
    t = task.name
    temperature = fit_temperature(validation.labels[t], validation.probabilities[t])
    labels, p = labelled(task, test.labels[t], test.probabilities[t])
    names = ("log_loss", "brier", "ece", "ece_equal_mass")
    parts = []
    curves = []
    for q in (p, scale(p, temperature or 1.0)):
        values, _ = evaluate_task(task, labels, q)
        parts.append({n: values[n] for n in names})
        curves.append(reliability(labels, q) if labels.size else [])
    found = {"temperature": temperature, "before": parts[0], "after": parts[1]}
    return found, curves


def _cases(test: Predictions, details: Details, keys: Sequence[str]) -> list[Any] | None:
    """What case each image belongs to, or None where the data do not say."""
    cases = []
    for name in test.ids.tolist():
        known = details.get(name, {})
        case = tuple(known.get(key) or known.get("attributes", {}).get(key) for key in keys)
        if not all(case):
            return None
        cases.append(case)
    return cases if len(set(cases)) < len(cases) else None


def _columns(test: Predictions, details: Details) -> dict[str, list[str]]:
    """Attribute -> its value for each image, numbers of many values cut at quartiles."""
    rows = [details.get(name, {}).get("attributes", {}) for name in test.ids.tolist()]
    columns = {}
    for key in sorted({k for row in rows for k in row}):
        values = [str(row.get(key, "")).strip() for row in rows]
        distinct = {v for v in values if v}
        if len(distinct) > _MOST_VALUES:
            try:
                numbers = np.asarray([float(v) if v else np.nan for v in values])
            except ValueError:
                continue  # names: no subgroups
            edges = np.unique(np.nanquantile(numbers, [0, 0.25, 0.5, 0.75, 1]))
            bins = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, edges.size - 2)
            values = [
                "" if np.isnan(x) else f"{edges[b]:g} to {edges[b + 1]:g}"
                for x, b in zip(numbers, bins, strict=True)
            ]
        if len({v for v in values if v}) > 1:
            columns[key] = values
    return columns


def statistics_document(
    tasks: Sequence[Task],
    splits: Mapping[str, Predictions],
    *,
    details: Details,
    is_phantom: bool,
    has_patient_ids: bool,
    replicates: int = bootstrap.REPLICATES,
    tell: Tell = silent,
) -> dict[str, Any]:
    """Computes everything that the report shows of a run's predictions.

    Args:
      tasks: the tasks.
      splits: "validation" and "test" -> predictions.
      details: image id -> {"patient", "attributes": {column: value}}, where the data have them.
      is_phantom: whether the images are phantoms.
      has_patient_ids: whether every image names its patient.
      replicates: bootstrap replicates.
      tell: is told how far it is.

    Returns:
      A JSON document.
    """
    validation, test = splits["validation"], splits["test"]
    unit, note = independence(details, is_phantom, has_patient_ids)
    whole = functools.partial(task_statistics, replicates=replicates)
    short = functools.partial(task_statistics, replicates=replicates, only=_SHORT)
    document: dict[str, Any] = {
        "level": bootstrap.LEVEL,
        "replicates": replicates,
        "unit": unit,
        "note": note,
        "without_interval": list(WITHOUT_INTERVAL),
        "splits": {
            name: {
                t.name: whole(
                    t,
                    p.labels[t.name],
                    p.probabilities[t.name],
                    p.groups,
                    tell=_telling(tell, f"metrics of {t.name} on {name}"),
                )
                for t in tasks
            }
            for name, p in splits.items()
        },
        "agreement": _agreement(tasks, test, replicates),
        "calibration": {},
        "reliability": {},
        "operating_points": [],
        "curves": {},
        "aggregated": {},
        "subgroups": {},
    }
    for task in tasks:
        t = task.name
        document["calibration"][t], document["reliability"][t] = _calibration(
            task, validation, test
        )
        known = test.labels[t] != MISSING
        labels, p = labelled(task, test.labels[t], test.probabilities[t])
        if not labels.size:
            continue
        index = bootstrap.group_index(test.groups[known])
        before = labelled(task, validation.labels[t], validation.probabilities[t])
        document["operating_points"] += operating_points(
            questions(task), before, (labels, p), index, replicates=replicates,
            tell=_telling(tell, f"operating points of {t}"),
        )  # fmt: skip
        cases = {
            name: (labels == k, p[:, k])
            for k, name in enumerate(task.classes)
            if 0 < (labels == k).sum() < labels.size and (task.num_classes > 2 or k == 1)
        }
        document["curves"][t] = rank_curves(cases, index, tell=_telling(tell, f"curves of {t}"))
    for case, keys in (("patient", ["patient"]), ("eye", ["patient", "eye"])):
        members = _cases(test, details, keys)
        if members is None:
            continue
        document["aggregated"][case] = {}
        for task in tasks:
            first, labels, p, left_out = aggregate(
                task, members, test.labels[task.name], test.probabilities[task.name]
            )
            telling = _telling(tell, f"metrics of {task.name}, one case a {case}")
            found = short(task, labels, p, test.groups[first], tell=telling)
            document["aggregated"][case][task.name] = {**found, "left_out": left_out}
    for key, values in _columns(test, details).items():
        column = np.asarray(values)
        document["subgroups"][key] = {}
        for value in sorted(set(values)):
            inside = column == value
            if inside.sum() < _FEWEST:
                continue
            document["subgroups"][key][value or "unknown"] = {
                t.name: short(
                    t, test.labels[t.name][inside], test.probabilities[t.name][inside],
                    test.groups[inside], tell=_telling(tell, f"metrics of {t.name} by {key}"),
                )
                for t in tasks
            }  # fmt: skip
    return document


def _telling(tell: Tell, what: str) -> Tell:
    return lambda text: tell(f"statistics: {what}, {text}")


def write_statistics(
    workdir: Path, tasks: Sequence[Task], splits: Mapping[str, Predictions], dataset: Any,
    *, tell: Tell = silent,
) -> dict[str, Any]:  # fmt: skip
    """Computes the document of a run on a ``datasets.Dataset`` and writes it to its workdir."""
    document = statistics_document(
        tasks,
        splits,
        details=dataset.details,
        is_phantom=dataset.is_phantom,
        has_patient_ids=dataset.has_patient_ids,
        tell=tell,
    )
    write_json(workdir / NAME, document)
    return document
