"""The config of every cell, checked before anything runs."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablate.grid import Cell, Grid
from wlsrl_jax.config.fields import check_fields
from wlsrl_jax.tasks import MODALITIES
from wlsrl_jax.training.setup import build_run

ROOT = Path(__file__).resolve().parents[2]


def resolved_config(grid: Grid, cell: Cell, data_dir: str) -> Any:
    """The config of a cell, as ``wlsrl_jax.main`` will see it.

    Args:
      grid: the grid.
      cell: of it.
      data_dir: of prepared data; "" for the default.

    Raises:
      ValueError: names the cell and the field that is wrong.
    """
    file, _, dataset = grid.config.partition(":")
    spec = importlib.util.spec_from_file_location("ablation_config", ROOT / file)
    if spec is None or spec.loader is None or not (ROOT / file).is_file():
        raise ValueError(f"grid {grid.name}: {file} does not exist.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(dataset) if dataset else module.get_config()
    config.lock()
    changes = {**grid.overrides(cell), "report": False, "data.data_dir": data_dir}
    for field, value in changes.items():
        try:
            config.update_from_flattened_dict({field: value})
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"cell {cell.name}: config.{field}={value!r}: {error}") from None
    return config


def as_json(config: Any) -> dict[str, Any]:
    """A config as it is written to files."""
    return json.loads(config.to_json())


def check_cell(grid: Grid, cell: Cell, config: Any) -> str:
    """Builds all parts of a cell's run, so that a mistake is found before the first hour.

    Args:
      grid: its grid.
      cell: the cell.
      config: its config.

    Returns:
      The fingerprint of its data.

    Raises:
      ValueError: names the cell and what is wrong.
    """
    try:
        check_fields(config)
        run = build_run(config)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"grid {grid.name}, cell {cell.name}: {error}") from None
    return run.dataset.fingerprint


def check_metrics(grid: Grid, modality: str) -> None:
    """Checks the tasks and metrics that the tables are to show.

    Raises:
      ValueError: lists the valid ones.
    """
    from wlsrl_jax.metrics import OVERALL

    ordinal = {rule.name: rule.ordinal for rule in MODALITIES[modality].tasks}
    for task, metrics in grid.metrics.items():
        if task not in ordinal:
            raise ValueError(
                f"grid {grid.name}: no task {task!r}; {modality} has {', '.join(ordinal)}."
            )
        valid = (*OVERALL, *(["qwk"] if ordinal[task] else []))
        for metric in metrics:
            if metric not in valid:
                raise ValueError(
                    f"grid {grid.name}: {task} has no metric {metric!r}; choose of "
                    f"{', '.join(valid)}."
                )


def flags_of(overrides: Mapping[str, Any]) -> list[str]:
    """Overrides as flags of ``wlsrl_jax.main``."""
    return [f"--config.{field}={value}" for field, value in overrides.items()]
