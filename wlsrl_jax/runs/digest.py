"""A digest of a folder: name, size and CRC-32 of every file, written last and checked at reading.

CRC-32 finds every flipped bit and every burst of up to 32 bits, and lets other damage pass once in
four thousand million times. It costs a twentieth of the time that reading a checkpoint takes; a
cryptographic digest would cost a fifth, and protect no better: it would lie beside what it is of.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from wlsrl_jax.files import write_json

NAME = "digest.json"
Files = Mapping[str, tuple[int, int]]
"""What ``read`` gives."""

_BLOCK = 1 << 20  # bytes read at a time
_LARGEST = 1 << 26  # bytes of digest.json itself


class DigestError(ValueError):
    """A folder that is not what its digest says; the message names the file."""


def write(folder: Path, parts: Sequence[str]) -> None:
    """Writes ``digest.json`` into a folder.

    Args:
      folder: whose files are complete.
      parts: the folders in it that are digested.
    """
    found = {name: [size, _crc32(folder / name, size)] for name, size in _files(folder, parts)}
    write_json(folder / NAME, {"files": found})


def check(folder: Path, parts: Sequence[str]) -> None:
    """Checks that a folder holds exactly what was written.

    Args:
      folder: with a ``digest.json``.
      parts: the folders in it that are digested.

    Raises:
      DigestError: naming the file that differs.
    """
    wanted = read(folder)
    check_names(folder, parts, wanted)
    check_contents(folder, wanted)


def check_names(folder: Path, parts: Sequence[str], wanted: Files) -> None:
    """The quick part of ``check``: names, kinds and sizes of the files.

    Raises:
      DigestError: naming the file that differs.
    """
    there = dict(_files(folder, parts))
    if lacking := sorted(wanted.keys() - there.keys()):
        raise DigestError(f"{lacking[0]} is missing")
    if foreign := sorted(there.keys() - wanted.keys()):
        raise DigestError(f"{foreign[0]} is not of this checkpoint")
    for name, size in there.items():
        if wanted[name][0] != size:
            raise DigestError(f"{name} has {size} bytes instead of {wanted[name][0]}")


def check_contents(folder: Path, wanted: Files) -> None:
    """The other part of ``check``: what is in the files, once their names are known to be right.

    Raises:
      DigestError: naming the file that differs.
    """
    for name, (size, crc) in wanted.items():
        if crc != _crc32(folder / name, size):
            raise DigestError(f"{name} is damaged: its CRC-32 is not the one in {NAME}")


def read(folder: Path) -> dict[str, tuple[int, int]]:
    """Reads the digest of a folder: name of a file -> (size, CRC-32).

    Raises:
      DigestError: if it is missing or damaged.
    """
    path = folder / NAME
    try:
        if path.stat().st_size > _LARGEST:
            raise DigestError(f"{NAME} is too large")
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
        return {str(name): (int(size), int(crc)) for name, (size, crc) in files.items()}
    except FileNotFoundError:
        raise DigestError(f"it has no {NAME}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DigestError):
            raise
        raise DigestError(f"{NAME} is damaged") from None


def _files(folder: Path, parts: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Name and size of every file, in order.

    Raises:
      DigestError: for what is neither file nor folder; a link may lead anywhere.
    """
    for part in parts:
        if not stat.S_ISDIR(_mode(folder / part)):
            raise DigestError(f"{part} is missing")
        for directory, inner, names in os.walk(folder / part, onerror=_raise):
            inner.sort()
            for name in sorted([*inner, *names]):
                path = Path(directory, name)
                mode = _mode(path)
                if stat.S_ISREG(mode):
                    yield path.relative_to(folder).as_posix(), path.stat().st_size
                elif not stat.S_ISDIR(mode):
                    raise DigestError(f"{path.relative_to(folder)} is no plain file")


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0


def _raise(error: OSError) -> None:
    raise error


def _crc32(path: Path, size: int) -> int:
    """Of the first ``size`` bytes: a file that grows meanwhile is not read for ever."""
    value, left = 0, size
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(_BLOCK, left))):
            value, left = zlib.crc32(block, value), left - len(block)
    return value
