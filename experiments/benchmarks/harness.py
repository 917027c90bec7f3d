"""Interleaved timing of candidates, each in a process of its own.

Candidates take turns, so that whatever else the machine does hits all of them; ratios are
formed within a round and reported as minimum, median and maximum. Processes of their own
keep thread pools and memory apart.
"""

from __future__ import annotations

import argparse
import atexit
import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wlsrl_jax.runtime import huge_pages

Run = Callable[[int], None]
Setup = Callable[..., tuple[Run | Mapping[str, Run], dict[str, Any]]]

# For all candidates alike: what `python -m wlsrl_jax.main` sets for itself helps PyTorch too.
os.environ.setdefault(huge_pages.VARIABLE, huge_pages.SETTING)

_ROOT = Path(__file__).resolve().parents[2]
_PAUSE = 0.25  # seconds for the last candidate's threads to go to sleep


def _serve(connection: Any, setup: Setup, arguments: tuple[Any, ...]) -> None:
    start = time.perf_counter()
    found, info = setup(*arguments)
    runs = found if isinstance(found, Mapping) else {"": found}
    for run in runs.values():
        run(1)
    connection.send({**info, "setup_s": time.perf_counter() - start})
    while (request := connection.recv()) is not None:
        case, count = request
        runs[case](1)
        start = time.perf_counter()
        runs[case](count)
        connection.send((time.perf_counter() - start) / count)
    connection.send(_peak_memory())


def _peak_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


class Candidate:
    """A process that repeats one computation on request.

    Args:
      setup: importable function giving (run, info); ``run(n)`` does the work n times and
        returns when it is done. Several computations are a dict of such functions.
      *arguments: of ``setup``.
    """

    def __init__(self, setup: Setup, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        # Not a daemon: it may have workers of its own. Nor may it outlive an error here.
        self._process = context.Process(target=_serve, args=(theirs, setup, arguments))
        self._process.start()
        atexit.register(self._process.kill)
        theirs.close()
        self.info: dict[str, Any] = self._connection.recv()

    def seconds(self, count: int, case: str = "") -> float:
        """Seconds of one repetition, mean over ``count``, after one that is not counted."""
        time.sleep(_PAUSE)
        self._connection.send((case, count))
        return self._connection.recv()

    def close(self) -> int:
        """Ends the process; returns its peak resident memory in bytes."""
        self._connection.send(None)
        peak = self._connection.recv()
        self._process.join()
        atexit.unregister(self._process.kill)
        return peak


def measure(command: Sequence[str]) -> tuple[float, float, str]:
    """Runs a command as a user would, without what this module sets for candidates.

    Returns:
      (seconds, peak resident memory of it and of its largest child in MiB, its output).

    Raises:
      RuntimeError: if it fails, with the end of its output.
    """
    environment = {k: v for k, v in os.environ.items() if k != huge_pages.VARIABLE}
    with tempfile.TemporaryFile("w+") as out:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=_ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        out.seek(0)
        text = out.read()
    if status:
        raise RuntimeError(f"{' '.join(command)} failed:\n{text[-2000:]}")
    return seconds, usage.ru_maxrss / 1024, text


def matrix_product(size: int = 1024) -> tuple[Run, dict[str, Any]]:
    """A square float32 matrix product in XLA: the rate that everything is held against."""
    import jax
    import jax.numpy as jnp

    a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
    product = jax.jit(jnp.matmul)

    def run(count: int) -> None:
        for _ in range(count):
            product(a, a).block_until_ready()

    return run, {"flops": 2 * size**3}


def _repetitions(candidate: Candidate, seconds: float, case: str) -> int:
    """How often a computation fits into a turn; the first ones may lie ready in a buffer."""
    count = 1
    while (each := candidate.seconds(count, case)) * count < seconds / 4:
        count *= 4
    return max(1, round(seconds / each))


def interleave(
    candidates: Mapping[str, Candidate], rounds: int, seconds: float, case: str = ""
) -> dict[str, list[float]]:
    """Times every candidate in every round.

    Args:
      candidates: by name.
      rounds: how often each has its turn.
      seconds: about how long a turn takes.
      case: which of a candidate's computations.

    Returns:
      Name -> seconds of one repetition, one entry a round.
    """
    counts = {n: _repetitions(c, seconds, case) for n, c in candidates.items()}
    times: dict[str, list[float]] = {n: [] for n in candidates}
    for k in range(rounds):
        names = list(candidates)
        for name in names if k % 2 == 0 else names[::-1]:
            times[name].append(candidates[name].seconds(counts[name], case))
    return times


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def ratio(times: Mapping[str, Sequence[float]], ours: str, theirs: str) -> dict[str, float]:
    """How many times faster ``ours`` is, round by round."""
    return spread([b / a for a, b in zip(times[ours], times[theirs], strict=True)])


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    out = argparse.ArgumentParser(description=description)
    out.add_argument("--json", type=Path, help="write the figures there as well")
    out.add_argument("--rounds", type=int, default=7)
    out.add_argument("--seconds", type=float, default=2.0, help="of one turn")
    return out


def show(title: str, rows: Sequence[Mapping[str, Any]], path: Path | None) -> None:
    """Prints rows as a table, writes them as JSON."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column.replace("_", " "), justify="left" if column == "name" else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(c)) for c in columns))
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(table)
    if path:
        document = {"title": title, "rows": list(rows)}
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return f"{value['median']:.2f} ({value['min']:.2f}-{value['max']:.2f})"
    if isinstance(value, float):
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return str(value)
