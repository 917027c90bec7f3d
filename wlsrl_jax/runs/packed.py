"""A finished run as a small folder: its documents, and its weights in one plain file.

A packed folder is read wherever a finished workdir is, except for what needs its predictions on
single images. ``packed.json`` is its mark and has the SHA-256 of every other file; a folder of a
stranger is believed only as far as its files agree. ``weights.npz`` has float32 arrays, an entry a
parameter, named as ``params/stem/kernel``. Nothing is unpickled when reading.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wlsrl_jax.files import Mistake, flatten, put, write_json
from wlsrl_jax.runs.documents import LARGEST, read_document

MARK, WEIGHTS, CARD = "packed.json", "weights.npz", "MODEL_CARD.md"
TRAINED_ON = "trained_on.json"  # not in every pack; see ``provenance.py``
DOCUMENTS = ("config.json", "data.json", "metrics.json", "statistics.json", "environment.json")

_REMEDY = "pack the run again, or install the package again if it came with it."
_PER_ARRAY = 2048  # bytes of names and headers of an entry of the weights, at most


def is_packed(folder: Path) -> bool:
    """Whether a folder holds a packed run."""
    return (folder / MARK).is_file()


def read_mark(folder: Path) -> dict[str, Any]:
    """Reads ``packed.json``: what to know of the run ("note"), and "files", name -> SHA-256.

    Raises:
      Mistake: if it is damaged, naming it.
    """
    path = folder / MARK
    found = read_document(path)
    files = found.get("files")
    if (
        not isinstance(found.get("note"), str)
        or not isinstance(files, dict)
        or not all(re.fullmatch(r"\w[\w.-]*", name) for name in files)
        or not all(isinstance(v, str) and re.fullmatch("[0-9a-f]{64}", v) for v in files.values())
        or not {*DOCUMENTS, WEIGHTS} <= files.keys()
    ):
        raise Mistake(
            f"{path} is damaged (no note, or no SHA-256 of {', '.join((*DOCUMENTS, WEIGHTS))}); "
            f"{_REMEDY}"
        )
    return {"note": found["note"], "files": files}


def write_mark(folder: Path, note: str) -> None:
    """Writes ``packed.json`` with the digests of the files of a packed run."""
    files = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in (*DOCUMENTS, TRAINED_ON, CARD, WEIGHTS)
        if (folder / name).exists()
    }
    write_json(folder / MARK, {"note": note, "files": files})


def check_documents(folder: Path) -> None:
    """Checks every file but the weights against ``packed.json``.

    Raises:
      Mistake: for a file that is missing, too large, or not what was packed, naming it.
    """
    files = read_mark(folder)["files"]
    if TRAINED_ON not in files and (folder / TRAINED_ON).exists():
        raise Mistake(f"{folder / TRAINED_ON} is not of this pack, for {MARK} does not name it.")
    for name, expected in files.items():
        if name != WEIGHTS:
            _read(folder, name, expected, LARGEST)


def _read(folder: Path, name: str, expected: str, largest: int) -> bytes:
    path = folder / name
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > largest:
            raise Mistake(f"{path} is damaged: no plain file of {largest} bytes at most; {_REMEDY}")
        content = path.read_bytes()
    except OSError as error:
        raise Mistake(f"{path} cannot be read ({error.strerror}); {_REMEDY}") from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise Mistake(f"{path} is damaged: its SHA-256 is not the one that {MARK} names; {_REMEDY}")
    return content


def to_bytes(variables: Mapping[str, Any]) -> bytes:
    """Writes weights as the content of ``weights.npz``; the same weights give the same bytes.

    Args:
      variables: nested dicts of float32 arrays.

    Returns:
      An uncompressed ``.npz``.

    Raises:
      Mistake: for an array that is not float32, naming it.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in sorted(flatten(variables, "/").items())}
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise Mistake(f"{name} is {array.dtype}; a packed run holds float32 only.")
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def read_weights(folder: Path, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the weights of a packed run.

    Args:
      folder: of the packed run.
      shapes: {"params": ..., "batch_stats": ...} as nested dicts of what has a ``shape``, those of
        the model that the config describes.

    Returns:
      {"params": ..., "batch_stats": ...} as nested dicts of float32 arrays of these shapes.

    Raises:
      Mistake: if a file is missing, not what was packed, or of another model, naming it.
    """
    path = folder / WEIGHTS
    wanted = {name: tuple(leaf.shape) for name, leaf in flatten(shapes, "/").items()}
    largest = sum(4 * math.prod(shape) + _PER_ARRAY for shape in wanted.values()) + _PER_ARRAY
    content = _read(folder, WEIGHTS, read_mark(folder)["files"][WEIGHTS], largest)
    try:
        return _nested(_arrays(content, wanted))
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, RuntimeError) as error:
        reason = str(error) or type(error).__name__
        raise Mistake(
            f"{path} does not hold the weights of the model in config.json and data.json "
            f"({reason}); {_REMEDY}"
        ) from None


def _arrays(content: bytes, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Reads the entries of a ``.npz``; nothing is allocated that is not there.

    Raises:
      ValueError: names what is not as wanted.
    """
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        there = [info.filename.removesuffix(".npy") for info in file.infolist()]
        if len(set(there)) < len(there):
            raise ValueError("an array is there twice")
        if lacking := sorted(wanted.keys() - set(there)):
            raise ValueError(f"{lacking[0]} is missing")
        if foreign := sorted(set(there) - wanted.keys()):
            raise ValueError(f"{foreign[0][:100]!r} is no array of it")
        for info in file.infolist():
            name = info.filename.removesuffix(".npy")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > len(content):
                raise ValueError(f"{name} is compressed")
            entry = io.BytesIO(file.read(info))
            version = np.lib.format.read_magic(entry)
            if version != (1, 0):
                raise ValueError(f"{name} is of NumPy's format {version}")
            shape, by_column, dtype = np.lib.format.read_array_header_1_0(entry)
            if dtype != np.float32 or by_column or shape != wanted[name]:
                raise ValueError(f"{name} is {dtype} {shape}, not float32 {wanted[name]}")
            values = entry.read()
            if len(values) != 4 * math.prod(shape):
                raise ValueError(f"{name} is cut off")
            arrays[name] = np.frombuffer(bytearray(values), np.float32).reshape(shape)
    return arrays


def _nested(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    # A network without running statistics has no entry of them.
    tree: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, array in flat.items():
        put(tree, name.split("/"), array)
    return tree
