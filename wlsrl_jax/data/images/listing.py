"""Which images a command line means: files, folders, globs and lists."""

from __future__ import annotations

import collections
import dataclasses
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from wlsrl_jax.data.images.decode import is_dicom, is_image_name, open_image
from wlsrl_jax.data.images.frames import count_images, may_hold_several
from wlsrl_jax.data.images.limits import BadImageError
from wlsrl_jax.data.images.read_image import Wide
from wlsrl_jax.data.text.names import UNWRITABLE, is_writable, letters, shown
from wlsrl_jax.data.text.tables import SUFFIXES, read_cells, read_lines, select
from wlsrl_jax.files import Mistake

COLUMN = "path"  # of a list
_COLUMNS = frozenset(
    "path file filename filepath image imagepath imagefile imagename fullpath".split()
)
"""Letters and digits of what people call that column."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One image.

    Attributes:
      path: of its file, as it is opened from the current directory.
      frame: number from 1 in a file of several frames or pages, or 0.
      problem: why it cannot be used, or "".
    """

    path: str
    frame: int = 0
    problem: str = ""

    @property
    def name(self) -> str:
        r"""What the output calls it: the path, and ``#frame`` where there are several.

        Bytes that no table can hold are shown as in ``\xff``.
        """
        name = f"{self.path}#{self.frame}" if self.frame else self.path
        return shown(name)

    @property
    def stem(self) -> str:
        """What pictures of it are called: the file's name without suffix, and ``_frame``."""
        stem = Path(self.path).stem
        return f"{stem}_{self.frame}" if self.frame else stem

    def open(self) -> Image.Image | Wide:
        """Decodes it; see ``decode.open_image``.

        Raises:
          BadImageError: with the reason, also for what was known to be unusable.
        """
        if self.problem:
            raise BadImageError(self.problem)
        return open_image(Path(self.path), self.frame)


@dataclasses.dataclass(frozen=True)
class ImageList:
    """The images of a command line, each once, in order.

    Attributes:
      items: the images; about 0.2 kB of memory each.
      passed_over: reason -> number of what is in folders and is not among the images.
    """

    items: list[Item]
    passed_over: dict[str, int]

    def sentences(self) -> list[str]:
        """Says what was passed over, a line a reason."""
        return [f"passed over: {count} {reason}" for reason, count in self.passed_over.items()]


def find_images(paths: Sequence[str]) -> ImageList:
    """Resolves the arguments of a command line.

    - A file is taken whatever its name. A DICOM file of several frames, or a TIFF of several
      pages, is an image a frame.
    - A folder is walked, sorted by name; hidden files and folders, and files whose names (or,
      without a suffix, first bytes) are not those of images are passed over and counted. Links
      to folders are not followed; one whose images are not met elsewhere in the folder is a
      problem, as is a link to a file outside of the folder.
    - A pattern such as ``scans/**/*.png`` is expanded here if the shell has not done it. What
      exists under the very name is no pattern. A folder that it matches is walked.
    - A ``.csv``, ``.tsv``, ``.txt`` or ``.xlsx`` file is a list with a column "path" (or "file",
      "image" ...), read as the tables of ``prepare`` are; a ``.txt`` may have a path a line and
      no header. Relative paths are seen from the list's folder and, links resolved, must stay in
      it: a list that somebody sent cannot reach other files by accident. An absolute path is
      allowed, being plain to see.

    Args:
      paths: the arguments.

    Returns:
      The images; those that are known to be unusable carry the problem.

    Raises:
      Mistake: for an argument that names nothing, a list without the column, or a path that
        leaves the list's folder, naming it.
    """
    items: dict[str, Item] = {}
    passed_over: collections.Counter[str] = collections.Counter()
    for argument in paths:
        path = Path(argument)
        if os.path.isdir(path):
            found, others = _walk(path)
            if not found:
                what = ", ".join(f"{n} {why}" for why, n in others.items())
                raise Mistake(f"{argument} holds no image ({what or 'it is empty'}).")
            passed_over += others
        elif os.path.exists(path):  # pathlib's raises for a name that is too long
            found = _listed(path) if _is_list(path) else [Item(argument)]
        else:
            found, others = _expand(argument)
            passed_over += others
        before = set(items)
        for item in _frames(found):
            # The same file under two spellings is one image.
            key = f"{os.path.abspath(item.path)}#{item.frame}"
            passed_over[_TWICE] += key in before
            items.setdefault(key, item)
    return ImageList(list(items.values()), dict(+passed_over))


def _expand(pattern: str) -> tuple[list[Item], collections.Counter[str]]:
    matched = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else []
    found: list[Item] = []
    passed_over: collections.Counter[str] = collections.Counter()
    for name in matched:
        if os.path.isdir(name):
            inside, others = _walk(Path(name))
            found += inside
            passed_over += others
        elif os.path.isfile(name):
            found.append(Item(name))
    if not found:
        raise Mistake(f"{pattern} is no file or folder" + (
            " and matches none." if glob.has_magic(pattern) else "."
        ))  # fmt: skip
    return found, passed_over


