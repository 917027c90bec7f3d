"""Orbax checkpoints of the train state and the input position, and the validation history.

A checkpoint becomes visible by one rename, its digest inside, and older ones go only after a newer
one is complete, so a process killed while saving leaves the ones before untouched. Whoever reads
one checks the digest first. Nothing is unpickled when reading. Every process of a run calls these
functions; they write together.

The position of the input stream is the count of global batches, which means the same to any
number of processes; a state of Grain's own would be one file a process, for that number only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from wlsrl_jax.files import Mistake, changes, read_json, write_json
from wlsrl_jax.runs import digest
from wlsrl_jax.runtime import processes
from wlsrl_jax.runtime.mesh import state_sharding

log = logging.getLogger(__name__)

History = list[dict[str, Any]]
HISTORY = "validation.json"
PARTS = ("state", "run")
"""The items of a checkpoint; what Orbax writes beside them is read by nobody."""

_IN_FLIGHT = ".orbax-checkpoint-tmp"  # in the name of a checkpoint that is being written


@dataclasses.dataclass
class Restored:
    """What a checkpoint holds.

    Attributes:
      step: optimiser steps done.
      state: the train state on the devices.
      global_batches: batches that the input stream has given.
      identity: what it belongs to, as it was given to ``save``.
    """

    step: int
    state: Any
    global_batches: int
    identity: Any


def is_defined(entry: dict[str, Any]) -> bool:
    """Whether a validation result has a score."""
    return entry["score"] is not None and math.isfinite(entry["score"])


def best_entry(history: History) -> dict[str, Any] | None:
    """The validation result that selects the model.

    The highest score, the earliest of equals; where no score is defined, the last result.
    """
    if defined := [entry for entry in history if is_defined(entry)]:
        return max(defined, key=lambda e: (e["score"], -e["step"]))
    return max(history, key=lambda e: e["step"], default=None)


def open_manager(directory: Path) -> ocp.CheckpointManager:
    """Opens a directory of checkpoints for writing, creating it.

    What lies there under a name that Orbax takes for a number and we do not, such as ``007``, is
    set aside: it would stand in the way of saving.
    """
    directory = directory.resolve()
    with processes.agreed():
        if processes.is_primary() and directory.is_dir():
            strange = [p.name for p in directory.iterdir() if p.name.split("_")[-1].isdigit()]
            _set_aside(directory, [n for n in strange if not _is_step(directory / n)])
    options = ocp.CheckpointManagerOptions(
        max_to_keep=None,
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(
            # How long the others wait when a process of several cannot write its part.
            timeout_secs=120,
            # By process 0, when every process has written and before the rename.
            post_finalization_callback=lambda: _seal(directory),
        ),
    )
    return ocp.CheckpointManager(directory, options=options)


def _seal(directory: Path) -> None:
    """Writes the digest of the checkpoint that is about to get its name."""
    written = [
        folder
        for folder in directory.iterdir()
        if _IN_FLIGHT in folder.name and all((folder / part).is_dir() for part in PARTS)
    ]
    if not written:
        raise RuntimeError(f"{directory} holds no checkpoint that is being written")
    for folder in written:  # more than one only where a killed process has left its own
        digest.write(folder, PARTS)


def read_history(workdir: Path, step: int) -> History:
    """Reads the validation results up to a step, oldest first.

    They lie beside the checkpoints, not in them: an evaluation may finish after the
    checkpoint of its step was written.
    """
    found = []
    with processes.agreed():
        if processes.is_primary():
            found = stored_history(workdir)
    return [entry for entry in processes.from_primary(found) if entry["step"] <= step]


def stored_history(workdir: Path) -> History:
    """Reads all validation results, in this process alone.

    Raises:
      Mistake: if the file is damaged, naming it.
    """
    path = workdir / HISTORY
    found = read_json(path) if path.exists() else []
    if not isinstance(found, list) or not all(_is_result(entry) for entry in found):
        raise Mistake(f"{path} is damaged; restore it, or name another --workdir.")
    return found


def _is_result(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and type(entry.get("step")) is int
        and isinstance(entry.get("score", ""), int | float | None)
        and isinstance(entry.get("results"), dict)
    )


def write_history(workdir: Path, history: History) -> None:
    """Writes the validation results, whole or not at all, from process 0."""
    with processes.agreed():
        if processes.is_primary():
            write_json(workdir / HISTORY, history)


def save(
    manager: ocp.CheckpointManager,
    state: Any,
    history: History,
    *,
    keep: int,
    identity: Mapping[str, Any],
) -> None:
    """Saves in the background, after dropping what is neither recent nor selected.

    Args:
      manager: open manager.
      state: train state; its ``step`` names the checkpoint and counts the batches consumed.
      history: validation results so far; the best one's checkpoint is kept.
      keep: number of recent checkpoints to keep besides the one being written.
      identity: what the checkpoint belongs to, kept in it.

    Raises:
      Mistake: if this one or the one before cannot be written, with the reason.
    """
    step = int(state.step)
    wait(manager)
    prune(manager, history, keep)
    if step in manager.all_steps():
        return  # the same state: a run repeats a step bit by bit
    run = {"global_batches": step, "identity": dict(identity)}
    with _saving(manager):
        saved = manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run)),
        )
    if not saved:
        raise RuntimeError(f"step {step} is not saved: Orbax sees {sorted(manager.all_steps())}")


def wait(manager: ocp.CheckpointManager) -> None:
    """Waits until what is being saved is complete.

    Raises:
      Mistake: if it cannot be written, with the reason.
    """
    with _saving(manager):
        manager.wait_until_finished()


@contextlib.contextmanager
def _saving(manager: ocp.CheckpointManager) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Orbax and TensorStore raise many kinds
        if processes.is_lost(error) and not _known_reason(error):
            raise
        step = last_step(manager)
        last = "there is none yet" if step is None else f"step {step} is the last one"
        raise Mistake(
            f"a checkpoint cannot be written to {manager.directory} ({reason_of(error)}); {last}. "
            "When that is mended, the same command resumes from there."
        ) from error


def _is_step(path: Path) -> bool:
    return re.fullmatch("[1-9][0-9]*", path.name) is not None and path.is_dir()


def complete_steps(directory: Path) -> list[int]:
    """Lists the steps of the checkpoints in a directory, oldest first; none where there is none."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if _is_step(p))


