"""The documents of a run, believed only after a look: whoever wrote them may be a stranger."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from wlsrl_jax.config.fields import OF_TASKS, check_fields, completed
from wlsrl_jax.data.text.names import are_different_names
from wlsrl_jax.files import Mistake, flatten, read_json
from wlsrl_jax.runs.identity import DERIVED
from wlsrl_jax.tasks import MODALITIES, Task, make_tasks, tasks_of

LARGEST = 1 << 26
"""Bytes of a document, at most."""

_FIELD_LIMITS = {  # of what decides how much is computed, far above anything of use
    "data.height": 8192, "data.width": 8192, "model.blocks": 64, "model.hidden": 1 << 16,
    "model.space_to_depth": 64,
}  # fmt: skip
_WIDTH_LIMIT, _STAGE_LIMIT, _CLASS_LIMIT, _SIDE_LIMIT = 1 << 14, 16, 1 << 16, 1 << 16
_NEWER = "If a newer version wrote it, use that one; else restore it."


def read_document(path: Path) -> dict[str, Any]:
    """Reads a JSON object of a run.

    Raises:
      Mistake: if it is missing, damaged, too large or no object, naming it.
    """
    try:
        large = path.stat().st_size > LARGEST
    except OSError:
        large = False  # read_json says why
    if large:
        raise Mistake(f"{path} is larger than {LARGEST} bytes; restore it.")
    found = read_json(path)
    if not isinstance(found, dict):
        raise Mistake(f"{path} is damaged (no JSON object); restore it.")
    return found


def read_temperatures(path: Path) -> dict[str, float | None]:
    """Reads the temperature of each task from a ``statistics.json``.

    Returns:
      Task -> temperature > 0, or None where it is undefined.

    Raises:
      Mistake: if the file is missing, damaged or says something else, naming it.
    """
    found = read_document(path).get("calibration")
    if not isinstance(found, dict) or not all(isinstance(c, dict) for c in found.values()):
        raise Mistake(f"{path} has no calibration; restore it.")
    temperatures = {task: entry.get("temperature") for task, entry in found.items()}
    for task, value in temperatures.items():
        if value is not None and not (_alike(value, 1.0) and value > 0):
            raise Mistake(f"{path}: the temperature of {task} is {value!r}; restore it.")
    return temperatures


def read_config(folder: Path) -> Any:
    """Reads the config of a run, the defaults of fields that there were not yet filled in.

    Args:
      folder: of the run.

    Returns:
      The config.

    Raises:
      Mistake: naming the file and the field that is missing, unknown, or of a wrong kind or size.
    """
    path = folder / "config.json"
    saved = read_document(path)
    modality = saved.get("modality")
    if not isinstance(modality, str) or modality not in MODALITIES:
        known = ", ".join(MODALITIES)
        raise Mistake(f"{path}: modality={modality!r} must be one of {known}. {_NEWER}")
    filled = completed(saved)
    flat, defaults = flatten(filled), flatten(completed({"modality": modality}))
    for name, default in defaults.items():
        if name.startswith(tuple(f"{of}." for of in OF_TASKS)):
            continue  # of the tasks that there were, below
        if name not in flat:
            raise Mistake(f"{path}: {name} must be of the kind of {default!r}. {_NEWER}")
        if not _alike(flat[name], default):
            raise Mistake(f"{path}: {name}={flat[name]!r} must be of the kind of {default!r}.")
    for name, value in flat.items():
        if name.startswith("model.") and name not in defaults:
            raise Mistake(f"{path}: {name} is unknown. {_NEWER}")
        if name.startswith(tuple(f"{of}." for of in OF_TASKS)):
            number = name.startswith("task_weights.")
            if not _alike(value, 1.0 if number else ""):
                raise Mistake(
                    f"{path}: {name}={value!r} must be a {'number' if number else 'name'}."
                )
    widths = flat["model.widths"]
    if len(widths) > _STAGE_LIMIT or not all(
        type(w) is int and 0 < w <= _WIDTH_LIMIT for w in widths
    ):
        raise Mistake(f"{path}: model.widths={str(widths)[:100]} must be a few widths > 0.")
    for name, limit in _FIELD_LIMITS.items():
        if flat[name] > limit:
            raise Mistake(f"{path}: {name}={flat[name]} must be at most {limit}.")
    config = ConfigDict(filled)
    try:
        check_fields(config)
    except Mistake as error:
        raise Mistake(f"{path}: {error}") from None
    return config


def _alike(value: Any, default: Any) -> bool:
    """Whether a value can stand where the default does."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float) and abs(value) < 1e300 and math.isfinite(value)
    if isinstance(default, int):
        return type(value) is int and abs(value) < 1 << 62
    return type(value) is type(default)


