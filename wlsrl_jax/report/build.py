"""From finished runs to one self-contained HTML file."""

from __future__ import annotations

import datetime
import functools
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wlsrl_jax.evaluate.comparison import compare
from wlsrl_jax.evaluate.telling import Tell, silent
from wlsrl_jax.files import Mistake, changes, write_whole
from wlsrl_jax.html.page import templates
from wlsrl_jax.report import plots
from wlsrl_jax.report.collect import RunFacts, collect
from wlsrl_jax.report.mistakes import mistakes
from wlsrl_jax.runs import provenance
from wlsrl_jax.runtime.version import VERSION
from wlsrl_jax.tasks import PHANTOM_NOTE, Task

NAME = "report.html"
TITLES = {
    "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "macro_f1": "macro F1",
    "qwk": "quadratic-weighted kappa", "mcc": "MCC", "auroc": "AUROC", "auprc": "AUPRC",
    "sensitivity": "sensitivity", "specificity": "specificity", "ppv": "PPV", "npv": "NPV",
    "brier": "Brier score", "log_loss": "log loss", "ece": "ECE, equal width",
    "ece_equal_mass": "ECE, equal mass", "prevalence": "prevalence", "f1": "F1",
}  # fmt: skip
_NAMED_COLUMNS, _NAMED_LETTERS, _NUMBERED_COLUMNS = 10, 80, 20  # as wide as paper
_COMPARED = ("balanced_accuracy", "macro_f1", "qwk", "mcc", "auroc", "auprc", "brier", "log_loss")


