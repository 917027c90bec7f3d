"""The networks that a config can name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wlsrl_jax.files import Mistake
from wlsrl_jax.models.dual_stream import PRESETS, STREAMS, DualStream, make_model
from wlsrl_jax.models.layers import check_choice
from wlsrl_jax.models.resnet import STREAM, ResNet18

Network = DualStream | ResNet18

ARCHITECTURES = ("dual_stream", "resnet18")
_DUAL_ONLY = {
    "blocks": 0,
    "space_to_depth": 1,
    "streams": "dual",
    "fusion": "concat",
    "norm": "batch",
}
"""Fields that resnet18 does not read, with their defaults."""


def make_network(
    architecture: str,
    preset: str,
    heads: Mapping[str, int],
    *,
    widths: Sequence[int] = (),
    blocks: int = 0,
    hidden: int = 0,
    **fields: Any,
) -> Network:
    """Builds a network from the fields of ``config.model``.

    Args:
      architecture: one of ``ARCHITECTURES``.
      preset: a key of ``PRESETS``; resnet18 takes the width of the shared dense layer from it, and
        nothing else.
      heads: task -> number of classes.
      widths: channels of each stage; empty for the preset's, or ResNet-18's own.
      blocks: convolutions of each stage; 0 for the preset's.
      hidden: width of the shared dense layer; 0 for the preset's.
      **fields: others of ``DualStream`` or ``ResNet18``.

    Returns:
      The module.

    Raises:
      Mistake: names the field that is wrong, or that the architecture does not read.
    """
    check_choice("architecture", architecture, ARCHITECTURES)
    check_choice("preset", preset, PRESETS)
    given = {"widths": tuple(widths), "blocks": blocks, "hidden": hidden}
    changed = {name: value for name, value in given.items() if value}
    if architecture == "dual_stream":
        return make_model(preset, heads, **changed, **fields)
    read = {**changed, **fields}
    others = {name: read.pop(name, default) for name, default in _DUAL_ONLY.items()}
    unread = [
        f"config.model.{name}={value!r} (its default is {_DUAL_ONLY[name]!r})"
        for name, value in others.items()
        if value != _DUAL_ONLY[name]
    ]
    if unread:
        raise Mistake(
            f"config.model.architecture={architecture} does not read {', '.join(unread)}; leave "
            "out what it does not read, or choose architecture=dual_stream."
        )
    return ResNet18(heads=tuple(heads.items()), **{"hidden": PRESETS[preset]["hidden"], **read})


def stream_names(model: Network) -> tuple[str, ...]:
    """The trunks that a network has: "separable", "standard" or both, or "resnet18"."""
    return (STREAM,) if isinstance(model, ResNet18) else STREAMS[model.streams]