def read_data(folder: Path, modality: str) -> tuple[dict[str, Any], tuple[Task, ...]]:
    """Reads what a run was trained on.

    Args:
      folder: of the run.
      modality: of its config.

    Returns:
      (content of ``data.json``, its tasks in order).

    Raises:
      Mistake: naming the file and the field that is missing or contradicts another one.
    """
    path = folder / "data.json"
    data = read_document(path)

    def need(fits: bool, name: str, wanted: str) -> None:
        if not fits:
            shown = f"={str(data[name])[:100]}" if name in data else " is missing; it"
            raise Mistake(f"{path}: {name}{shown} must be {wanted}. {_NEWER}")

    for name in ("dataset", "fingerprint"):
        need(isinstance(data.get(name), str), name, "a text")
    need(data.get("modality") == modality, "modality", f"{modality!r}, as in config.json")
    need(isinstance(data.get("phantom"), bool), "phantom", "true or false")
    classes = data.get("classes")
    need(_names(classes), "classes", "a list of different names")
    assert isinstance(classes, list)
    need(data.get("normal") in classes, "normal", "one of the classes")
    for name in DERIVED:
        need(isinstance(data.get(name, {}), dict), name, "an object")
    size = data.get("prepared_size")
    need(
        size is None
        or isinstance(size, list)
        and len(size) == 2
        and all(type(v) is int and 0 < v <= _SIDE_LIMIT for v in size),
        "prepared_size",
        "a height and a width",
    )
    steps = data.get("preprocess", [])
    need(isinstance(steps, list) and all(isinstance(s, str) for s in steps), "preprocess", "names")
    need(isinstance(data.get("tasks"), dict) and bool(data["tasks"]), "tasks", "an object")
    for name, found in data["tasks"].items():
        if not _is_task(found, classes):
            raise Mistake(
                f"{path}: task {name} must have classes, a label_map with an entry for each class "
                f"of the data, and ordinal. {_NEWER}"
            )
    try:
        tasks = tasks_of(data["tasks"])
        known = {t.name: t for t in make_tasks(modality, tuple(classes), data["normal"])}
    except ValueError as error:
        raise Mistake(f"{path}: {error} {_NEWER}") from None
    for task in tasks:
        if task != known.get(task.name, task):
            raise Mistake(
                f"{path}: task {task.name} has the classes {', '.join(task.classes)} with the "
                f"labels {list(task.label_map)}; for {', '.join(classes)} it has "
                f"{', '.join(known[task.name].classes)} with {list(known[task.name].label_map)}. "
                f"{_NEWER}"
            )
    return data, tasks


def _names(found: Any) -> bool:
    return are_different_names(found) and len(found) <= _CLASS_LIMIT


def _is_task(found: Any, classes: list[str]) -> bool:
    return (
        isinstance(found, dict)
        and _names(found.get("classes"))
        and isinstance(found.get("label_map"), list)
        and len(found["label_map"]) == len(classes)
        and all(type(k) is int for k in found["label_map"])
        and isinstance(found.get("ordinal"), bool)
    )
