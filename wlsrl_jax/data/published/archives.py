"""Unpacking zip and tar files that strangers have made."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from wlsrl_jax.files import DISK_FULL, Mistake, writing

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_BYTES = 256 * 2**30  # no retinal set is larger
MAX_MEMBERS = 2_000_000
MAX_RATIO = 200  # image files hardly compress; a bomb does so a thousandfold
FREE_RATIO_BYTES = 64 * 2**20  # so much may be unpacked at any ratio: tables, blank images
_JUNK = ("__macosx", ".ds_store", "thumbs.db", "desktop.ini")
_BLOCK = 2**20


class BadArchiveError(Mistake):
    """An archive that is damaged or hostile; the message names it and the member."""


def is_archive(path: Path) -> bool:
    """Whether a file name says that it is an archive."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """File name without the suffix of an archive."""
    name = path.name
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def member_path(archive: Path, name: str) -> PurePosixPath | None:
    """The relative path of a member.

    Args:
      archive: for messages.
      name: of the member, as the archive has it; backslashes are separators.

    Returns:
      The path; None for the leftovers of macOS and Windows (``__MACOSX``, ``._x``).

    Raises:
      BadArchiveError: if it is absolute or leads out of the target folder.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    drive = re.match(r"[A-Za-z]:", name)
    if path.is_absolute() or drive or ".." in path.parts or "\0" in name:
        raise BadArchiveError(f"{archive}: member {name!r} leads out of the target folder")
    junk = any(part.lower() in _JUNK or part.startswith("._") for part in path.parts)
    return None if junk or not path.parts else path


class _Target:
    """Writes members below a folder and keeps count of what they take."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.archive, self.folder = archive, folder
        self.packed = archive.stat().st_size
        self.limit = min(MAX_BYTES, shutil.disk_usage(folder).free)
        self.bytes, self.members = 0, 0
        self.seen: set[PurePosixPath] = set()

    def count(self, size: int) -> None:
        """Adds to what is unpacked.

        Raises:
          BadArchiveError: if it is more than an archive of images can be.
        """
        self.bytes += size
        if self.bytes > self.limit:
            raise BadArchiveError(
                f"{self.archive}: it unpacks to more than {self.limit:,} bytes, the limit or the "
                "free disk space"
            )
        if self.bytes > FREE_RATIO_BYTES and self.bytes > MAX_RATIO * self.packed:
            raise BadArchiveError(
                f"{self.archive}: it unpacks to more than {MAX_RATIO} times its size, which no "
                "archive of images does (a zip bomb?)"
            )

    def add(self, name: str) -> PurePosixPath | None:
        """Checks the name of the next member."""
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise BadArchiveError(f"{self.archive}: more than {MAX_MEMBERS:,} members")
        path = member_path(self.archive, name)
        if path is not None and path in self.seen:
            raise BadArchiveError(f"{self.archive}: member {name!r} stands twice")
        if path is not None:
            self.seen.add(path)
        return path

    def write(self, path: PurePosixPath, content: IO[bytes]) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            while block := content.read(_BLOCK):
                self.count(len(block))
                file.write(block)


def _unpack_zip(archive: Path, target: _Target) -> None:
    with zipfile.ZipFile(archive) as opened:
        members, declared = [], 0
        for info in opened.infolist():  # all of them are checked before one is written
            if stat.S_ISLNK(info.external_attr >> 16):
                raise BadArchiveError(f"{archive}: member {info.filename!r} is a link")
            if info.flag_bits & 1:
                raise BadArchiveError(f"{archive}: encrypted; unpack it yourself")
            path = target.add(info.filename)
            if path is not None and not info.is_dir():
                members.append((info, path))
                declared += info.file_size
        target.count(declared)
        target.bytes = 0  # now for real: what is declared may be a lie
        for info, path in members:
            with opened.open(info) as content:
                target.write(path, content)


def _unpack_tar(archive: Path, target: _Target) -> None:
    with tarfile.open(archive, "r:*") as opened:
        for info in opened:
            path = target.add(info.name)
            if path is None or info.isdir():
                continue
            if not info.isfile():
                raise BadArchiveError(f"{archive}: member {info.name!r} is a link or a device")
            content = opened.extractfile(info)
            if content is not None:
                target.write(path, content)


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks an archive into a folder that must not exist; all of it or nothing.

    Links, devices, members that stand twice, encrypted ones and such as lead out of the folder
    are errors, as is an archive that unpacks to far more than its size. Leftovers of macOS
    (``__MACOSX/``, ``._x``) are not written.

    Args:
      archive: a zip or tar file.
      folder: what to make.

    Raises:
      BadArchiveError: with the reason; nothing is left then.
      Mistake: if the folder exists.
    """
    if folder.exists():
        raise Mistake(f"{folder} exists; delete it or choose another folder.")
    staging = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    staging.mkdir(parents=True)
    try:
        run = _unpack_zip if archive.name.lower().endswith(".zip") else _unpack_tar
        with writing(folder):
            run(archive, _Target(archive, staging))
            os.replace(staging, folder)
    except BadArchiveError:
        raise
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zipfile.LargeZipFile) as error:
        raise BadArchiveError(f"{archive}: damaged or incomplete ({error})") from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise BadArchiveError(f"{archive}: two members have one path ({error.filename})") from None
    except (NotImplementedError, RuntimeError, ValueError) as error:  # methods zipfile lacks
        raise BadArchiveError(f"{archive}: cannot be unpacked ({error})") from None
    except OSError as error:
        if isinstance(error, PermissionError) or error.errno in DISK_FULL:
            raise
        raise BadArchiveError(f"{archive}: damaged or incomplete ({error})") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _holds_archives(source: Path) -> bool:
    entries = [p for p in source.iterdir() if not p.name.startswith(".")]
    return any(is_archive(p) for p in entries if p.is_file()) and not any(
        p.is_dir() and p.name.lower() not in _JUNK for p in entries
    )


@contextlib.contextmanager
def opened(source: Path, scratch: Path) -> Iterator[Path]:
    """A source as a folder: an archive is unpacked for the time being.

    Args:
      source: a folder; an archive; or a folder that holds only archives and loose files, such
        as one zip a class, or a zip and its table.
      scratch: folder for what is unpacked, deleted at the end.

    Yields:
      The source itself, or ``scratch``.

    Raises:
      BadArchiveError: see ``unpack``.
    """
    if source.is_file() and is_archive(source):
        archives, loose = [source], []
    elif source.is_dir() and _holds_archives(source):
        files = sorted(p for p in source.iterdir() if p.is_file() and not p.name.startswith("."))
        archives = [p for p in files if is_archive(p)]
        loose = [p for p in files if not is_archive(p)]
    else:
        yield source
        return
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        for archive in archives:
            unpack(archive, scratch / stem(archive))
        for path in loose:
            shutil.copyfile(path, scratch / path.name)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
