"""Files that one process holds at a time, on every platform."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout


class HeldError(Exception):
    """Another process holds the file."""


@contextlib.contextmanager
def hold(
    path: Path, waiting: Callable[[], object] | None = None, *, remove: bool = False
) -> Iterator[None]:
    """Holds a file; the system lets go of it however the process ends.

    Args:
      path: an empty file, made if it does not exist.
      waiting: called once where another process holds it, which is then waited for.
      remove: delete the file at the end; who waits for it makes it anew.

    Raises:
      HeldError: if another process holds it and there is no ``waiting``.
      OSError: if it cannot be made.
    """
    path.open("ab").close()  # says why it cannot be made, where the lock would only time out
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if waiting is None:
            raise HeldError(f"{path} is held by another process") from None
        waiting()
        lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        if remove:
            with contextlib.suppress(OSError):  # Windows keeps what is open
                path.unlink()
        lock.release()
