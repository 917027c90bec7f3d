"""Progress over a whole grid: a bar in a terminal, a line a cell in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from ablate.grid import Cell, Grid
from ablate.record import json_path
from wlsrl_jax.files import read_json


class Progress:
    """Tells how far the grid is.

    The time left is that of this runner's cells, each taken to need the mean of those that are
    done, by this runner or an earlier one.

    Args:
      grid: the grid.
      directory: of it.
      mine: cells of this runner.
    """

    def __init__(self, grid: Grid, directory: Path, mine: Sequence[Cell]) -> None:
        self._grid, self._directory, self._mine = grid, directory, list(mine)
        self._places = {cell.name: k + 1 for k, cell in enumerate(grid.cells)}
        self._console = Console(highlight=False, soft_wrap=True)
        self._bar = Bar(
            TextColumn("cells"),
            MofNCompleteColumn(),
            BarColumn(12),
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
            expand=True,
            console=self._console,
            disable=not sys.stdout.isatty(),
        )
        self._seconds = {
            cell.name: read_json(json_path(directory, cell.name))["seconds"]
            for cell in grid.cells
            if json_path(directory, cell.name).exists()
        }
        self._gone: set[str] = set(self._seconds)
        self._task = self._bar.add_task("", total=len(grid.cells), completed=len(self._seconds))
        self._label, self._began = "", time.monotonic()

    def __enter__(self) -> Progress:
        left = len([cell for cell in self._mine if cell.name not in self._gone])
        self.say(
            f"grid {self._grid.name}: {len(self._grid.cells)} cells, {len(self._seconds)} done, "
            f"{left} to do here"
        )
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self._bar.console.print(escape(text))
        sys.stdout.flush()

    def begin(self, cell: Cell) -> None:
        """A cell starts."""
        self._label, self._began = cell.name, time.monotonic()
        if not sys.stdout.isatty():
            self.say(f"{self._where(cell)} started")

    def heartbeat(self, line: str) -> None:
        """Shows what the running cell says."""
        if sys.stdout.isatty():
            text = escape(f"{self._eta()}  {self._label}  {line}")
            self._bar.update(self._task, description=text)

    def finished(self, cell: Cell) -> None:
        """A cell is done."""
        document = read_json(json_path(self._directory, cell.name))
        self._seconds[cell.name] = document["seconds"]
        self._gone.add(cell.name)
        self._bar.update(self._task, completed=len(self._seconds))
        scores = ", ".join(
            f"{task} {metrics[0].replace('_', ' ')} {_number(document['test'][task][metrics[0]])}"
            for task, metrics in self._grid.metrics.items()
        )
        self.say(f"{self._where(cell)} {scores}, {document['seconds']:.0f} s; {self._eta()}")

    def failed(self, cell: Cell, status: int, end: str) -> None:
        """A cell has failed."""
        self._gone.add(cell.name)
        self.say(f"{self._where(cell)} FAILED, exit status {status}; {self._eta()}")
        self.say("\n".join(f"    {line}" for line in end.splitlines()[-3:]))

    def _where(self, cell: Cell) -> str:
        return f"cell {self._places[cell.name]}/{len(self._grid.cells)} {cell.name}"

    def _eta(self) -> str:
        left = [cell.name for cell in self._mine if cell.name not in self._gone]
        if not left:
            return "the last one here"
        if not self._seconds:
            return f"{len(left)} left"
        seconds = len(left) * sum(self._seconds.values()) / len(self._seconds)
        if self._label in left:
            seconds = max(0.0, seconds - (time.monotonic() - self._began))
        return f"ETA {duration(seconds)}"


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}"


def duration(seconds: float) -> str:
    """A span of time, such as "14 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
