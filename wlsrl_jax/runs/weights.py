"""The averaged weights of a checkpoint, read as those of the model that is expected.

Whoever wrote the checkpoint may be a stranger: no array is read before its name, shape, kind and
chunks are known to be those of the model, and no file is larger than such a model can need.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from wlsrl_jax.files import Mistake
from wlsrl_jax.runs import digest
from wlsrl_jax.runs.checkpoint import PARTS, leaf_name, read_run, reason_of
from wlsrl_jax.runs.identity import check_identity

_OVERHEAD = 1 << 26
"""Bytes that the files of a checkpoint may need besides its arrays, and may save by compression."""
_STATES, _COMPRESSION = 16, 16
"""Copies of the weights that a train state may hold; how far weights may be compressed."""


def read_weights(
    directory: Path, shapes: Mapping[str, Any], config: Mapping[str, Any], data: Mapping[str, Any]
) -> dict[str, Any]:
    """Reads the averaged weights of a checkpoint, whatever devices wrote it.

    Args:
      directory: of the checkpoint, ``checkpoints/STEP``.
      shapes: {"params": ..., "batch_stats": ...} of ``jax.ShapeDtypeStruct``.
      config: of the run, complete.
      data: content of its ``data.json``.

    Returns:
      {"params": ..., "batch_stats": ...} as host arrays.

    Raises:
      Mistake: if it is damaged, of another run or of another model, naming the checkpoint and what
        is wrong.
    """
    directory = directory.resolve()
    expected = {
        f"ema.{leaf_name(path).replace('/', '.')}": leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
    size = 4 * sum(math.prod(leaf.shape) for leaf in expected.values())
    with _reading(directory), ThreadPoolExecutor(1) as beside:
        files = digest.read(directory)
        digest.check_names(directory, PARTS, files)
        total = sum(size for size, _ in files.values())
        if total > _STATES * size + _OVERHEAD:
            raise digest.DigestError(f"its files have {total} bytes, too many for the model")
        if size > _COMPRESSION * total + _OVERHEAD:
            raise digest.DigestError(f"its {total} bytes cannot hold the {size} of the model")
        # Beside the reading it takes no time where there is a second core; nothing is given out
        # before both are done.
        contents = beside.submit(digest.check_contents, directory, files)
        try:
            found = _read(directory, shapes, expected, config, data)
        finally:
            contents.result()  # what is damaged is told first
    return found


def _read(
    directory: Path,
    shapes: Mapping[str, Any],
    expected: Mapping[str, Any],
    config: Mapping[str, Any],
    data: Mapping[str, Any],
) -> dict[str, Any]:
    run = read_run(directory)
    if run["global_batches"] != int(directory.name):
        raise digest.DigestError(f"it is of step {run['global_batches']}")
    if not all(isinstance(run["identity"][part], dict) for part in ("config", "data")):
        raise digest.DigestError("it does not say what it belongs to")
    check_identity(run["identity"], config, data, f"checkpoint {directory}")
    _check_arrays(directory / "state", expected)
    return _restore(directory / "state", shapes)


@contextlib.contextmanager
def _reading(directory: Path) -> Iterator[None]:
    try:
        yield
    except Mistake:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
        raise Mistake(
            f"checkpoint {directory} cannot be read ({reason_of(error)}). Restore it from a copy, "
            "or train again in another --workdir."
        ) from None


def _restore(state: Path, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the part of a train state that holds the averaged weights."""
    wanted = {name: tree for name, tree in shapes.items() if tree}  # Orbax knows no empty one
    restored = {
        "ema": jax.tree.map(
            lambda leaf: ocp.ArrayRestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype,
                                              global_shape=leaf.shape, strict=True),
            wanted,
        )
    }  # fmt: skip
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as reader:
        found = reader.restore(
            state,
            args=ocp.args.PyTreeRestore(
                item={"ema": wanted}, restore_args=restored, partial_restore=True
            ),
        )
    return {name: jax.tree.map(np.asarray, found["ema"].get(name, {})) for name in shapes}


def _check_arrays(state: Path, expected: Mapping[str, Any]) -> None:
    """Looks at what an array says of itself before anything is allocated for it.

    Raises:
      ValueError: naming the array that is missing or other than expected.
    """
    base = {"driver": "file", "path": f"{state}/"}
    store = ts.KvStore.open({"driver": "ocdbt", "base": base}).result()
    texts = {name: store.read(f"{name}/.zarray") for name in expected}
    for name, leaf in expected.items():
        text = texts[name].result().value
        if not text:
            raise ValueError(f"{name} is missing")
        header = json.loads(text)
        shape, chunks = tuple(header["shape"]), tuple(header["chunks"])
        if shape != tuple(leaf.shape) or np.dtype(header["dtype"]) != leaf.dtype:
            raise ValueError(
                f"{name} is {header['dtype']} {shape}, not {leaf.dtype} {tuple(leaf.shape)}"
            )
        if any(c > max(n, 1) for c, n in zip(chunks, shape, strict=True)):
            raise ValueError(f"{name} has chunks of {chunks}, larger than itself")
