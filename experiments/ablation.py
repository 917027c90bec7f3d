"""Runs a grid of trainings and makes its tables: one command, which goes on where it was.

    python experiments/ablation.py --grid=phantom_oct --output=runs/ablation-phantom_oct

``--grid`` is a name below ``experiments/grids/`` or a file of your own. Every cell is a run of
``wlsrl_jax.main`` in a directory of its own. In the output directory:

    cells/NAME/      its workdir; the checkpoints go when it is done (--keep_checkpoints: stay)
    records/         what the tables are made from, some kilobytes a cell: with these alone,
                     from git for instance, a grid goes on on another machine
    logs/ failures/  what a cell said; the end of what a failed one said
    results.csv      a row a cell
    tables.md .tex   means, 95% intervals, paired differences to the baseline, p-values
    plots/           the differences; a dot a seed
    cache/           of the tables; may be deleted

As an array job every job gets the same command and ``--index=I --count=N``; several runners on
one directory are safe in any case. A failed cell is shown as failed, the others go on, and the
same command tries it again.

Exit status: 0 all cells of this runner are done; 1 some failed; 75 stopped, start again;
2 a mistake in the command, the grid or a config.
"""

# ruff: noqa: E402
from __future__ import annotations

import os

CELL_ENVIRONMENT = dict(os.environ)
os.environ["JAX_PLATFORMS"] = "cpu"  # of the runner alone: cells need the accelerator's memory

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from ablate import check, record, run_cell
from ablate.analysis import analyse
from ablate.grid import REPEATS, Cell, Grid, load_grid
from ablate.plots import write_plots
from ablate.progress import Progress
from ablate.results_csv import FAILED, FINISHED, PENDING, write_results
from ablate.tables import write_tables
from wlsrl_jax.cli import status_of
from wlsrl_jax.runs.workdir import check_config
from wlsrl_jax.runtime.stop import EXIT_PREEMPTED

GRIDS = Path(__file__).resolve().parent / "grids"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--grid", required=True, help="NAME of a file in experiments/grids/, or FILE.py")
    add("--output", type=Path, help="directory of the grid; default: runs/ablation-NAME")
    add("--data_dir", default="", help="of prepared data; default: TFDS_DATA_DIR, then TFDS's")
    add("--only", default="", help="regular expression: only cells whose name it finds")
    add("--index", type=int, default=0, help="of this job of an array, from 0")
    add("--count", type=int, default=1, help="jobs of the array; each takes every N-th cell")
    add("--list", action="store_true", help="print the cells and what has become of them")
    add("--tables_only", action="store_true", help="run nothing, make tables and plots")
    add("--keep_checkpoints", action="store_true", help="also of finished cells")
    args = parser.parse_args(argv)
    if args.count < 1 or not 0 <= args.index < args.count:
        raise ValueError(f"--index={args.index} must be in 0..--count - 1.")
    return args


def chosen(grid: Grid, only: str, index: int, count: int) -> list[Cell]:
    """The cells of this runner, in the order in which they run."""
    try:
        pattern = re.compile(only)
    except re.error as error:
        raise ValueError(f"--only={only!r} is no regular expression: {error}.") from None
    found = [cell for cell in grid.cells if pattern.search(cell.name)]
    if not found:
        raise ValueError(f"--only={only!r} finds no cell; --list shows their names.")
    # A seed of every condition first: what was done when time is up can be compared.
    found.sort(key=lambda cell: tuple(cell.labels.get(column, 0) for column in REPEATS))
    return found[index::count]


def statuses(grid: Grid, directory: Path) -> dict[str, str]:
    """What has become of each cell."""
    found = {}
    for cell in grid.cells:
        done = record.json_path(directory, cell.name).exists()
        failed = run_cell.failure_path(directory, cell.name).exists()
        found[cell.name] = FINISHED if done else FAILED if failed else PENDING
    return found


