"""The networks that a config can name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from wlsrl_jax.files import Mistake
from wlsrl_jax.models.dual_stream import Grader
from wlsrl_jax.models.layers import check_choice
from wlsrl_jax.models.trunks import PLAIN, Row, Trunk, trunk_row
from wlsrl_jax.tasks import MODALITIES, Task

STREAMS = {
    "dual": ("separable", "standard"),
    "separable": ("separable",),
    "standard": ("standard",),
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"widths": (8, 16, 16), "blocks": 1, "hidden": 16},
    "small": {"widths": (16, 32, 64, 128), "blocks": 1, "hidden": 128},
    "medium": {"widths": (16, 32, 64, 96, 128), "blocks": 2, "hidden": 128},
    "base": {"widths": (32, 64, 128, 256, 384), "blocks": 2, "hidden": 256},
}
"""tiny: tests. small: 64 px on a laptop. medium: real scans on a workstation. base: 224 px
and more on accelerators."""
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def image_shape(config: Any) -> tuple[int, int, int]:
    """The shape of one image as a config's model takes it.

    Args:
      config: the config.

    Returns:
      (height, width, channels).
    """
    return config.data.height, config.data.width, MODALITIES[config.modality].channels


def build_model(config: Any, tasks: Sequence[Task]) -> Grader:
    """Builds the network of a config with one head a task.

    Args:
      config: the config.
      tasks: the tasks.

    Returns:
      The module.

    Raises:
      Mistake: names the field of ``config.model`` that is wrong.
    """
    return build_network(config, {task.name: task.num_classes for task in tasks})


def build_network(config: Any, heads: Mapping[str, int]) -> Grader:
    """Builds the network of a config, whatever its heads are of.

    Args:
      config: the config.
      heads: task -> number of classes.

    Returns:
      The module.

    Raises:
      Mistake: names the field of ``config.model`` that is wrong.
    """
    fields = dict(config.model)
    dtype = fields.pop("dtype")
    if dtype not in DTYPES:
        raise Mistake(f"config.model.dtype={dtype!r}; choose one of {', '.join(DTYPES)}.")
    return make_model(heads=heads, dtype=DTYPES[dtype], **fields)


def make_model(
    preset: str,
    heads: Mapping[str, int],
    *,
    streams: str = "dual",
    separable: str = PLAIN,
    standard: str = PLAIN,
    widths: Sequence[int] = (),
    blocks: int = 0,
    norm: str = "batch",
    space_to_depth: int = 1,
    fusion: str = "concat",
    hidden: int = 0,
    dropout: float = 0.0,
    dtype: Any = jnp.float32,
    conv_implementation: str = "auto",
) -> Grader:
    """Builds a network from the fields of ``config.model``.

    Args:
      preset: a key of ``PRESETS``.
      heads: task -> number of classes.
      streams: a key of ``STREAMS``: both, or one alone.
      separable: trunk of the separable stream, see ``TRUNKS``.
      standard: trunk of the standard stream.
      widths: channels of each stage of the trunks; () for their own, or the preset's.
      blocks: see ``PlainTrunk``; 0 for the preset's.
      norm: see ``PlainTrunk``.
      space_to_depth: see ``PlainTrunk``.
      fusion: see ``Grader``.
      hidden: see ``Grader``; 0 for the preset's.
      dropout: see ``Grader``.
      dtype: of the computation.
      conv_implementation: "auto" (by platform), "xla" or "lax", see ``ops``.

    Returns:
      The module.

    Raises:
      Mistake: names the field that is wrong, or that nothing in this network reads.
    """
    check_choice("preset", preset, PRESETS)
    check_choice("streams", streams, STREAMS)
    named = {"separable": separable, "standard": standard}
    rows = [trunk_row(kind, named[kind]) for kind in STREAMS[streams]]
    given = {"widths": tuple(widths), "blocks": blocks, "norm": norm,
             "space_to_depth": space_to_depth}  # fmt: skip
    _check_read({**named, "fusion": fusion, **given}, streams, rows)
    sizes = PRESETS[preset]
    given["blocks"] = blocks or sizes["blocks"]

    def trunk(row: Row) -> Trunk:
        read = {field: given[field] for field in row.reads}
        read["widths"] = read.get("widths") or row.widths or sizes["widths"]
        return row.make(name=row.scope, dtype=dtype, implementation=conv_implementation, **read)

    trunks = tuple(trunk(row) for row in rows)
    return Grader(trunks, fusion, tuple(heads.items()), hidden or sizes["hidden"], dropout, dtype)


def _check_read(given: Mapping[str, Any], streams: str, rows: Sequence[Row]) -> None:
    """Checks that a field which nothing in the network reads has its default."""
    read = {field for row in rows for field in (row.kind, *row.reads)}
    read |= {"fusion"} if len(rows) > 1 else set()
    defaults = inspect.signature(make_model).parameters
    unread = [
        f"config.model.{name}={value!r} (its default is {defaults[name].default!r})"
        for name, value in given.items()
        if name not in read and value != defaults[name].default
    ]
    if unread:
        network = ", ".join([f"streams={streams}", *(f"{row.kind}={row.name}" for row in rows)])
        raise Mistake(
            f"The network of config.model ({network}) does not read {', '.join(unread)}; leave out "
            "what it does not read, or choose another network."
        )
