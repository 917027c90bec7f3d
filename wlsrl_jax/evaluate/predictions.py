"""Predictions of a split as arrays and as a table, and their metrics."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from wlsrl_jax.data.text.tables import float32_cell, original_cell, safe_cell, write_csv
from wlsrl_jax.files import Mistake
from wlsrl_jax.metrics import evaluate_task
from wlsrl_jax.tasks import MISSING, Task


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Model output on a split, in the order of the source.

    Attributes:
      ids: ``[N]`` example ids.
      groups: ``[N]`` group ids.
      labels: task -> ``[N]`` int32.
      probabilities: task -> float32 ``[N, C]``.
    """

    ids: np.ndarray
    groups: np.ndarray
    labels: dict[str, np.ndarray]
    probabilities: dict[str, np.ndarray]


def evaluate_predictions(
    tasks: Sequence[Task], predictions: Predictions
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, str]]]:
    """Metrics of every task.

    Returns:
      (task -> metrics, task -> reasons of the undefined ones).
    """
    results = {
        t.name: evaluate_task(t, predictions.labels[t.name], predictions.probabilities[t.name])
        for t in tasks
    }
    return {k: v[0] for k, v in results.items()}, {k: v[1] for k, v in results.items() if v[1]}


def probability_columns(tasks: Sequence[Task]) -> list[str]:
    """``TASK/CLASS`` for every probability, as all tables of predictions have them."""
    return [f"{t.name}/{c}" for t in tasks for c in t.classes]


def label_cells(tasks: Sequence[Task], labels: Mapping[str, np.ndarray], row: int) -> list[str]:
    """The class of each task for a row, as a table has it; "" for a missing label."""
    found = ((t, labels[t.name][row]) for t in tasks)
    return [safe_cell(t.classes[label]) if label != MISSING else "" for t, label in found]


def write_predictions(path: Path, tasks: Sequence[Task], splits: dict[str, Predictions]) -> None:
    """Writes per-image predictions, whole or not at all.

    Args:
      path: CSV with columns id, group, split, one label column a task, then
        ``TASK/CLASS`` for every probability. A missing label is empty; a cell that a spreadsheet
        would take for a formula begins with an apostrophe.
      tasks: the tasks.
      splits: split name -> predictions.
    """

    def rows() -> Iterator[list[str]]:
        yield ["id", "group", "split", *(t.name for t in tasks), *probability_columns(tasks)]
        for split, p in splits.items():
            for i in range(len(p.ids)):
                names = label_cells(tasks, p.labels, i)
                numbers = [float32_cell(v) for t in tasks for v in p.probabilities[t.name][i]]
                image, group = safe_cell(str(p.ids[i])), safe_cell(str(p.groups[i]))
                yield [image, group, split, *names, *numbers]

    write_csv(path, rows())


def read_predictions(path: Path, tasks: Sequence[Task]) -> dict[str, Predictions]:
    """Reads what ``write_predictions`` has written.

    Args:
      path: the CSV.
      tasks: its tasks.

    Returns:
      Split name -> predictions.

    Raises:
      Mistake: if the file is missing or damaged, naming it and the line.
    """
    rows: dict[str, list[dict[str, str]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            for row in reader:
                rows.setdefault(row["split"], []).append(row)
                if None in row.values():
                    raise Mistake(f"line {reader.line_num} is cut off")
        return {split: _from_rows(lines, tasks) for split, lines in rows.items()}
    except FileNotFoundError:
        raise Mistake(f"{path} is missing: there is no finished run.") from None
    except (KeyError, ValueError, csv.Error) as error:
        raise Mistake(f"{path} is damaged ({error}).") from None


def _from_rows(rows: list[dict[str, str]], tasks: Sequence[Task]) -> Predictions:
    def label(task: Task, name: str) -> int:
        return task.classes.index(original_cell(name)) if name else MISSING

    return Predictions(
        np.asarray([original_cell(r["id"]) for r in rows]),
        np.asarray([original_cell(r["group"]) for r in rows]),
        {t.name: np.asarray([label(t, r[t.name]) for r in rows], np.int32) for t in tasks},
        {
            t.name: np.asarray(
                [[float(r[c]) for c in probability_columns([t])] for r in rows], np.float32
            )
            for t in tasks
        },
    )
