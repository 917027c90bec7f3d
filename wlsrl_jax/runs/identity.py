"""What a checkpoint belongs to: the config and the data that it was trained with.

Every checkpoint holds its identity, and every command that reads one compares it with the
``config.json`` and ``data.json`` beside it: weights answer rightly under no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from wlsrl_jax.config.fields import bound_fields, completed
from wlsrl_jax.files import Mistake, differences, flatten, plain

DERIVED = ("class_weights", "seen_in_epoch", "examples", "class_table", "audit")
"""What ``data.json`` tells besides: it follows from the rest, or answers nothing."""


def identity(config: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a run.

    Args:
      config: content of its ``config.json``.
      data: content of its ``data.json``.

    Returns:
      "config": the fields that may not change; "data": field -> digest of its value.
    """
    return {"config": bound_fields(flatten(plain(config))), "data": _digests(data)}


def check_identity(
    saved: Mapping[str, Any], config: Mapping[str, Any], data: Mapping[str, Any], where: str
) -> None:
    """Checks that a checkpoint is of this config and these data.

    A field that there was not yet when it was saved counts as its default.

    Args:
      saved: its identity.
      config: the config, complete.
      data: content of ``data.json``.
      where: the checkpoint, for the message.

    Raises:
      Mistake: names each field that differs, with both values where they are short.
    """
    defaults = flatten(completed({"modality": config["modality"]}))
    old = bound_fields({**defaults, **saved["config"]})
    new = bound_fields(flatten(plain(config)))
    differs = differences(old, new, "  config.")
    now = _digests(data)
    differs += [
        f"  data.json: {name} is not what it was trained with"
        for name, digest in sorted(saved["data"].items())
        if now.get(name) != digest
    ]
    if differs:
        raise Mistake(
            f"{where} was not trained with the config.json and data.json of its run:\n"
            + "\n".join(differs[:20])
            + "\nRestore them, or name another --workdir."
        )


def _digests(data: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:16]
        for key, value in data.items()
        if key not in DERIVED
    }
