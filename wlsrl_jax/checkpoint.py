"""Orbax checkpoints: the train state, the position of the input stream and the history.

A checkpoint becomes visible by one rename, so a process killed while saving leaves the
ones before untouched. Nothing is unpickled when reading.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp

from wlsrl_jax.sharding import state_sharding

log = logging.getLogger(__name__)

History = list[dict[str, Any]]


@dataclasses.dataclass
class Restored:
    """What a checkpoint holds.

    Attributes:
      step: optimiser steps done.
      state: the train state on the devices.
      history: validation results so far, oldest first.
    """

    step: int
    state: Any
    history: History


def best_entry(history: History) -> dict[str, Any] | None:
    """The validation result that selects the model: the highest score, the earliest of equals."""
    return max(history, key=lambda e: (e["score"], -e["step"])) if history else None


def open_manager(directory: Path, *, read_only: bool = False) -> ocp.CheckpointManager:
    """Opens a directory of checkpoints, creating it unless ``read_only``."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=None,
        create=not read_only,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,
    )
    return ocp.CheckpointManager(directory.resolve(), options=options)


def save(
    manager: ocp.CheckpointManager,
    state: Any,
    iterator: grain.DatasetIterator,
    history: History,
    *,
    keep: int,
) -> None:
    """Saves in the background, then drops what is neither recent nor selected.

    Args:
      manager: open manager.
      state: train state; its ``step`` names the checkpoint.
      iterator: input stream, standing after the batch of that step.
      history: validation results so far; the best one's checkpoint is kept.
      keep: number of recent checkpoints to keep.
    """
    step = int(state.step)
    manager.wait_until_finished()
    if step in manager.all_steps():
        return  # the same state: a run repeats a step bit by bit
    position = {"global_batches": step, "process_count": jax.process_count(), "history": history}
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            input=grain.checkpoint.CheckpointSave(iterator),
            run=ocp.args.JsonSave(position),
        ),
    )
    best = best_entry(history)
    recent = sorted(manager.all_steps())[-keep:]
    for old in set(manager.all_steps()) - {*recent, step, best["step"] if best else step}:
        manager.delete(old)


def _abstract(mesh: Any, shapes: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_sharding(mesh, shapes),
    )


def restore_step(manager: ocp.CheckpointManager, step: int, shapes: Any, mesh: Any) -> Restored:
    """Reads one checkpoint onto the devices of ``mesh``, whatever devices wrote it.

    Args:
      manager: open manager.
      step: which checkpoint.
      shapes: pytree of ``jax.ShapeDtypeStruct`` of the train state.
      mesh: devices to place it on.

    Returns:
      The checkpoint's content.

    Raises:
      Exception: whatever Orbax raises for a damaged or missing checkpoint.
    """
    found = manager.restore(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardRestore(_abstract(mesh, shapes)),
            run=ocp.args.JsonRestore(),
        ),
    )
    return Restored(step, found["state"], list(found["run"]["history"]))


def restore_latest(manager: ocp.CheckpointManager, shapes: Any, mesh: Any) -> Restored | None:
    """Reads the newest checkpoint that can be read; reports each damaged one it passes over.

    Returns:
      The content, or None when there is no checkpoint at all.

    Raises:
      ValueError: if checkpoints exist and none can be read, naming the directory.
    """
    steps = sorted(manager.all_steps(), reverse=True)
    for step in steps:
        try:
            return restore_step(manager, step, shapes, mesh)
        except Exception as error:  # Orbax raises many kinds for a damaged file
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            log.warning(
                "checkpoint %s/%d cannot be read (%s); trying the one before",
                manager.directory,
                step,
                reason[:300],
            )
    if steps:
        raise ValueError(
            f"{manager.directory}: none of the checkpoints {steps} can be read. If the model "
            "in the config was changed, use another --workdir; otherwise restore a backup."
        )
    return None


def restore_iterator(
    manager: ocp.CheckpointManager, step: int, iterator: grain.DatasetIterator
) -> grain.DatasetIterator:
    """Moves an input stream to where the checkpoint's stood.

    Grain's own state is used when as many processes read as wrote; otherwise the count of
    global batches, which is the same number on every host count.
    """
    run = manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
    if run["process_count"] == jax.process_count():
        return manager.restore(
            step, args=ocp.args.Composite(input=grain.checkpoint.CheckpointRestore(iterator))
        )["input"]
    iterator.set_state({"next_index": int(run["global_batches"])})
    return iterator


def transfer(params: Any, source: Any) -> tuple[Any, list[str]]:
    """Takes over the parameters of another run that have the same name and shape.

    Args:
      params: freshly initialised parameters (or statistics).
      source: those of the other run.

    Returns:
      (merged parameters, names of the arrays that stay freshly initialised).
    """
    theirs = {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(source)}
    fresh: list[str] = []

    def choose(path: Any, mine: Any) -> Any:
        name = jax.tree_util.keystr(path)
        other = theirs.get(name)
        if other is None or other.shape != mine.shape:
            fresh.append(name)
            return mine
        return jax.device_put(other, mine.sharding)

    return jax.tree_util.tree_map_with_path(choose, params), fresh


def read_weights(workdir: Path) -> dict[str, Any]:
    """Reads the averaged weights of another run's selected checkpoint as host arrays.

    Args:
      workdir: the other run's directory, or its ``checkpoints`` directory.

    Returns:
      {"params": ..., "batch_stats": ...}.

    Raises:
      ValueError: if there is no checkpoint, naming the directory.
    """
    directory = workdir / "checkpoints" if (workdir / "checkpoints").is_dir() else workdir
    if not directory.is_dir():
        raise ValueError(f"{workdir} is not a workdir: there is no such directory.")
    with open_manager(directory, read_only=True) as manager:
        latest = manager.latest_step()
        if latest is None:
            raise ValueError(f"{directory} holds no checkpoint.")
        run = manager.restore(latest, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
        best = best_entry(run["history"])
        step = best["step"] if best and best["step"] in manager.all_steps() else latest
        state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))[
            "state"
        ]
    return state["ema"]


def read_arrays(directory: Path) -> dict[str, np.ndarray]:
    """Reads every array of the newest train state, for comparison.

    Args:
      directory: of the checkpoints.

    Returns:
      Name -> host array, in the order of the names.
    """
    with open_manager(directory, read_only=True) as manager:
        found = manager.restore(
            manager.latest_step(), args=ocp.args.Composite(state=ocp.args.StandardRestore())
        )["state"]
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0]))
    }
