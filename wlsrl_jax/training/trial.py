"""A trial before the first step: what a run saves can be read back from where it is saved.

Paths, file systems and mounts can do what no list of forbidden characters foresees; a run that
finds out at its end has lost everything.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wlsrl_jax.files import Mistake
from wlsrl_jax.runs import checkpoint
from wlsrl_jax.runtime import processes
from wlsrl_jax.runtime.mesh import replicated
from wlsrl_jax.training.step import TrainState

_FOLDER = "trial-save"  # as long as "checkpoints" or a little less
_GLOB = "*?[\\"


def check_path(workdir: Path) -> None:
    """Refuses a workdir below which checkpoints are known not to be found again.

    Raises:
      Mistake: naming the characters.
    """
    path = workdir.resolve()
    if odd := sorted(set(str(path)) & set(_GLOB)):
        # Orbax looks for files by patterns below the workdir and would find none of its own.
        raise Mistake(
            f"--workdir={workdir}: checkpoints cannot be kept below {path}, whose name has "
            f"{' '.join(odd)}, which stands for something else in patterns; use another."
        )


def try_saving(workdir: Path, mesh: Any) -> None:
    """Saves a small state in the workdir as a run does, reads it back and removes it.

    Args:
      workdir: of the run, held by it.
      mesh: devices of the run.

    Raises:
      Mistake: if it cannot be written, or is not what was written, naming the workdir.
    """
    path = workdir.resolve()
    directory = path / _FOLDER
    _remove(directory)

    def make() -> TrainState:
        return TrainState(jnp.asarray(1, jnp.int32), {"trial": jnp.arange(7.0)}, {}, {}, {})

    # As the state of a run is made: a value that all devices of all processes have.
    state = jax.jit(make, out_shardings=replicated(mesh))()
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    try:
        with checkpoint.open_manager(directory) as manager:
            checkpoint.save(manager, state, [], keep=1, identity={})
            checkpoint.wait(manager)
            found = checkpoint.restore_state(manager, 1, shapes, mesh, last=1)
        if not np.array_equal(np.asarray(found.state.params["trial"]), np.arange(7.0)):
            raise checkpoint.DamagedError("it holds other numbers")
    except checkpoint.DamagedError as error:
        raise Mistake(
            f"--workdir={workdir}: a checkpoint that was written to {path} cannot be read back "
            f"({error}); use another."
        ) from None
    finally:
        _remove(directory)


def _remove(directory: Path) -> None:
    with processes.agreed():
        if processes.is_primary() and directory.exists():
            shutil.rmtree(directory)
