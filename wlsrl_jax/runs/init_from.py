"""Starting from the weights of another run: what has the same name and means the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wlsrl_jax.files import Mistake
from wlsrl_jax.runs.checkpoint import transfer
from wlsrl_jax.runs.open import TrainedRun
from wlsrl_jax.tasks import Task


def take_over(
    tasks: Sequence[Task], params: Any, stats: Any, source: TrainedRun
) -> tuple[Any, Any, list[str]]:
    """Takes over the weights of another run.

    Below the heads, an array is taken where name and shape are the same. Of a head each class is
    taken by its name, wherever it stands there; a head that was not trained there is not taken.

    Args:
      tasks: of this run.
      params: freshly initialised.
      stats: likewise, of the normalisation layers.
      source: the other run.

    Returns:
      (parameters, statistics, a line for each thing that starts afresh or is left).

    Raises:
      Mistake: if nothing below the heads fits.
    """
    heads = {f"head_{task.name}" for task in tasks}
    trunk = {name: value for name, value in params.items() if name not in heads}
    theirs = source.variables["params"]
    merged, fresh = transfer(trunk, {k: v for k, v in theirs.items() if k not in heads})
    merged_stats, fresh_stats = transfer(stats, source.variables["batch_stats"])
    if len(fresh) == len(jax.tree.leaves(trunk)):
        raise Mistake(
            f"config.init_from={source.workdir}: no parameter has a name and shape of this "
            "model; check config.model."
        )
    told = [
        f"{name} starts afresh (absent there or of another shape)" for name in fresh + fresh_stats
    ]
    known = {task.name: task for task in source.tasks}
    for task in tasks:
        name = f"head_{task.name}"
        if task.name in source.untrained:
            lines = [f"{name} starts afresh (it was not trained there)"]
            merged[name] = params[name]
        elif task.name not in known or not _same_inputs(params[name], theirs.get(name)):
            lines = [f"{name} starts afresh (absent there or of another shape)"]
            merged[name] = params[name]
        else:
            merged[name], lines = _by_name(task, params[name], known[task.name], theirs[name])
        told += lines
    return {name: merged[name] for name in params}, merged_stats, told


def _same_inputs(mine: Any, theirs: Any) -> bool:
    return theirs is not None and theirs["kernel"].shape[:-1] == mine["kernel"].shape[:-1]


def _by_name(task: Task, mine: Any, other: Task, theirs: Any) -> tuple[Any, list[str]]:
    """A head with the columns of each class that the other run knows by the same name."""
    place = {c: other.classes.index(c) for c in task.classes if c in other.classes}
    fresh = [c for c in task.classes if c not in place]
    left = [c for c in other.classes if c not in place]

    def choose(own: Any, found: Any) -> Any:
        values = np.array(own)
        for k, c in enumerate(task.classes):
            if c in place:
                values[..., k] = found[..., place[c]]
        return jax.device_put(jnp.asarray(values), own.sharding)

    lines = []
    if fresh:
        lines.append(f"head_{task.name}: {', '.join(fresh)} start afresh (not a class there)")
    if left:
        lines.append(f"head_{task.name}: {', '.join(left)} are classes there only, and left out")
    if place and list(place.values()) != sorted(place.values()):
        lines.append(f"head_{task.name}: classes stand in another order there; taken by name")
    return jax.tree.map(choose, mine, theirs), lines
