"""The ids of the examples of every step, on request: ``example_ids.jsonl`` in the workdir.

A run of several processes writes one file a process, each with the process's rows.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np

from wlsrl_jax.files import json_lines, keep_lines
from wlsrl_jax.runtime import processes

_PATTERN = "example_ids*.jsonl"


def record(workdir: Path, step: int, ids: np.ndarray) -> None:
    """Appends the ids of a step."""
    alone = jax.process_count() == 1
    name = "example_ids.jsonl" if alone else f"example_ids-{jax.process_index():05d}.jsonl"
    with (workdir / name).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "ids": ids.tolist()}) + "\n")


def forget_after(workdir: Path, step: int) -> None:
    """Drops the lines of later steps, which will be done again, perhaps by other processes."""
    with processes.agreed():
        if processes.is_primary():
            for path in workdir.glob(_PATTERN):
                keep_lines(path, lambda line: line["step"] <= step)


def read(workdir: Path) -> dict[int, list[str]]:
    """Reads the ids of every step in the order of the global batch.

    Args:
      workdir: of the run.

    Returns:
      Step -> ids.
    """
    found: dict[int, list[str]] = {}
    for path in sorted(workdir.glob(_PATTERN)):
        for _, line in json_lines(path):
            found.setdefault(line["step"], []).extend(line["ids"])
    return dict(sorted(found.items()))
