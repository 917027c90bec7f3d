"""The results of a run as a document and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wlsrl_jax.cli import Table, print_table
from wlsrl_jax.evaluate.predictions import Predictions, evaluate_predictions
from wlsrl_jax.tasks import PHANTOM_NOTE, Task

COLUMNS = (
    "count",
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "auroc",
    "sensitivity",
    "specificity",
    "qwk",
)


def results_document(
    tasks: Sequence[Task],
    splits: Mapping[str, Predictions],
    *,
    dataset: Any,
    seed: int,
    task_weights: Mapping[str, float],
    selected: Mapping[str, Any],
) -> dict[str, Any]:
    """Gathers the metrics of every split.

    Args:
      tasks: the tasks.
      splits: split name -> predictions.
      dataset: what they were made on.
      seed: of the run.
      task_weights: task -> lambda of the run; a head of weight 0 is marked as untrained.
      selected: which checkpoint, and why.

    Returns:
      The content of ``metrics.json``: split -> task -> metric, and the circumstances.
    """
    document: dict[str, Any] = {
        "dataset": dataset.name,
        "phantom": dataset.is_phantom,
        "note": PHANTOM_NOTE if dataset.is_phantom else "",
        "data_fingerprint": dataset.fingerprint,
        "seed": seed,
        "selected": dict(selected),
        "undefined": {},
    }
    for name, predictions in splits.items():
        document[name], reasons = evaluate_predictions(tasks, predictions)
        for task, weight in task_weights.items():
            if weight == 0:
                reasons.setdefault(task, {})["head"] = "not trained: its config.task_weights is 0"
        document["undefined"][name] = reasons
    return document


def print_results(document: Mapping[str, Any]) -> None:
    """Prints the test metrics, a row a task; undefined ones are a dash with the reason below."""
    split = (
        "test"
        if "test" in document
        else next(
            k for k in document if isinstance(document[k], Mapping) and k in document["undefined"]
        )
    )
    title = f"{split} metrics on {document['dataset']}"
    table = Table(title=title + (f"\n{PHANTOM_NOTE}" if document["phantom"] else ""))
    table.add_column("task")
    for column in COLUMNS:
        table.add_column(column.replace("_", " "), justify="right")
    reasons = document["undefined"].get(split, {})
    for task, values in document[split].items():
        if "head" in reasons.get(task, {}):
            continue  # not trained, which is said below
        cells = []
        for column in COLUMNS:
            value = values.get(column)
            missing = value is None or value != value
            cells.append(
                "-" if missing else f"{value:.0f}" if column == "count" else f"{value:.3f}"
            )
        table.add_row(task, *cells)
    print_table(table)
    for task, undefined in reasons.items():
        for metric, reason in undefined.items():
            if "head" in undefined and metric != "head":
                continue
            print(f"{task} {metric}: {reason}")
    for found in document.get("provenance", []):
        print(f"WARNING: {found['text']}" if found["warning"] else found["text"])
