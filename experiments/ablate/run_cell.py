"""One cell: its lock, its process, its log."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ablate.check import ROOT, flags_of
from wlsrl_jax.files import read_json, write_json
from wlsrl_jax.runtime.processes import EXIT_LOST_PROCESS
from wlsrl_jax.runtime.stop import EXIT_PREEMPTED

AGAIN = {EXIT_PREEMPTED: 20, EXIT_LOST_PROCESS: 20, -signal.SIGKILL: 2, 128 + signal.SIGKILL: 2}
"""Exit status -> how often a cell that ended so is started again."""
LAST_LINES = 12  # of the log, for the record of a failure


class Stop:
    """The first SIGTERM, SIGINT or SIGHUP stops the running cell, which saves; a second kills."""

    def __init__(self) -> None:
        self.signal = 0
        self.child: subprocess.Popen[bytes] | None = None

    def install(self) -> None:
        """Takes over the handlers."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def release(self) -> None:
        """Gives the handlers back; a stop that was asked for stays noted."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    def _note(self, number: int, frame: Any) -> None:
        self.tell_child(signal.SIGKILL if self.signal else signal.SIGTERM)
        self.signal = number

    def tell_child(self, number: int) -> None:
        """Sends a signal to the running cell, if there is one."""
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(number)


@contextlib.contextmanager
def locked(directory: Path, name: str) -> Iterator[IO[str] | None]:
    """Holds a cell for this runner; None if another one holds it.

    The cell's process inherits the lock: should the runner be killed, the cell stays taken until
    its process has ended, too.
    """
    path = directory / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Waits until no other runner writes the files that are about the whole grid."""
    path = directory / "locks" / ".grid"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def command(config: str, overrides: Mapping[str, Any], data_dir: str, workdir: Path) -> list[str]:
    """The command of a cell."""
    return [
        sys.executable, "-m", "wlsrl_jax.main", f"--config={ROOT / config}", f"--workdir={workdir}",
        *([f"--config.data.data_dir={data_dir}"] if data_dir else []),
        "--config.report=False", *flags_of(overrides),
    ]  # fmt: skip


def run_cell(
    directory: Path,
    name: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    lock: IO[str],
    stop: Stop,
    heartbeat: Callable[[str], None],
) -> int:
    """Runs a cell until it has ended for good, or until the runner is asked to stop.

    Args:
      directory: of the grid.
      name: of the cell.
      arguments: its command.
      environment: of its process.
      lock: of the cell, which its process inherits.
      stop: of the runner.
      heartbeat: called now and then with the last line of the log.

    Returns:
      The exit status of the last start, 75 if it was stopped.
    """
    log = directory / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    ended: dict[int, int] = {}
    while True:
        if stop.signal:
            return EXIT_PREEMPTED
        _count(directory, name, starts=1)
        began = time.monotonic()
        with log.open("ab") as file:
            stop.child = subprocess.Popen(
                arguments,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.fileno()],
                start_new_session=True,  # a Ctrl-C reaches it through the runner, once
            )
        if stop.signal:  # came while it was started
            stop.tell_child(signal.SIGTERM)
        while stop.child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                stop.child.wait(0.5)
            heartbeat(last_lines(log, 1))
        status = stop.child.returncode
        _count(directory, name, seconds=time.monotonic() - began)
        if stop.signal and status != 0:
            return EXIT_PREEMPTED
        ended[status] = ended.get(status, 0) + 1
        if ended[status] > AGAIN.get(status, 0):
            return status


def last_lines(log: Path, count: int = LAST_LINES) -> str:
    """The last lines of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8000))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(line.rstrip() for line in lines[-count:])


def effort(directory: Path, name: str) -> dict[str, Any]:
    """Seconds that the processes of a cell ran, and how often it was started.

    With more than one start the seconds are a lower bound: what a killed runner did not see is
    not in them.
    """
    path = _effort_path(directory, name)
    return read_json(path) if path.exists() else {"seconds": 0.0, "starts": 0}


def _effort_path(directory: Path, name: str) -> Path:
    return directory / "logs" / f"{name}.json"


def _count(directory: Path, name: str, *, seconds: float = 0.0, starts: int = 0) -> None:
    old = effort(directory, name)
    new = {"seconds": round(old["seconds"] + seconds, 2), "starts": old["starts"] + starts}
    write_json(_effort_path(directory, name), new)


def failure_path(directory: Path, name: str) -> Path:
    """Where it is written that a cell failed."""
    return directory / "failures" / f"{name}.json"


def write_failure(directory: Path, name: str, status: int) -> str:
    """Keeps the end of the log of a failed cell; returns it."""
    end = last_lines(directory / "logs" / f"{name}.log")
    path = failure_path(directory, name)
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"exit_status": status, "log": end.splitlines()})
    return end


def forget(workdir: Path, directory: Path, name: str, *, keep_checkpoints: bool) -> None:
    """Removes what a finished cell needs no longer."""
    failure_path(directory, name).unlink(missing_ok=True)
    if not keep_checkpoints:
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
