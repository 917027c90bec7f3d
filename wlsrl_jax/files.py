"""Files and mistakes: whole writes, JSON, JSON lines, and what a person is told of an error.

Imports nothing of ours and nothing heavy, so that every module may use it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


_FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))  # how compiled libraries say it


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        compiled = isinstance(error, RuntimeError | ValueError) and not isinstance(error, Mistake)
        if compiled and any(text in str(error) for text in _FULL):
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
        names = names or ["standard output or a temporary file"]  # all others are named
        told = f"{' -> '.join(map(str, names))}: {reason}"
        return f"{told}. {AFTER_FULL}" if error.errno in DISK_FULL else told
    return f"a file: {_FULL[0]}. {AFTER_FULL}" if is_disk_full(error) else None


AFTER_FULL = (
    "What was there before is whole. When there is room again, the same command does the rest."
)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Names the file or folder that is being written where the disk turns out to be full.

    Raises:
      OSError: of ``DISK_FULL``, naming ``path``; any other error as it is.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        number = error.errno if isinstance(error, OSError) else None
        number = number if number in DISK_FULL else errno.ENOSPC
        raise OSError(number, os.strerror(number), str(path)) from error


SHOWN = 20


def some(lines: Iterable[str], total: int | None = None, *, rest: str = "") -> list[str]:
    """The first lines of a list that may be long, and how many more there are.

    Args:
      lines: to show; no more than ``SHOWN`` are taken where ``total`` is given.
      total: how many there are; None: they are counted.
      rest: where the others can be read, as "; all of them are in FILE".

    Returns:
      At most ``SHOWN`` lines, and one more that counts the rest.
    """
    taken: list[str] = []
    count = 0
    for count, line in enumerate(lines, 1):
        if count <= SHOWN:
            taken.append(line)
        elif total is not None:
            break
    left = (count if total is None else total) - len(taken)
    return [*taken, f"  ... and {left:,} more{rest}"] if left > 0 else taken


def local_path(text: str) -> Path:
    """A path of this machine as a person writes it.

    Args:
      text: the path; a leading "~" is the home directory.

    Returns:
      The path.

    Raises:
      Mistake: for an empty text, an address such as gs://bucket/run, a home that is not there,
        or what no file can be named.
    """
    if not text.strip() or "\0" in text:
        raise Mistake(f"{text!r} is no path.")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text):
        raise Mistake(
            f"{text} is an address, and only paths of this machine can be read and written: copy "
            "what lies there to a disk, or mount it."
        )
    expanded = os.path.expanduser(text)
    if expanded.startswith("~") and not os.path.lexists(expanded.partition("/")[0]):
        raise Mistake(f"{text}: there is no such home directory; ./{text} is the name as it is.")
    return Path(expanded)


def check_output_file(path: Path) -> Path:
    """Checks that a file can be written, before there is anything to write.

    Returns:
      The path.

    Raises:
      Mistake: if it is a folder, or its folder is no folder or cannot be written.
    """
    if path.is_dir():
        raise Mistake(f"{path} is a folder; name a file.")
    _check_parent(path)
    return path


def check_output_folder(path: Path) -> Path:
    """Checks that a folder can be made or written, before there is anything to write.

    Returns:
      The path.

    Raises:
      Mistake: if it is a file, or it cannot be made or written.
    """
    if path.exists() and not path.is_dir():
        raise Mistake(f"{path} is a file; name a folder.")
    _check_parent(path / "any")
    return path


def _check_parent(path: Path) -> None:
    """The nearest folder above that exists must be one, and let us write."""
    folder = path.absolute().parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise Mistake(f"{path}: {folder} is no folder.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Mistake(f"{path}: {folder} cannot be written (permission denied).")


def cache_directory(part: str) -> str:
    """Where what can be rebuilt is kept: under the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "wlsrl_jax", part)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all; of two processes at once, the last one's stays.

    Raises:
      OSError: naming the file, if it cannot be written; what was there is as it was.
    """
    # A name that is too long is told as such, and not that it became so by ours.
    temporary = path.with_name(f"{path.name[:200]}.{os.getpid()}.tmp")
    try:
        with writing(path):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


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


def json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The lines of a JSON-lines log as (text, value); what a kill cut off is passed over."""
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            yield text, json.loads(text)
        except json.JSONDecodeError:
            continue


def keep_lines(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Drops the lines of a JSON-lines log that are not wanted or were cut off."""
    if not path.exists():
        return
    kept = []
    for text, line in json_lines(path):
        with contextlib.suppress(KeyError, TypeError):  # no line of ours
            if wanted(line):
                kept.append(text)
    write_whole(path, "".join(f"{text}\n" for text in kept).encode())


def flatten(tree: Mapping[str, Any], separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings: {"a": {"b": 1}} is {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, separator, f"{name}{separator}")
        else:
            flat[name] = value
    return flat


def put(tree: dict[str, Any], names: Sequence[str], value: Any) -> None:
    """Sets an entry of nested dicts, made where they are not there."""
    *parents, last = names
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[last] = value


def changes(
    old: Mapping[str, Any], new: Mapping[str, Any], absent: Any = None
) -> list[tuple[str, Any, Any]]:
    """(Name, value there, value now) of each entry of two flat mappings that differs, by name.

    Args:
      old: as it was.
      new: as it is now.
      absent: stands for a value that there is not.
    """
    return [
        (name, old.get(name, absent), new.get(name, absent))
        for name in sorted(old.keys() | new.keys())
        if old.get(name, absent) != new.get(name, absent)
    ]


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nests dotted names: undoes ``flatten``."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        put(nested, name.split("."), value)
    return nested


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lists what differs between two nested mappings, a line each.

    Args:
      old: as it was.
      new: as it is now.
      prefix: of the names.

    Returns:
      Lines such as "config.seed: 0 there, 1 now", sorted by name.
    """
    return [
        f"{prefix}{name}: {before!r} there, {now!r} now"
        for name, before, now in changes(flatten(old), flatten(new))
    ]
