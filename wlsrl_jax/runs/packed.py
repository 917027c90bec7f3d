"""A finished run as a small folder: its documents, and its weights in one plain file.

A packed folder is read wherever a finished workdir is, except for what needs its predictions on
single images. ``packed.json`` is its mark and has the SHA-256 of ``weights.npz``: float32 arrays,
an entry a parameter, named as ``params/stem/kernel``. Nothing is unpickled when reading.
"""

from __future__ import annotations

from wlsrl_jax.files import Mistake

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

MARK, WEIGHTS = "packed.json", "weights.npz"
DOCUMENTS = ("config.json", "data.json", "metrics.json", "statistics.json", "environment.json")


def is_packed(folder: Path) -> bool:
    """Whether a folder holds a packed run."""
    return (folder / MARK).is_file()


def read_mark(folder: Path) -> dict[str, Any]:
    """Reads ``packed.json``: what to know of the run ("note"), and "weights_sha256".

    Raises:
      Mistake: if it is damaged, naming it.
    """
    path = folder / MARK
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"note": str(found["note"]), "weights_sha256": str(found["weights_sha256"])}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise Mistake(f"{path} is damaged ({error!r}); {_REMEDY}") from None


_REMEDY = "pack the run again, or install the package again if it came with it."


def to_bytes(variables: Mapping[str, Any]) -> bytes:
    """Writes weights as the content of ``weights.npz``; the same weights give the same bytes.

    Args:
      variables: nested dicts of float32 arrays.

    Returns:
      An uncompressed ``.npz``.

    Raises:
      Mistake: for an array that is not float32, naming it.
    """
    arrays = dict(sorted(_flat(variables).items()))
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise Mistake(f"{name} is {array.dtype}; a packed run holds float32 only.")
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def read_weights(folder: Path) -> dict[str, Any]:
    """Reads the weights of a packed run.

    Args:
      folder: of the packed run.

    Returns:
      {"params": ..., "batch_stats": ...} as nested dicts of float32 arrays.

    Raises:
      Mistake: if a file is missing or not what was packed, naming it.
    """
    path = folder / WEIGHTS
    expected = read_mark(folder)["weights_sha256"]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Mistake(f"{path} cannot be read ({error.strerror}); {_REMEDY}") from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise Mistake(
            f"{path} is damaged: its SHA-256 is not the one that {MARK} names; {_REMEDY}"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return _nested({name: arrays[name] for name in arrays.files})


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    flat: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}/") if isinstance(value, Mapping) else {name: value}
    return {name: np.asarray(array) for name, array in flat.items()}


def _nested(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    # A network without running statistics has no entry of them.
    tree: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, array in flat.items():
        *path, last = name.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = array
    return tree
