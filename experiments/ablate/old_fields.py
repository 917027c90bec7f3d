"""Configs of committed records, with the fields that there are now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def renamed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a record under the names of today.

    ``model.architecture`` has become the trunk of each stream.
    """
    model = dict(config["model"])
    if model.pop("architecture", "dual_stream") == "resnet18":
        model |= {"streams": "standard", "standard": "resnet18"}
    return {**config, "model": model}
