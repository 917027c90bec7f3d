"""Device mesh and array placement: data parallel, with optional parameter sharding."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wlsrl_jax.files import Mistake

AXES = ("data", "fsdp")
MIN_SHARDED_SIZE = 2**15  # smaller arrays cost more to gather than to keep everywhere


def make_mesh(fsdp: int = 1) -> Mesh:
    """Arranges all devices of all processes as a ``data`` by ``fsdp`` mesh.

    Args:
      fsdp: number of devices that share one copy of the parameters.

    Returns:
      A mesh of shape ``(device_count // fsdp, fsdp)``.

    Raises:
      Mistake: if ``fsdp`` does not divide the number of devices.
    """
    # By process: each one's rows of a batch lie together, in the order of the processes.
    devices = np.asarray(sorted(jax.devices(), key=lambda d: (d.process_index, d.id)))
    if fsdp < 1 or devices.size % fsdp:
        raise Mistake(f"config.mesh.fsdp={fsdp} does not divide the {devices.size} devices.")
    return Mesh(devices.reshape(-1, fsdp), AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of a value that every device holds in full."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of arrays whose leading dimension is the global batch."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def state_sharding(mesh: Mesh, shapes: Any) -> Any:
    """Chooses a sharding for every array of a train state.

    An array is split over ``fsdp`` along its largest divisible dimension, unless it is
    small; the rule depends on shapes only, so parameters, their moments and their moving
    average always agree.

    Args:
      mesh: the mesh.
      shapes: pytree of arrays or ``jax.ShapeDtypeStruct``.

    Returns:
      A pytree of ``NamedSharding`` of the same structure.
    """
    size = mesh.shape["fsdp"]

    def choose(leaf: Any) -> NamedSharding:
        spec: list[str | None] = [None] * leaf.ndim
        divisible = [d for d in range(leaf.ndim) if leaf.shape[d] % size == 0]
        if size > 1 and divisible and leaf.size >= MIN_SHARDED_SIZE:
            spec[max(divisible, key=lambda d: leaf.shape[d])] = "fsdp"
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(choose, shapes)


def check_batch_size(name: str, size: int, mesh: Mesh) -> None:
    """Checks that a global batch splits evenly over devices and processes.

    Raises:
      Mistake: names the config field and the two nearest sizes that work.
    """
    unit = mesh.size
    if size < 1 or size % unit:
        lower = max(unit, size // unit * unit)
        raise Mistake(
            f"{name}={size} must be a positive multiple of the {unit} devices in use; "
            f"try {lower} or {lower + unit}."
        )


def to_global(batch: Any, mesh: Mesh) -> Any:
    """Places each process's rows of a batch as global arrays sharded over the devices.

    Args:
      batch: pytree of numpy arrays ``[local_batch, ...]``.
      mesh: the mesh.

    Returns:
      The same pytree as ``jax.Array`` of shape ``[global_batch, ...]``.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
