"""``results.csv``: a row a cell, with all its metrics."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablate.grid import Grid
from ablate.record import json_path
from wlsrl_jax.files import read_json, write_whole

FINISHED, FAILED, PENDING = "finished", "failed", "pending"


def write_results(grid: Grid, directory: Path, statuses: Mapping[str, str]) -> None:
    """Writes the table.

    Args:
      grid: the grid.
      directory: of it.
      statuses: name of a cell -> what has become of it.
    """
    rows: list[dict[str, Any]] = []
    for cell in grid.cells:
        row: dict[str, Any] = {"cell": cell.name, **cell.labels, "status": statuses[cell.name]}
        if statuses[cell.name] == FINISHED:
            document = read_json(json_path(directory, cell.name))
            row |= {k: document[k] for k in ("seconds", "starts", "dataset", "phantom")}
            untrained = {t for t, w in document["config"]["task_weights"].items() if w == 0}
            for split in ("test", "validation"):
                for task, metrics in document[split].items():
                    if task not in untrained:
                        row |= {f"{split}/{task}/{name}": v for name, v in metrics.items()}
        rows.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    columns.sort(key=lambda name: name.startswith(("test/", "validation/")))  # stable
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(directory / "results.csv", text.getvalue().encode())