def number(value: Any, digits: int = 3) -> str:
    """A number for a table; a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.{digits}f}"


def with_interval(found: Mapping[str, Any] | None) -> str:
    """A value with its interval, such as "0.912 (0.880–0.940)"."""
    if not found or number(found["value"]) == "–":
        return "–"
    low, high = number(found["low"]), number(found["high"])
    between = " to " if low.startswith("-") else "–"
    return number(found["value"]) + ("" if low == "–" else f" ({low}{between}{high})")


def cell(found: Mapping[str, Any] | None) -> Any:
    """``with_interval`` as HTML, whose interval goes to a second line on a phone."""
    from markupsafe import Markup

    value, _, ends = with_interval(found).partition(" ")
    return Markup('{} <span class="interval">{}</span>').format(value, ends) if ends else value


def reasons(statistics: Mapping[str, Any], task: str) -> list[str]:
    """Why metrics of a task are undefined, a line a reason."""
    found: dict[str, list[str]] = {}
    for split, tasks in statistics["splits"].items():
        for name, metric in tasks[task]["metrics"].items():
            if metric.get("reason"):
                key = f"{split}: {metric['reason']}"
                found.setdefault(key, []).append(TITLES[name])
    return [f"{reason} ({', '.join(names)})" for reason, names in found.items()]


def _task_plots(run: RunFacts, task: str, tell: Tell) -> list[Any]:
    tell(f"{run.name}: plots of {task}")
    curves = run.statistics["curves"].get(task, {})
    kinds = [plots.rank_curve(task, curves, kind) for kind in ("roc", "pr")] if curves else []
    pairs = [plot for pair in zip(*kinds, strict=True) for plot in pair]
    return [*pairs, plots.reliability(task, run.statistics["reliability"][task])]


def _without_curve(run: RunFacts, task: Task) -> list[str]:
    """Classes of a task of several that the plots cannot show."""
    curves = run.statistics["curves"].get(task.name, {})
    return [c for c in task.classes if c not in curves] if task.num_classes > 2 else []


def _confusion_parts(task: Task) -> list[list[int]]:
    """Columns of a confusion matrix in parts that fit a page; [] where one with names does."""
    if task.num_classes <= _NAMED_COLUMNS and len("".join(task.classes)) <= _NAMED_LETTERS:
        return []
    columns = np.arange(task.num_classes)
    parts = -(-task.num_classes // _NUMBERED_COLUMNS)
    return [part.tolist() for part in np.array_split(columns, parts)]


def results(run: RunFacts, *, with_plots: bool = True, tell: Tell = silent) -> list[dict[str, Any]]:
    """What a page shows of each task."""
    rows = []
    test = run.statistics["splits"]["test"]
    for task in run.trained.tasks:
        found = test[task.name]
        rows.append(
            {
                "task": task,
                "splits": {s: t[task.name] for s, t in run.statistics["splits"].items()},
                "metrics": [m for m in TITLES if m in found["metrics"]],
                "per_class": found.get("per_class", {}),
                "confusion": found.get("confusion"),
                "confusion_parts": _confusion_parts(task),
                "plots": _task_plots(run, task.name, tell) if with_plots else [],
                "without_curve": _without_curve(run, task),
                "reasons": reasons(run.statistics, task.name),
                "calibration": run.statistics["calibration"][task.name],
                "points": [q for q in run.statistics["operating_points"] if q["task"] == task.name],
            }
        )
    return rows


def _ask(runs: Sequence[RunFacts], ids: Iterable[str]) -> list[provenance.Overlap] | None:
    """Asks of each run whether it trained on images that they are compared on; None: no data."""
    dataset = next((run.dataset for run in runs if run.dataset is not None), None)
    if dataset is None:
        return None
    return [provenance.ask(run.seen(), dataset, "test", ids) for run in runs]


def _told_of(tell: Tell, what: str, text: str) -> None:
    tell(f"{what}: {text}")


def comparisons(runs: Sequence[RunFacts], *, tell: Tell = silent) -> list[dict[str, Any]]:
    """Every later run against the first one, on test.

    Args:
      runs: of one data set.
      tell: is told how far it is.

    Returns:
      The differences, and whether one run was trained on what both are compared on.

    Raises:
      Mistake: if two runs are of other data or tasks, or one was trained on what the other tests,
        naming them.
    """
    first, found = runs[0], []
    for other in runs[1:]:
        if other.trained.tasks != first.trained.tasks:
            raise Mistake(f"{first.name} and {other.name} have other tasks or classes.")
        same = other.trained.data["fingerprint"] == first.trained.data["fingerprint"]
        ids = set(first.predictions["test"].ids.tolist())
        both = ids & set(other.predictions["test"].ids.tolist()) if same else ids
        asked = _ask((first, other), both)
        if not same:
            leaks = [a.text for a in asked or () if a.leak]
            said = f"{first.name} and {other.name} were not trained on the same data."
            raise Mistake(" ".join([said, *leaks]))
        tasks = []
        for task in first.trained.tasks:
            pair = f"{first.name} against {other.name}, {task.name}"
            result = compare(
                task, first.predictions["test"], other.predictions["test"],
                tell=functools.partial(_told_of, tell, pair),
            )  # fmt: skip
            rows = [
                {"name": TITLES[name], **result["metrics"][name]}
                for name in _COMPARED
                if name in result["metrics"]
            ]
            rows = [r for r in rows if number(r["difference"]) != "–"]
            shown = [r for r in rows if number(r["low"]) != "–"]
            plot = plots.differences(task.name, shown, first.name, other.name) if shown else ""
            tasks.append({"task": task.name, "rows": rows, "plot": plot, **result})
        found.append(
            {
                "first": first.name,
                "other": other.name,
                "tasks": tasks,
                "fields": changes(first.fields, other.fields),
                "provenance": [_NO_DATA] if asked is None else [a.document() for a in asked],
            }
        )
    return found


_NO_DATA = {
    "warning": True,
    "text": "The data are not here, so that whether one run was trained on images that both are "
    "compared on cannot be verified.",
}


def _page(run: RunFacts, pictures: int, show_ids: bool, tell: Tell) -> dict[str, Any]:
    shown, problem = [], left_out(run)
    if run.dataset is not None and pictures:
        tell(f"{run.name}: pictures of mistakes")
        source = run.dataset.splits["test"]
        shown = mistakes(
            run.trained, source, run.predictions["test"], most=pictures, show_ids=show_ids
        )
    return {
        "run": run,
        "results": results(run, tell=tell),
        "mistakes": shown,
        "mistakes_problem": problem,
        "training": plots.training(run.lines, run.metrics["selected"]["step"]),
    }


def _warn(line: str) -> None:
    print(f"WARNING: {line}", file=sys.stderr, flush=True)


FILTERS: dict[str, Callable[..., Any]] = {"number": number, "interval": with_interval, "cell": cell}


def build(
    workdirs: Sequence[Path], *, pictures: int = 6, show_ids: bool = False, data_dir: str = "",
    warn: Callable[[str], None] = _warn, tell: Tell = silent,
) -> str:  # fmt: skip
    """Makes the page of one run, or of several with their paired differences.

    Args:
      workdirs: of finished runs; the first is the one that the others are compared with.
      pictures: most confident mistakes shown for each task.
      show_ids: name images, workdirs and the machine's paths.
      data_dir: of prepared data, if they have moved.
      warn: gets what a person must be told besides: what is left out of the page, and what was
        trained on though it is tested.
      tell: is told how far it is.

    Returns:
      HTML without any reference to something outside.

    Raises:
      Mistake: for a workdir without a finished run, or runs that cannot be compared.
    """
    runs = [collect(workdir, data_dir, tell=tell) for workdir in workdirs]
    for run in runs:
        if not run.predictions:
            raise Mistake(
                f"{run.trained.workdir} is a packed run, which holds no predictions on single "
                "images, so that there is no report of it; its MODEL_CARD.md has its results."
            )
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise Mistake(f"two workdirs have the same name: {', '.join(sorted(names))}.")
    compared = comparisons(runs, tell=tell)
    told = [f"{run.name}: {left_out(run)} {run.problem}" for run in runs if run.problem]
    asked = [found for run in runs for found in run.provenance]
    asked += [found for c in compared for found in c["provenance"]]
    told += [found["text"] for found in asked if found["warning"]]
    for line in dict.fromkeys(told):
        warn(line)
    return (
        templates(filters=FILTERS)
        .get_template("report.html.j2")
        .render(
            version=VERSION,
            date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            phantom_note=PHANTOM_NOTE,
            titles=TITLES,
            pages=[_page(run, pictures, show_ids, tell) for run in runs],
            comparisons=compared,
            names=names,
            show_ids=show_ids,
        )
    )


def left_out(run: RunFacts) -> str:
    """What a report of a run lacks because its data are not here; "" where nothing is."""
    return run.problem and (
        "the pictures, and whether what was tested was trained on, are left out, for the data "
        "cannot be opened; wlsrl report --data_dir=DIR says where they are."
    )


def write_report(
    workdirs: Sequence[Path], output: Path | None = None, *, pictures: int = 6,
    show_ids: bool = False, data_dir: str = "", tell: Tell = silent,
) -> Path:  # fmt: skip
    """Writes the page, whole or not at all; see ``build``.

    Args:
      workdirs: of finished runs.
      output: file; by default ``report.html`` in the workdir of a single run.
      pictures: see ``build``.
      show_ids: see ``build``.
      data_dir: see ``build``.
      tell: is told how far it is.

    Returns:
      The file.
    """
    if output is None:
        if len(workdirs) > 1:
            raise Mistake("--output=FILE.html says where the report of several runs goes.")
        output = workdirs[0] / NAME
    page = build(workdirs, pictures=pictures, show_ids=show_ids, data_dir=data_dir, tell=tell)
    write_whole(output, page.encode())
    return output
