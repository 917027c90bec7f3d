"""One file a data set; a file with a ``SPEC`` in this folder is a data set of its name."""

from __future__ import annotations

import importlib
import pkgutil

from wlsrl_jax.data.published.common import DatasetSpec
from wlsrl_jax.files import Mistake

_SHARED = (
    "archives",
    "columns",
    "common",
    "download",
    "folder",
    "layout",
    "medmnist",
    "opening",
    "own_table",
)  # modules that are no data set


def all_specs() -> dict[str, DatasetSpec]:
    """Returns every data set of this folder by name."""
    modules = (
        importlib.import_module(f"{__name__}.{m.name}")
        for m in pkgutil.iter_modules(__path__)
        if m.name not in _SHARED
    )
    return {module.SPEC.name: module.SPEC for module in modules}


def get_spec(name: str) -> DatasetSpec:
    """Returns the data set of a name.

    Raises:
      Mistake: if there is none, listing those that are.
    """
    specs = all_specs()
    if name not in specs:
        raise Mistake(
            f"Unknown data set {name!r}; choose one of {', '.join(sorted(specs))}, or folder for "
            "one of your own."
        )
    return specs[name]
