"""Finding the folders of a published layout, however deep and however spelled."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from wlsrl_jax.data.images.decode import is_image_name
from wlsrl_jax.files import Mistake

MAX_DEPTH = 5
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
"""What publishers call their splits -> what we call them."""
FOLDERS = {name: SPLITS[name] for name in ("train", "val", "test")}
"""The folders of a set that comes divided, as most publishers name them -> our splits."""


def plain(name: str) -> str:
    """Lower-case words of a name, without numbering: "a. Training Set" is "training set".

    >>> plain("2-Groundtruths"), plain("OCT2017 "), plain("B.%20Disease%20Grading")
    ('groundtruths', 'oct2017', 'disease grading')
    """
    words = re.sub(r"[^a-z0-9]+", " ", name.replace("%20", " ").lower()).split()
    return " ".join(words[1:] if len(words) > 1 and len(words[0]) == 1 else words)


def folders(parent: Path) -> list[Path]:
    """The folders in a folder, by name; hidden ones, links and macOS's leftovers are none."""
    return sorted(
        p
        for p in parent.iterdir()
        if p.is_dir() and not p.is_symlink() and not p.name.startswith((".", "__MACOSX"))
    )


def linked_folders(source: Path) -> list[Path]:
    """Links to folders with images, anywhere below a folder, by name.

    ``folders`` leaves them out, and a class that is one would be missing without a word. A link
    back to where it lies is none.
    """
    found = []
    for here, inner, _ in os.walk(source):
        inner[:] = [name for name in inner if not name.startswith((".", "__MACOSX"))]
        for path in (Path(here, name) for name in inner):
            loop = path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())
            if path.is_symlink() and not loop and _holds_image(path):
                found.append(path)
    return sorted(found)


def hidden_images(source: Path) -> list[Path]:
    """Images that scans leave out for a name with a dot first, by name; macOS's own are none."""
    found = []
    for here, inner, files in os.walk(source):
        inner[:] = [name for name in inner if not name.startswith("__MACOSX")]
        inside = any(part.startswith(".") for part in Path(here).relative_to(source).parts)
        for name in files:
            is_hidden = inside or name.startswith(".")
            if is_hidden and not name.startswith("._") and is_image_name(Path(name.lstrip("."))):
                found.append(Path(here, name))
    return sorted(found)


def _holds_image(folder: Path) -> bool:
    return any(is_image_name(Path(name)) for _, _, files in os.walk(folder) for name in files)


def _levels(source: Path) -> Iterator[list[Path]]:
    level = [source]
    for _ in range(MAX_DEPTH + 1):
        yield level
        level = [child for parent in level for child in folders(parent)]


def find_root(source: Path, fits: Callable[[Path], bool], what: str) -> Path:
    """Finds the folder that holds a layout, at the top or a few levels down.

    Archives wrap a set into folders, sometimes twice, and some hold a second copy deeper
    down: the topmost counts.

    Args:
      source: where to start.
      fits: whether a folder is the one.
      what: is looked for, for the message.

    Raises:
      Mistake: if there is none, or several equally deep.
    """
    for level in _levels(source):
        found = [p for p in level if fits(p)]
        if len(found) > 1:
            names = ", ".join(p.relative_to(source).as_posix() for p in found[:4])
            raise Mistake(f"{source} holds {what} several times: {names}. Name one in --source.")
        if found:
            return found[0]
    here = ", ".join(_shown(p) for p in sorted(source.iterdir())[:8])
    raise Mistake(f"{source} does not hold {what}; it holds: {here or 'nothing'}.")


def _shown(path: Path) -> str:
    if path.is_symlink() and path.is_dir():
        return f"{path.name} (a link to a folder, which is not followed; copy the folder)"
    return f"{path.name}/" if path.is_dir() else path.name


def children(parent: Path) -> dict[str, Path]:
    """The folders in a folder by their plain name."""
    return {plain(p.name): p for p in folders(parent)}


def has_children(names: Sequence[str]) -> Callable[[Path], bool]:
    """A test whether a folder has these folders, by plain name."""
    return lambda folder: set(names) <= children(folder).keys()


def has_file(name: str) -> Callable[[Path], bool]:
    """A test whether a folder has a file, in any case."""
    return lambda folder: find_file(folder, name) is not None


def find_file(folder: Path, name: str) -> Path | None:
    """A file of a folder, by its name in any case."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.lower() == name.lower():
            return path
    return None