def exists_in(directory: Path) -> bool:
    """Whether process 0 sees a complete checkpoint in a directory."""
    return processes.from_primary(bool(complete_steps(directory)))


def last_step(manager: ocp.CheckpointManager) -> int | None:
    """The newest complete checkpoint, or None."""
    return max(complete_steps(Path(manager.directory)), default=None)


def best_saved(history: History, steps: list[int]) -> int | None:
    """The step that selection would take among the checkpoints there are."""
    best = best_entry([entry for entry in history if entry["step"] in steps])
    return best["step"] if best else None


def prune(manager: ocp.CheckpointManager, history: History, keep: int) -> None:
    """Deletes checkpoints that are neither recent nor selected; call it when none is in flight."""
    steps = sorted(manager.all_steps())
    best = best_saved(history, steps)
    for old in sorted(set(steps[:-keep]) - {best}):
        manager.delete(old)


def restore_state(
    manager: ocp.CheckpointManager, step: int, shapes: Any, mesh: Any, *, last: int
) -> Restored:
    """Reads one checkpoint onto ``mesh``, whatever devices wrote it.

    Nothing here waits for another process before all of them know how it went, so what only
    one of them cannot read is an error of all.

    Args:
      manager: open manager.
      step: which checkpoint.
      shapes: pytree of ``jax.ShapeDtypeStruct`` of the train state.
      mesh: devices to place it on.
      last: step of the run; a checkpoint beyond it is not of this run.

    Returns:
      Its content.

    Raises:
      DamagedError: on every process, if one cannot read it, with the reason.
      Mistake: if it is of another model, naming the parameters.
    """
    target = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_sharding(mesh, shapes),
    )
    directory = Path(manager.directory).resolve() / str(step)
    _raise_damage(_damage(directory, last) if processes.is_primary() else None)
    found, problem = None, None
    try:
        _check_same_model(directory, shapes)
        with contextlib.closing(ocp.StandardCheckpointHandler()) as states:
            state = states.restore(directory / "state", args=ocp.args.StandardRestore(target))
        run = read_run(directory)
        found = Restored(step, state, int(run["global_batches"]), run["identity"])
        if not int(state.step) == found.global_batches == step:
            problem = f"it is of step {int(state.step)}"
    except _OtherModelError:
        raise
    except Exception as error:  # Orbax raises many kinds for a damaged file
        if processes.is_lost(error):
            raise
        problem = reason_of(error)
    _raise_damage(problem)
    assert found is not None
    return found


def _damage(directory: Path, last: int) -> str | None:
    """Why a checkpoint is not read, seen from its files."""
    if int(directory.name) > last:
        return f"the run ends at step {last}"
    try:
        digest.check(directory, PARTS)
    except (digest.DigestError, OSError) as error:
        return reason_of(error)
    return None


def _raise_damage(problem: str | None) -> None:
    problems = [p for p in processes.gather(problem) if p is not None]
    if problems:
        raise DamagedError(problems[0])


