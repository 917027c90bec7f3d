"""What the two MedMNIST sets share: their .npz file becomes a folder of PNG files.

The ``medmnist`` package is not used: version 3.0.2 depends on torch and torchvision, and all
that it does for these sets is to open the .npz. Its files, MD5 sums and counts are those of
its ``INFO`` table (Zenodo record 10519652).
"""

from __future__ import annotations

import contextlib
import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from numpy.lib import format as npy

from wlsrl_jax.data.published.common import Problem, Record, list_images
from wlsrl_jax.data.published.layout import FOLDERS
from wlsrl_jax.files import Mistake

SIZES = (28, 64, 128, 224)
_BLOCK = 256  # images at a time


def find_npz(source: Path, name: str) -> Path:
    """The file of a set: the source itself, or the one in that folder.

    Raises:
      Mistake: if there is none, or several.
    """
    known = re.compile(rf"{name}(_(64|128|224))?\.npz")
    if source.is_file():
        found = [source] if known.fullmatch(source.name) else []
    else:
        found = sorted(p for p in source.iterdir() if known.fullmatch(p.name))
    if len(found) != 1:
        names = ", ".join([f"{name}.npz", *(f"{name}_{s}.npz" for s in SIZES[1:])])
        several = f"holds {', '.join(p.name for p in found)}" if found else "is or holds none"
        raise Mistake(f"{source} {several}; name one of {names} in --source.")
    return found[0]


def _read_header(file: IO[bytes], what: str) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject or fortran:
        raise Mistake(f"{what} is not a plain C-ordered array")
    return shape, dtype


def _read_labels(npz: zipfile.ZipFile, split: str) -> np.ndarray:
    with npz.open(f"{split}_labels.npy") as file:
        labels = npy.read_array(file, allow_pickle=False)
    return np.asarray(labels).reshape(len(labels), -1)[:, 0].astype(np.int64)


def _images(npz: zipfile.ZipFile, split: str) -> Iterator[np.ndarray]:
    """Images one by one: at 224 pixels the array takes 4.9 GB."""
    name = f"{split}_images.npy"
    with npz.open(name) as file:
        shape, dtype = _read_header(file, name)
        side = shape[1:3]
        if dtype != np.uint8 or len(shape) not in (3, 4) or side[0] != side[1]:
            raise Mistake(f"{name} is {dtype}{shape}, not uint8 [N, side, side(, 3)]")
        if side[0] not in SIZES:
            raise Mistake(f"{name} has images of {side[0]} pixels, not one of {SIZES}")
        each = int(np.prod(shape[1:]))
        for start in range(0, shape[0], _BLOCK):
            count = min(_BLOCK, shape[0] - start)
            block = file.read(count * each)
            if len(block) != count * each:
                raise Mistake(f"{name} ends after {start} images of {shape[0]}")
            yield from np.frombuffer(block, np.uint8).reshape(count, *shape[1:])


def write_images(path: Path, folder: Path, classes: Sequence[str]) -> None:
    """Writes the images of a MedMNIST file as ``SPLIT/CLASS/NUMBER.png``.

    Args:
      path: an .npz with ``train_images``, ``train_labels`` and so on.
      folder: where to.
      classes: names, in the order of the labels.

    Raises:
      Mistake: if the file is not of that form.
    """
    try:
        with zipfile.ZipFile(path) as npz:
            for split in FOLDERS:
                labels = _read_labels(npz, split)
                for name in classes:
                    (folder / split / name).mkdir(parents=True)
                count = 0
                for k, image in enumerate(_images(npz, split)):
                    if k >= len(labels) or not 0 <= labels[k] < len(classes):
                        raise Mistake(f"image {k} of {split} has no label in 0-4")
                    pixels = image[..., ::-1] if image.ndim == 3 else image
                    done, png = cv2.imencode(".png", np.ascontiguousarray(pixels))
                    if not done:
                        raise Mistake(f"image {k} of {split} cannot be encoded")
                    name = classes[labels[k]]
                    (folder / split / name / f"{k:06d}.png").write_bytes(png.tobytes())
                    count += 1
                if count != len(labels):
                    raise Mistake(f"{split} has {count} images and {len(labels)} labels")
    except (zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
        raise Mistake(f"{path} is not a MedMNIST file, or damaged ({error}).") from None


@contextlib.contextmanager
def opened(name: str, classes: Sequence[str], source: Path, scratch: Path) -> Iterator[Path]:
    """A MedMNIST file as a folder of PNG files, for the time being.

    Args:
      name: of the data set.
      classes: names, in the order of the labels.
      source: the .npz, or the folder that holds it.
      scratch: the folder to make, deleted at the end.

    Yields:
      ``scratch``.

    Raises:
      Mistake: if the file is missing or damaged.
    """
    path = find_npz(source, name)
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        write_images(path, scratch, classes)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def scan_written(source: Path, classes: Sequence[str]) -> tuple[list[Record], list[Problem]]:
    """Reads what ``write_images`` has written."""
    records: list[Record] = []
    problems: list[Problem] = []
    for split, official in FOLDERS.items():
        for label, name in enumerate(classes):
            if not any((source / split / name).iterdir()):
                continue  # a small file may lack a class in a split; preparation tells
            images, odd = list_images(source / split / name, source)
            problems += odd
            records += [
                Record(
                    p.relative_to(source).as_posix(),
                    f"{split}/{p.stem}",
                    label,
                    None,
                    official,
                )
                for p in images
            ]
    return records, problems
