"""What a grid is: a base config, and cells that each change some of its fields."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Axis = Mapping[Any, Mapping[str, Any]]
"""Value of a label column -> the fields of the config that it sets, by their dotted names."""

REPEATS = ("seed", "fold")
"""Columns over which a condition is repeated; a row of a table is a mean over them."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
      labels: column -> value, in the order of the columns.
      overrides: dotted field of the config -> value.
    """

    labels: Mapping[str, Any]
    overrides: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of its directory and files, from the labels alone."""
        parts = [_part(column, value) for column, value in self.labels.items()]
        return "_".join(part for part in parts if part)

    @property
    def condition(self) -> tuple[tuple[str, Any], ...]:
        """Its labels without those that only repeat it."""
        return tuple((k, v) for k, v in self.labels.items() if k not in REPEATS)


@dataclasses.dataclass(frozen=True)
class Grid:
    """An ablation.

    Attributes:
      name: of the grid.
      config: FILE:DATASET below the repository's root, such as "configs/oct.py:octdl".
      description: what it asks, on which resolution and schedule; heads the tables.
      common: fields that all cells set.
      cells: the runs.
      metrics: task -> metrics that the tables show.
      baseline: label values of what the others are compared with. The baseline of a condition
        has these values and, in all other columns, those of the condition.
      pooled: whether metrics are of the out-of-fold predictions of all folds together, instead of
        means over folds.
      ensemble: whether the tables also hold every condition's ensemble of its seeds.
    """

    name: str
    config: str
    description: str
    common: Mapping[str, Any]
    cells: tuple[Cell, ...]
    metrics: Mapping[str, Sequence[str]]
    baseline: Mapping[str, Any]
    pooled: bool = False
    ensemble: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the label columns."""
        return tuple(self.cells[0].labels)

    def overrides(self, cell: Cell) -> dict[str, Any]:
        """All fields that a cell sets."""
        return {**self.common, **cell.overrides}


def _part(column: str, value: Any) -> str:
    """A label in a file name: text as it is, a number with its column."""
    text = re.sub(r"[^A-Za-z0-9.+]+", "-", str(value)).strip("-.")
    return text if isinstance(value, str) else f"{column}{text}"


def cells(**axes: Axis) -> tuple[Cell, ...]:
    """Every combination of the values of some axes.

    Args:
      **axes: column -> axis.

    Returns:
      The cells, the last axis running fastest.
    """
    found = []
    for values in itertools.product(*axes.values()):
        overrides: dict[str, Any] = {}
        for axis, value in zip(axes.values(), values, strict=True):
            overrides |= axis[value]
        found.append(Cell(dict(zip(axes, values, strict=True)), overrides))
    return tuple(found)


def seeds(count: int) -> Axis:
    """The seeds 0 to count - 1: of initialisation, order, augmentation and dropout."""
    return {seed: {"seed": seed} for seed in range(count)}


def folds(count: int) -> Axis:
    """The folds 0 to count - 1 of a cross-validation."""
    return {fold: {"data.fold": fold} for fold in range(count)}


def count_folds(of: Sequence[Cell]) -> int:
    """How many folds some cells are of."""
    return len({cell.overrides.get("data.fold") for cell in of})


def load_grid(path: Path) -> Grid:
    """Reads a grid file and checks what can be checked without the project's configs.

    Args:
      path: a Python file with a function ``get_grid()``.

    Returns:
      The grid.

    Raises:
      ValueError: naming the file and what is wrong with it.
    """
    if not path.is_file():
        beside = sorted(p.stem for p in path.parent.glob("*.py"))
        raise ValueError(f"--grid: {path} does not exist; there is {', '.join(beside) or 'none'}.")
    spec = importlib.util.spec_from_file_location(f"grid_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_grid"):
        raise ValueError(f"--grid={path} has no function get_grid().")
    grid = module.get_grid()
    _check(grid, path)
    return grid


def _check(grid: Grid, path: Path) -> None:
    if not grid.cells:
        raise ValueError(f"{path}: the grid has no cell.")
    seen: dict[str, Cell] = {}
    for cell in grid.cells:
        if tuple(cell.labels) != grid.columns:
            raise ValueError(
                f"{path}: cell {cell.name} has the columns {', '.join(cell.labels)}, the first "
                f"one {', '.join(grid.columns)}."
            )
        if not cell.name:
            raise ValueError(f"{path}: a cell has no label to be named after.")
        other = seen.setdefault(cell.name.lower(), cell)  # some file systems fold case
        if other is not cell:
            raise ValueError(
                f"{path}: two cells are called {cell.name}: {dict(other.labels)} and "
                f"{dict(cell.labels)}."
            )
    unknown = sorted(set(grid.baseline) - set(grid.columns))
    if unknown:
        raise ValueError(
            f"{path}: the baseline names a column {unknown[0]!r}; there are "
            f"{', '.join(grid.columns)}."
        )
    wanted = set(grid.baseline.items())
    if not any(wanted <= set(cell.labels.items()) for cell in grid.cells):
        raise ValueError(f"{path}: no cell is the baseline {dict(grid.baseline)}.")