def restore_latest(
    manager: ocp.CheckpointManager, shapes: Any, mesh: Any, *, last: int
) -> Restored | None:
    """Reads the newest checkpoint that can be read.

    Each damaged one that is newer is reported and moved to ``damaged-checkpoints`` beside
    the checkpoints, so that its step is saved anew when the run comes by again. So is one that is
    no checkpoint of this run: of a later step than the last, or under another number than its own.

    Args:
      manager: open manager.
      shapes: pytree of ``jax.ShapeDtypeStruct`` of the train state.
      mesh: devices to place it on.
      last: step of the run.

    Returns:
      The content, or None when there is no checkpoint at all.

    Raises:
      Mistake: if checkpoints exist and none can be read, naming the directory, or if one is
        of another model, naming the parameters.
    """
    steps = processes.from_primary(complete_steps(Path(manager.directory))[::-1])
    for passed, step in enumerate(steps):
        try:
            found = restore_state(manager, step, shapes, mesh, last=last)
        except DamagedError as error:
            if processes.is_primary():
                log.warning(
                    "checkpoint %s/%d cannot be read (%s); trying the one before",
                    manager.directory,
                    step,
                    error,
                )
            continue
        with processes.agreed():
            if processes.is_primary():
                _set_aside(Path(manager.directory), [str(s) for s in steps[:passed]])
        if passed:
            manager.reload()
        return found
    if steps:
        raise Mistake(
            f"{manager.directory}: none of the checkpoints {steps} can be read; restore a backup "
            "or start anew in another --workdir."
        )
    return None


class DamagedError(Mistake):
    """A checkpoint that cannot be read; the message is the reason."""


class _OtherModelError(Mistake):
    pass


def _check_same_model(directory: Path, shapes: Any) -> None:
    """Raises ``_OtherModelError`` where names or shapes differ, else whatever reading raises."""
    with contextlib.closing(ocp.StandardCheckpointHandler()) as reader:
        saved = reader.metadata(directory / "state").tree
    there, here = (
        {leaf_name(k): tuple(v.shape) for k, v in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (saved, shapes)
    )
    found = sorted(changes(there, here, "absent"), key=lambda c: not c[0].startswith("params/"))
    differs = [f"  {name}: {before} there, {now} now" for name, before, now in found]
    if differs:
        more = [f"  and {len(differs) - 10} more"] if len(differs) > 10 else []
        raise _OtherModelError(
            f"{directory} is a checkpoint of another model or optimizer:\n"
            + "\n".join(differs[:10] + more)
            + "\nUse the config and code that it was made with, or another --workdir."
        )


def read_run(directory: Path) -> dict[str, Any]:
    """Reads what a checkpoint holds besides the train state: "global_batches" and "identity"."""
    with contextlib.closing(ocp.JsonCheckpointHandler()) as values:
        return values.restore(directory / "run", args=ocp.args.JsonRestore())


def leaf_name(path: Any) -> str:
    """a/b/0 for the place of an array, however its containers are written."""
    return "/".join(str(getattr(k, "name", getattr(k, "key", getattr(k, "idx", k)))) for k in path)


def reason_of(error: Exception) -> str:
    """The line of an error that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return _known_reason(error) or lines[0][:300]


def _known_reason(error: BaseException | None) -> str:
    known = ("No space left", "Disk quota exceeded", "File too large", "Permission denied",
             "Read-only file system")  # fmt: skip
    while error is not None:
        for phrase in known:
            if phrase in str(error):
                return phrase
        error = error.__cause__ or error.__context__
    return ""


def _set_aside(directory: Path, names: list[str]) -> None:
    """Moves what is in a directory of checkpoints to ``damaged-checkpoints`` beside it."""
    aside = directory.parent / "damaged-checkpoints"
    for name in names:
        aside.mkdir(exist_ok=True)
        free = next(k for k in itertools.count() if not (aside / f"{name}-{k}").exists())
        (directory / name).rename(aside / f"{name}-{free}")


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


def read_state(directory: Path, step: int) -> Any:
    """Reads the train state of a checkpoint as host arrays, whatever devices wrote it.

    Args:
      directory: of the checkpoints.
      step: which one.

    Returns:
      Nested dicts of numpy arrays.
    """
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    path = (directory / str(step) / "state").resolve()
    with ocp.StandardCheckpointer() as reader:
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            reader.metadata(path).item_metadata.tree,
        )
        return jax.device_get(reader.restore(path, target))


def read_arrays(directory: Path) -> dict[str, np.ndarray]:
    """Reads every array of the newest train state, for comparison.

    Args:
      directory: of the checkpoints.

    Returns:
      Name -> host array, in the order of the names.
    """
    found = read_state(directory, complete_steps(directory)[-1])
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0]))
    }