_TWICE = "images that were named before"
_HIDDEN = "hidden files or folders"
_OTHER = "files whose names are not of images"
_LINKED = "links to folders whose images are taken where they lie"


def _walk(folder: Path) -> tuple[list[Item], collections.Counter[str]]:
    root, items = folder.resolve(), []
    passed_over: collections.Counter[str] = collections.Counter()
    for directory, inner, files in os.walk(folder):
        seen = sorted(name for name in inner if not name.startswith("."))
        passed_over[_HIDDEN] += len(inner) - len(seen)
        inner[:] = seen
        for name in seen:
            path = Path(directory, name)
            if not path.is_symlink():
                continue
            if _is_walked(path.resolve(), root):
                passed_over[_LINKED] += 1
            else:
                problem = "a link to a folder, which is not followed; name the folder itself"
                items.append(Item(str(path), problem=problem))
        for name in sorted(files):
            path = Path(directory, name)
            if name.startswith("."):
                passed_over[_HIDDEN] += 1
            elif path.is_symlink() and not path.resolve().is_relative_to(root):
                if is_image_name(path):
                    problem = "a link that leaves the folder; name the file itself"
                    items.append(Item(str(path), problem=problem))
                else:
                    passed_over[_OTHER] += 1
            elif path.is_file() and (is_image_name(path) or _unnamed_dicom(path)):
                items.append(Item(str(path)))
            elif path.is_symlink() and not path.exists() and is_image_name(path):
                items.append(Item(str(path), problem="a link to a file that is not there"))
            else:
                passed_over[_OTHER] += 1
    return items, +passed_over


def _is_walked(target: Path, root: Path) -> bool:
    """Whether a folder is met on the way through another, for nothing above it is hidden."""
    if not target.is_relative_to(root):
        return False
    return not any(part.startswith(".") for part in target.relative_to(root).parts)


def _unnamed_dicom(path: Path) -> bool:
    """A DICOM file without a suffix, as devices write them; not the index of a medium."""
    plain = not path.suffix and not path.name.startswith(".") and path.name != "DICOMDIR"
    return plain and is_dicom(path)


def _is_list(path: Path) -> bool:
    """By its suffix; a picture may be called .txt."""
    if path.suffix.lower() != ".txt":
        return path.suffix.lower() in SUFFIXES
    with path.open("rb") as file:
        start = file.read(4096)
    return b"\0" not in start or start.startswith((b"\xff\xfe", b"\xfe\xff"))


def _listed(table: Path) -> list[Item]:
    folder, root = table.parent, table.parent.resolve()
    items = []
    for line, text in _paths(table):
        where = f"{table} line {line}"
        if not text:
            raise Mistake(f"{where}: the {COLUMN} is empty.")
        if "\0" in text:  # which no path of any system has
            items.append(Item(text, problem=UNWRITABLE))
            continue
        path = Path(text) if os.path.isabs(text) else folder / text
        if not os.path.exists(path) and "\\" in text:  # as Windows writes it
            text = text.replace("\\", "/")
            path = Path(text) if os.path.isabs(text) else folder / text
        if not os.path.isabs(text) and not path.resolve().is_relative_to(root):
            raise Mistake(f"{where}: {shown(text)} leaves {folder}; give its absolute path.")
        items.append(Item(str(path)))
    if not items:
        raise Mistake(f"{table} lists no image.")
    return items


def _paths(table: Path) -> list[tuple[int, str]]:
    """The lines and the cells of a list; a text file may have a path a line and no header."""
    cells = read_cells(table)
    header = {letters(name) for name in (cells[0] if cells else [])}
    aliases = {name: COLUMN for name in (cells[0] if cells else []) if letters(name) in _COLUMNS}
    if COLUMN in header:
        aliases = {}
    elif not aliases and table.suffix.lower() == ".txt":
        return [(n, row.strip()) for n, row in enumerate(read_lines(table), start=1)]
    elif len(aliases) > 1:
        raise Mistake(f"{table} has the columns {' and '.join(aliases)}; call one {COLUMN!r}.")
    elif not aliases:
        has = ", ".join(filter(None, cells[0] if cells else [])) or "nothing"
        raise Mistake(f"{table} has no column {COLUMN!r}; it has: {has}.")
    rows = select(table, cells, [COLUMN], aliases={k.strip(): v for k, v in aliases.items()})
    return [(row.line, row[COLUMN]) for row in rows]


def _frames(items: Iterable[Item]) -> Iterator[Item]:
    """Checks the names, and takes files of several frames or pages apart."""
    for item in items:
        path = Path(item.path)
        problem = item.problem
        if not problem and not is_writable(item.path):
            problem = UNWRITABLE
        elif not problem and not os.path.isfile(path):
            problem = "there is no such file"
        if problem:
            yield dataclasses.replace(item, problem=problem)
        elif may_hold_several(path):
            try:
                count = count_images(path)
            except BadImageError as error:
                yield dataclasses.replace(item, problem=str(error))
            else:
                several = [dataclasses.replace(item, frame=k + 1) for k in range(count)]
                yield from several if count > 1 else [item]
        else:
            yield item
