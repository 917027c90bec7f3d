"""The workdir of a run: its lock, and the config that it belongs to."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from wlsrl_jax.config.fields import FREE_FIELDS, bound_fields, completed
from wlsrl_jax.files import (
    Mistake,
    differences,
    flatten,
    is_disk_full,
    plain,
    read_json,
    unflatten,
    write_json,
    write_whole,
)
from wlsrl_jax.runtime import processes
from wlsrl_jax.runtime.lock import HeldError, hold

LOCK = ".lock"
HOLDER = ".holder"  # a name that the run gives itself, for its other hosts
SHARED_SECONDS = 30.0  # NFS keeps what it knows of a directory for about so long


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
    """Makes the workdir and holds it for this run; the kernel lets go of it however we end.

    Process 0 holds it for all processes of the run.

    Raises:
      Mistake: if it cannot be made or written, if another run holds it, or if the processes
        do not see the same directory.
    """
    token = processes.from_primary(uuid.uuid4().hex)
    with contextlib.ExitStack() as stack:
        with processes.agreed():
            if processes.is_primary():
                stack.enter_context(_locked(workdir, token))
        with processes.agreed():
            if not _shows(workdir / HOLDER, token):
                raise Mistake(
                    f"--workdir={workdir} is not the same directory for process "
                    f"{jax.process_index()} as for process 0; use one that all hosts share."
                )
        yield


def _shows(path: Path, token: str) -> bool:
    """Whether a file has this content, now or as soon as a network file system shows it."""
    end = time.monotonic() + SHARED_SECONDS
    while True:
        with contextlib.suppress(OSError):
            if path.read_text(encoding="ascii") == token:
                return True
        if time.monotonic() > end:
            return False
        time.sleep(0.2)


@contextlib.contextmanager
def _locked(workdir: Path, token: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(workdir / LOCK))
            write_whole(workdir / HOLDER, token.encode())
        except HeldError:
            raise Mistake(
                f"{workdir} is in use by another run; wait for it or use another --workdir."
            ) from None
        except OSError as error:
            if is_disk_full(error):
                raise
            raise Mistake(
                f"--workdir={workdir} cannot be made or written ({error.strerror}); choose another."
            ) from None
        yield


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Checks that a workdir's run was started with this config.

    A field that there was not yet when it was started counts as its default.

    Raises:
      Mistake: names each field that differs, with both values.
    """
    # As JSON has them: a tuple of the config is a list in the file.
    old = bound_fields(flatten(completed(read_json(path))))
    new = bound_fields(flatten(plain(config)))
    differs = differences(old, new, "  config.")
    if differs:
        raise Mistake(
            f"{path.parent} holds a run with another config:\n"
            + "\n".join(differs)
            + "\nUse another --workdir, or the same config to go on."
        )


def write_back(path: Path, config: Mapping[str, Any], fields: Sequence[str] = FREE_FIELDS) -> None:
    """Keeps in a run's ``config.json`` the free fields that it goes on with, such as its data_dir.

    Args:
      path: the file.
      config: the config of now, whose bound fields are those of the file (``check_config``).
      fields: that may change, of FREE_FIELDS.
    """
    saved = flatten(read_json(path))
    before = flatten(completed(unflatten(saved)))
    now = flatten(plain(config))
    changed = {k: now[k] for k in fields if k in now and before.get(k) != now[k]}
    if changed:
        write_json(path, unflatten({**saved, **changed}))
