"""Files and mistakes: whole writes, JSON, JSON lines, and what a person is told of an error.

Imports nothing of ours and nothing heavy, so that every module may use it.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Mistake(ValueError):
    """Something that the user can put right.

    The message names the file, field or flag, and says what to do. A command prints it in one line
    and ends with status 2; every other exception is a fault of ours and shows its traceback.
    """


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OF_THE_MACHINE = (
    *DISK_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE,
    errno.ENFILE, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.EISDIR,
    errno.EEXIST, errno.ENOTEMPTY, errno.EXDEV, errno.ENOMEM,
)  # fmt: skip


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def message_of(error: BaseException) -> str | None:
    """What to tell a person about an error.

    Args:
      error: that ended a command.

    Returns:
      The line without "error: ", or None for a fault of ours, whose traceback is wanted.
    """
    if isinstance(error, Mistake):
        return str(error)
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        reason = error.strerror or os.strerror(error.errno)
        if error.filename is None and error.errno not in DISK_FULL:
            return None
        names = [os.fspath(n) for n in (error.filename, error.filename2) if n is not None]
        return ": ".join([" -> ".join(map(str, names)), reason] if names else [reason])
    return None


def cache_directory(part: str) -> str:
    """Where what can be rebuilt is kept: under the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "wlsrl_jax", part)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def plain(value: Any) -> Any:
    """Makes a value what JSON has: tuples become lists, numbers that are not finite None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all; NaN becomes null."""
    text = json.dumps(plain(value), indent=2, sort_keys=False, allow_nan=False)
    write_whole(path, f"{text}\n".encode())


def read_json(path: Path, *, remedy: str = "restore it, or name another --workdir") -> Any:
    """Reads JSON.

    Args:
      path: the file.
      remedy: what to do where it is missing or damaged.

    Raises:
      Mistake: if the file is missing or damaged, naming it, with the remedy.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Mistake(f"{path} is missing; {remedy}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Mistake(f"{path} is damaged ({error}); {remedy}.") from None


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


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested fields to dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lists what differs between two nested mappings, a line each.

    Args:
      old: as it was.
      new: as it is now.
      prefix: of the names.

    Returns:
      Lines such as "config.seed: 0 there, 1 now", sorted by name.
    """
    before, now = flatten(old), flatten(new)
    return [
        f"{prefix}{name}: {before.get(name)!r} there, {now.get(name)!r} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
