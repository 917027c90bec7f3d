"""Opening what ``data.prepare`` has written."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from wlsrl_jax.data.builders import all_specs

MANIFEST = "manifest.json"
VERSION = "1.0.0"


def resolve_data_dir(data_dir: str | None) -> Path:
    """The directory of prepared data: the argument, TFDS_DATA_DIR, TFDS's default."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
    return Path(chosen or tfds.core.constants.DATA_DIR).expanduser()


def dataset_dir(name: str, data_dir: str | None) -> Path:
    """Where a prepared data set lies."""
    return resolve_data_dir(data_dir) / name / VERSION


class PreparedSource:
    """One split: examples by index, read from ArrayRecord.

    Args:
      directory: of the prepared data set.
      split: its name.
      labels: ``[N]`` in record order.
      ids: ``N`` ids in record order.
      groups: ``N`` groups in record order.
    """

    def __init__(
        self,
        directory: Path,
        split: str,
        labels: np.ndarray,
        ids: Sequence[str],
        groups: Sequence[str],
    ) -> None:
        self.directory, self.split = directory, split
        self._labels, self._ids, self._groups = labels, ids, groups
        self._records: Any = tfds.builder_from_directory(str(directory)).as_data_source(split)
        if len(self._records) != len(labels):
            raise ValueError(
                f"{directory}: split {split} has {len(self._records)} records, its manifest "
                f"{len(labels)}; prepare it again with --overwrite."
            )

    def __len__(self) -> int:
        return len(self._labels)

    def __repr__(self) -> str:
        return f"PreparedSource({self.directory.parent.name}, {self.split})"

    def labels(self) -> np.ndarray:
        """Returns all labels ``[N]`` int64 without decoding an image."""
        return self._labels

    def groups(self) -> Sequence[str]:
        """Returns the group of every example, in record order."""
        return self._groups

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads an example.

        Raises:
          ValueError: if its record is damaged, naming it.
        """
        try:
            record = self._records[index]
        except Exception as error:  # ArrayRecord, protobuf and the decoder raise many kinds
            reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
            raise ValueError(
                f"{self.directory}: record {index} of split {self.split} ({self._ids[index]}) is "
                f"damaged ({reason}); prepare the data again with --overwrite."
            ) from error
        return {
            "image": record["image"],
            "label": int(record["label"]),
            "id": _text(record["id"]),
            "group": _text(record["group"]),
        }


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


@dataclasses.dataclass(frozen=True)
class PreparedDataset:
    """A prepared data set; see ``datasets.Dataset`` for the fields."""

    name: str
    modality: str
    classes: tuple[str, ...]
    normal: str
    splits: Mapping[str, PreparedSource]
    manifest_sha256: str
    details: Mapping[str, Mapping[str, Any]]
    audit: Mapping[str, Any]
    size: tuple[int, int]


def prepared_names(data_dir: str | None) -> list[str]:
    """Names of the data sets that are prepared in a directory."""
    found = resolve_data_dir(data_dir).glob(f"[a-z]*/{VERSION}/{MANIFEST}")
    return sorted(path.parts[-3] for path in found)


def _how_to_prepare(name: str, data_dir: str | None) -> str:
    known = all_specs()
    text = f"{name} is not prepared in {dataset_dir(name, data_dir)}. "
    command = "Run: python -m wlsrl_jax.data.prepare"
    rest = f"--source=DIR --data_dir={resolve_data_dir(data_dir)}"
    if name in known:
        return f"{text}{command} --dataset={name} {rest} (the original: {known[name].homepage})"
    there = prepared_names(data_dir)
    near = difflib.get_close_matches(name, [*known, *there], n=1)
    return (
        text
        + (f"Did you mean {near[0]}? " if near else "")
        + f"Prepared there: {', '.join(there) or 'nothing'}. Known: {', '.join(sorted(known))}. "
        + f"If it is one of your own: {command} --dataset=folder --name={name} {rest}"
    )


def load_prepared(name: str, data_dir: str | None = None) -> PreparedDataset:
    """Opens a prepared data set.

    Args:
      name: of the data set.
      data_dir: see ``resolve_data_dir``.

    Returns:
      The data set.

    Raises:
      ValueError: for a damaged set.
      FileNotFoundError: if it is not prepared, with the command that does it.
    """
    directory = dataset_dir(name, data_dir)
    path = directory / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(_how_to_prepare(name, data_dir))
    content = path.read_bytes()
    try:
        manifest = json.loads(content)
        labels: dict[str, list[int]] = {name: [] for name in manifest["splits"]}
        ids: dict[str, list[str]] = {name: [] for name in manifest["splits"]}
        groups: dict[str, list[str]] = {name: [] for name in manifest["splits"]}
        for image in manifest["images"]:
            labels[image["split"]].append(manifest["classes"].index(image["class"]))
            ids[image["split"]].append(image["id"])
            groups[image["split"]].append(image["group"])
        height, width = map(int, manifest["settings"]["size"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); prepare it again with --overwrite.") from (
            None
        )
    splits = {
        s: PreparedSource(directory, s, np.asarray(v), ids[s], groups[s]) for s, v in labels.items()
    }
    details = {
        image["id"]: {"patient": image["patient"], "attributes": image.get("attributes", {})}
        for image in manifest["images"]
    }
    return PreparedDataset(
        name,
        manifest["modality"],
        tuple(manifest["classes"]),
        manifest["normal"],
        splits,
        hashlib.sha256(content).hexdigest(),
        details,
        manifest.get("audit", {}),
        (height, width),
    )
