"""The files of a run: atomic JSON, the lock, the config that a workdir belongs to."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from wlsrl_jax.runtime import processes
from wlsrl_jax.config.fields import completed

LOCK = ".lock"
SHARED_SECONDS = 30.0  # NFS keeps what it knows of a directory for about so long

# Fields that may change between the parts of one run, for they change no result.
FREE_FIELDS = (
    "log_every",
    "on_nan",
    "require_accelerator",
    "report",
    "eval.dataset",
    "eval.split",
    "eval.label_map",
    "eval.batch_size",
    "data.num_threads",
    "data.cache_mib",
    "data.data_dir",
    "checkpoint",
    "mesh",
    "log_example_ids",
)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all; NaN becomes null."""
    text = json.dumps(_plain(value), indent=2, sort_keys=False, allow_nan=False)
    write_whole(path, f"{text}\n".encode())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
      ValueError: if the file is missing or damaged, naming it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing, so this is no workdir of a run.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it or use another --workdir."
        ) from None


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Makes the workdir and holds it for this run; the kernel lets go of it however we end.

    Process 0 holds it for all processes of the run.

    Raises:
      ValueError: if it cannot be made or written, if another run holds it, or if the processes
        do not see the same directory.
    """
    token = processes.from_primary(uuid.uuid4().hex)
    with contextlib.ExitStack() as stack:
        with processes.agreed():
            if processes.is_primary():
                stack.enter_context(_locked(workdir, token))
        with processes.agreed():
            if not _shows(workdir / LOCK, token):
                raise ValueError(
                    f"--workdir={workdir} is not the same directory for process "
                    f"{jax.process_index()} as for process 0; use one that all hosts share."
                )
        yield


def _shows(path: Path, token: str) -> bool:
    """Whether a file has this content, now or as soon as a network file system shows it."""
    end = time.monotonic() + SHARED_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if path.read_text() == token:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(0.2)


@contextlib.contextmanager
def _locked(workdir: Path, token: str) -> Iterator[None]:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / LOCK).open("a")
    except OSError as error:
        raise ValueError(
            f"--workdir={workdir} cannot be made or written ({error.strerror}); choose another."
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{workdir} is in use by another run; wait for it or use another --workdir."
            ) from None
        file.truncate(0)
        file.write(token)
        file.flush()
        os.fsync(file.fileno())  # for the other hosts
        yield


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested fields to dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Checks that a workdir's run was started with this config.

    A field that there was not yet when it was started counts as its default.

    Raises:
      ValueError: names each field that differs, with both values.
    """
    # As JSON has them: a tuple of the config is a list in the file.
    old, new = flatten(completed(read_json(path))), flatten(_plain(config))
    free = tuple(f"{name}." for name in FREE_FIELDS)
    differs = [
        f"  config.{name}: {old.get(name)!r} there, {new.get(name)!r} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not f"{name}.".startswith(free)
    ]
    if differs:
        raise ValueError(
            f"{path.parent} holds a run with another config:\n"
            + "\n".join(differs)
            + "\nUse another --workdir, or the same config to go on."
        )


def keep_lines(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Drops the lines of a JSON-lines log that are not wanted or were cut off."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if wanted(json.loads(line)):
                kept.append(line)
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # a line that a kill cut off
    write_whole(path, "".join(f"{line}\n" for line in kept).encode())
