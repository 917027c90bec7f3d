"""The compact record of a finished cell: what tables are made from, and small enough for git.

``records/NAME.json`` holds config, circumstances and all metrics, ``records/NAME.npz`` the
predictions of the test split. Ids of images and groups are the first eight bytes of a SHA-256.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ablate.grid import Cell, Grid
from ablate.old_fields import renamed
from wlsrl_jax.config.fields import bound_fields, completed
from wlsrl_jax.evaluate.predictions import read_predictions
from wlsrl_jax.files import differences, flatten, read_json, unflatten, write_json, write_whole
from wlsrl_jax.runtime.environment import processor_facts
from wlsrl_jax.tasks import Task, tasks_of


@dataclasses.dataclass(frozen=True)
class Record:
    """A finished cell.

    Attributes:
      name: of the cell.
      document: content of its JSON file.
      tasks: the tasks.
      ids: ``[N]`` uint64, hashed, ascending.
      groups: ``[N]`` uint64, hashed.
      labels: task -> ``[N]`` int, -1 where there is none.
      probabilities: task -> float32 ``[N, C]``.
    """

    name: str
    document: Mapping[str, Any]
    tasks: tuple[Task, ...]
    ids: np.ndarray
    groups: np.ndarray
    labels: Mapping[str, np.ndarray]
    probabilities: Mapping[str, np.ndarray]

    @property
    def seed(self) -> Any:
        """Its seed, or what stands in place of it."""
        return self.document["config"]["seed"]

    @property
    def fold(self) -> Any:
        """The fold that it was tested on, or what stands in place of it."""
        return self.document["config"]["data"]["fold"]


def merged_document(parts: Sequence[Record], config: Mapping[str, Any]) -> dict[str, Any]:
    """The document of several records as one: of the first, with another config."""
    hashes = "".join(part.document["predictions_sha256"] for part in parts)
    return {
        **parts[0].document,
        "config": config,
        "predictions_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
    }


def json_path(directory: Path, name: str) -> Path:
    """Where the record of a cell is, or will be; written last."""
    return directory / "records" / f"{name}.json"


def is_finished(workdir: Path) -> bool:
    """Whether a run has its results."""
    return (workdir / "metrics.json").is_file() and (workdir / "predictions.csv").is_file()


def write_record(
    directory: Path, cell: Cell, config: Mapping[str, Any], workdir: Path, effort: Mapping[str, Any]
) -> None:
    """Writes the record of a finished run.

    Args:
      directory: of the grid.
      cell: the cell.
      config: its whole config.
      workdir: of its run.
      effort: "seconds" and "starts" that it took.
    """
    data, metrics = read_json(workdir / "data.json"), read_json(workdir / "metrics.json")
    environment = read_json(workdir / "environment.json")
    tasks = tasks_of(data["tasks"])
    test = read_predictions(workdir / "predictions.csv", tasks)["test"]
    ids = _hashed(data["dataset"], test.ids.tolist())
    order = np.argsort(ids, kind="stable")
    arrays = {"ids": ids[order], "groups": _hashed(data["dataset"], test.groups.tolist())[order]}
    for task in tasks:
        arrays[f"label/{task.name}"] = test.labels[task.name][order].astype(np.int8)
        arrays[f"probability/{task.name}"] = test.probabilities[task.name][order]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    path = json_path(directory, cell.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path.with_suffix(".npz"), buffer.getvalue())
    write_json(
        path,
        {
            "name": cell.name,
            "labels": dict(cell.labels),
            "config": _identity(config),
            "dataset": data["dataset"],
            "data_fingerprint": data["fingerprint"],
            "phantom": data["phantom"],
            "has_patient_ids": data["has_patient_ids"],
            "tasks": data["tasks"],
            "class_weights": data["class_weights"],
            "train_counts": {k: v["images"] for k, v in data["class_table"]["train"].items()},
            **effort,
            "machine": _machine(environment),
            "versions": environment["versions"],
            "commit": environment["commit"],
            "selected": metrics["selected"],
            "validation": metrics["validation"],
            "test": metrics["test"],
            "undefined": metrics["undefined"],
            **({"provenance": metrics["provenance"]} if "provenance" in metrics else {}),
            "predictions_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        },
    )


def read_record(directory: Path, name: str) -> Record:
    """Reads a record.

    Raises:
      ValueError: if it is damaged, naming the file.
    """
    path = json_path(directory, name)
    document = read_json(path)
    arrays_path = path.with_suffix(".npz")
    try:
        content = arrays_path.read_bytes()
    except FileNotFoundError:
        raise ValueError(
            f"{arrays_path} is missing; restore it, or delete {path} to run the cell again."
        ) from None
    if hashlib.sha256(content).hexdigest() != document.get("predictions_sha256"):
        raise ValueError(
            f"{arrays_path} does not belong to {path.name}; restore both from the same commit, or "
            f"delete {path} to run the cell again."
        )
    tasks = tasks_of(document["tasks"])
    with np.load(io.BytesIO(content)) as arrays:
        return Record(
            name,
            document,
            tasks,
            arrays["ids"],
            arrays["groups"],
            {t.name: arrays[f"label/{t.name}"].astype(np.int64) for t in tasks},
            {t.name: arrays[f"probability/{t.name}"] for t in tasks},
        )


def check_record(directory: Path, name: str, config: Mapping[str, Any]) -> None:
    """Checks that a record was made with the config that the grid gives the cell now.

    A field that there was not yet counts as its default, a renamed one by its name of today.

    Raises:
      ValueError: names each field that differs, with both values.
    """
    path = json_path(directory, name)
    # Through "modality" it knows which fields there are; see defaults.completed.
    old = bound_fields(flatten(completed(renamed(read_json(path)["config"]))))
    differs = differences(old, bound_fields(flatten(config)), "  config.")
    if differs:
        raise ValueError(
            f"{path} was made with another definition of this cell:\n"
            + "\n".join(differs)
            + f"\nDelete it and {path.parent.parent / 'cells' / name} to run the cell again, use "
            "another --output, or take the change back."
        )


def check_fingerprints(
    directory: Path,
    grid: Grid,
    configs: Mapping[str, Mapping[str, Any]],
    fingerprints: Mapping[str, str],
) -> None:
    """Checks that all cells of a data set see the same version of it.

    Args:
      directory: of the grid.
      grid: the grid.
      configs: name of a cell -> config.
      fingerprints: name of a cell that is to run -> fingerprint of its data here.

    Raises:
      ValueError: names two cells that do not.
    """
    seen: dict[str, tuple[str, str]] = {}
    for cell in grid.cells:
        path = json_path(directory, cell.name)
        mark = fingerprints.get(cell.name)
        if path.exists():
            mark = read_json(path)["data_fingerprint"]
        if mark is None:
            continue
        dataset = str(configs[cell.name]["data"]["dataset"])
        first, other = seen.setdefault(dataset, (cell.name, mark))
        if other != mark and dataset != "phantom":
            raise ValueError(
                f"cells {first} and {cell.name} are of two versions of {dataset}: its manifest "
                "has changed between them. Restore that data, or use another --output."
            )


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without the fields that change no result, one of which is a path."""
    return unflatten(bound_fields(flatten(config)))


def _hashed(dataset: str, names: Sequence[str]) -> np.ndarray:
    digests = b"".join(hashlib.sha256(f"{dataset}/{n}".encode()).digest()[:8] for n in names)
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _machine(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "platform": environment["platform"],
        "python": environment["python"],
        "devices": environment["devices"],
        "processor": processor_facts().get("model name")
        or platform.processor()
        or platform.machine(),
        "cores": os.cpu_count(),
    }