def check_all(grid: Grid, directory: Path, mine: Sequence[Cell], data_dir: str) -> dict[str, dict]:
    """Checks every cell of the grid, and the records that are there, before anything runs.

    Returns:
      Name of the cell -> its config.
    """
    configs, fingerprints = {}, {}
    for cell in grid.cells:
        config = check.resolved_config(grid, cell, data_dir)
        configs[cell.name] = check.as_json(config)
        if record.json_path(directory, cell.name).exists():
            record.check_record(directory, cell.name, configs[cell.name])
        elif cell in mine:
            began = directory / "cells" / cell.name / "config.json"
            if began.exists():
                check_config(began, configs[cell.name])
            fingerprints[cell.name] = check.check_cell(grid, cell, config)
    check.check_metrics(grid, configs[grid.cells[0].name]["modality"])
    record.check_fingerprints(directory, grid, configs, fingerprints)
    return configs


def run(
    grid: Grid, directory: Path, mine: Sequence[Cell], configs: dict, args: argparse.Namespace
) -> int:
    """Runs the cells of this runner; returns the exit status."""
    stop = run_cell.Stop()
    stop.install()
    failed, elsewhere = [], []
    names = [cell.name for cell in grid.cells]
    with Progress(grid, directory, mine) as progress:
        for cell in mine:
            if stop.signal:
                break
            with run_cell.locked(directory, cell.name) as lock:
                if record.json_path(directory, cell.name).exists():
                    continue  # before, or by another runner meanwhile
                if lock is None:
                    elsewhere.append(cell.name)
                    progress.say(f"{cell.name} is taken by another runner")
                    continue
                workdir = directory / "cells" / cell.name
                status = 0
                if not record.is_finished(workdir):
                    progress.begin(cell)
                    arguments = run_cell.command(
                        grid.config, grid.overrides(cell), args.data_dir, workdir
                    )
                    status = run_cell.run_cell(
                        directory, cell.name, arguments, CELL_ENVIRONMENT, lock, stop,
                        progress.heartbeat,
                    )  # fmt: skip
                if status == EXIT_PREEMPTED and stop.signal:
                    break
                if status == 0:
                    took = run_cell.effort(directory, cell.name)
                    record.write_record(directory, cell, configs[cell.name], workdir, took)
                    run_cell.forget(
                        workdir, directory, cell.name, keep_checkpoints=args.keep_checkpoints
                    )
                    progress.finished(cell)
                else:
                    end = run_cell.write_failure(directory, cell.name, status)
                    failed.append(cell.name)
                    progress.failed(cell, status, end)
            with run_cell.alone(directory):
                write_results(grid, directory, statuses(grid, directory))
    stop.release()
    states = statuses(grid, directory)
    done = sum(state == FINISHED for state in states.values())
    print(f"{done} of {len(names)} cells of grid {grid.name} are done", flush=True)
    if elsewhere:
        print(f"{len(elsewhere)} were taken by other runners: {', '.join(elsewhere)}")
    if failed:
        print(
            f"{len(failed)} failed: {', '.join(failed)}; see {directory / 'logs'}. The same "
            "command tries them again.",
            file=sys.stderr,
        )
    if stop.signal:
        print("stopped; go on with the same command: " + shlex.join(["python", *sys.argv]))
        return EXIT_PREEMPTED
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a grid."""
    args = parse(argv)
    named = GRIDS / f"{args.grid}.py"
    grid = load_grid(Path(args.grid) if args.grid.endswith(".py") else named)
    directory = (args.output or Path("runs") / f"ablation-{grid.name}").absolute()
    mine = chosen(grid, args.only, args.index, args.count)
    if args.list:
        states = statuses(grid, directory)
        for cell in mine:
            print(f"{states[cell.name]:9} {cell.name}")
        return 0
    if args.data_dir:
        args.data_dir = str(Path(args.data_dir).absolute())
    directory.mkdir(parents=True, exist_ok=True)
    if args.tables_only:
        check_all(grid, directory, [], args.data_dir)
        status = 0
    else:
        configs = check_all(grid, directory, mine, args.data_dir)
        status = run(grid, directory, mine, configs, args)
    if status != EXIT_PREEMPTED:
        evaluate(grid, directory)
    return status


def evaluate(grid: Grid, directory: Path) -> None:
    """Writes results.csv, tables and plots from the records."""
    with run_cell.alone(directory):
        states = statuses(grid, directory)
        write_results(grid, directory, states)
        found = analyse(grid, directory, states)
        if found is None:
            print("no cell is done yet, so there are no tables")
            return
        write_tables(grid, found, directory)
        write_plots(grid, found, directory)
    print(f"tables: {directory / 'tables.md'}")


if __name__ == "__main__":
    sys.exit(status_of(main))
