"""Predictions and metrics of a split, every example counted exactly once."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wlsrl_jax.data import batches as pipeline
from wlsrl_jax.data.text.tables import original_cell, safe_cell
from wlsrl_jax.files import Mistake, writing
from wlsrl_jax.metrics import evaluate_task
from wlsrl_jax.runtime import processes
from wlsrl_jax.runtime.mesh import to_global
from wlsrl_jax.tasks import MISSING, Task, task_labels


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


def predict_split(
    predict_step: Callable[..., Any],
    variables: Any,
    source: Any,
    tasks: Sequence[Task],
    *,
    image_size: tuple[int, int],
    batch_size: int,
    mesh: Any,
    num_threads: int = 2,
    between_batches: Callable[[], None] = lambda: None,
) -> Predictions:
    """Runs the model over a split.

    Args:
      predict_step: compiled function of (variables, images) -> task -> probabilities.
      variables: model variables.
      source: random-access examples.
      tasks: tasks whose labels to attach.
      image_size: (height, width) of the model's input, pixels.
      batch_size: global batch; the last one is filled up and the filling thrown away.
      mesh: devices.
      num_threads: threads that read and resize.
      between_batches: called after every batch; may raise to stop (preemption).

    Returns:
      Predictions of the ``len(source)`` examples, on every process.
    """
    rows: list[dict[str, Any]] = []
    stream = pipeline.evaluation_batches(
        source,
        image_size=image_size,
        global_batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=num_threads,
    )
    for batch in stream:
        output = predict_step(variables, to_global(batch["image"], mesh))
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            output = {
                t: multihost_utils.global_array_to_host_local_array(
                    p, mesh, jax.sharding.PartitionSpec(("data", "fsdp"))
                )
                for t, p in output.items()
            }
        keep = batch["index"] >= 0
        rows.append(
            {
                "index": batch["index"][keep],
                "id": batch["id"][keep],
                "group": batch["group"][keep],
                "label": batch["label"][keep],
                **{f"p/{t}": np.asarray(p)[keep] for t, p in output.items()},
            }
        )
        between_batches()
    joined = _of_all_processes({k: np.concatenate([r[k] for r in rows]) for k in rows[0]})
    return Predictions(
        joined["id"],
        joined["group"],
        task_labels(tasks, joined["label"]),
        {t.name: joined[f"p/{t.name}"] for t in tasks},
    )


def _of_all_processes(mine: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Joins the rows of all processes in the order of their "index"."""
    if jax.process_count() == 1:
        return mine
    buffer = io.BytesIO()
    np.savez(buffer, **mine)  # type: ignore[arg-type]
    parts = [np.load(io.BytesIO(p)) for p in processes.gather_bytes(buffer.getvalue())]
    order = np.argsort(np.concatenate([p["index"] for p in parts]))
    return {k: np.concatenate([p[k] for p in parts])[order] for k in mine}


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


def write_predictions(path: Path, tasks: Sequence[Task], splits: dict[str, Predictions]) -> None:
    """Writes per-image predictions, by way of a temporary file, so it is whole or absent.

    Args:
      path: CSV with columns id, group, split, one label column a task, then
        ``TASK/CLASS`` for every probability. A missing label is empty; a cell that a spreadsheet
        would take for a formula begins with an apostrophe.
      tasks: the tasks.
      splits: split name -> predictions.
    """
    columns = ["id", "group", "split", *(t.name for t in tasks)]
    columns += [f"{t.name}/{c}" for t in tasks for c in t.classes]
    temporary = path.with_suffix(".csv.tmp")
    with writing(path), temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for split, p in splits.items():
            for i in range(len(p.ids)):
                names = []
                for t in tasks:
                    label = p.labels[t.name][i]
                    names.append(safe_cell(t.classes[label]) if label >= 0 else "")
                numbers = [f"{v:.9g}" for t in tasks for v in p.probabilities[t.name][i]]
                image, group = safe_cell(str(p.ids[i])), safe_cell(str(p.groups[i]))
                writer.writerow([image, group, split, *names, *numbers])
    os.replace(temporary, path)


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
                [[float(r[f"{t.name}/{c}"]) for c in t.classes] for r in rows], np.float32
            )
            for t in tasks
        },
    )
