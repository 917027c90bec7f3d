"""Opening what ``data.prepare`` has written."""

from __future__ import annotations

import collections
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
from wlsrl_jax.data.splits import SPLITS

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
      places: where each example is stored: (split in which it was written, position there).
      labels: ``[N]``.
      ids: of the N examples.
      groups: of the N examples.
    """

    def __init__(
        self,
        directory: Path,
        split: str,
        places: Sequence[tuple[str, int]],
        labels: np.ndarray,
        ids: Sequence[str],
        groups: Sequence[str],
    ) -> None:
        self.directory, self.split = directory, split
        self._places, self._labels, self._ids, self._groups = places, labels, ids, groups
        builder = tfds.builder_from_directory(str(directory))
        stored = sorted({where for where, _ in places})
        self._records: dict[str, Any] = {w: builder.as_data_source(w) for w in stored}

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
        stored, position = self._places[index]
        try:
            record = self._records[stored][position]
        except Exception as error:  # ArrayRecord, protobuf and the decoder raise many kinds
            reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
            raise ValueError(
                f"{self.directory}: record {position} of split {stored} ({self._ids[index]}) is "
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


def load_prepared(name: str, data_dir: str | None = None, fold: int = -1) -> PreparedDataset:
    """Opens a prepared data set.

    Args:
      name: of the data set.
      data_dir: see ``resolve_data_dir``.
      fold: of its cross-validation or repeated hold-out; -1 is the main division.

    Returns:
      The data set.

    Raises:
      ValueError: for a damaged set, or a fold that it has not.
      FileNotFoundError: if it is not prepared, with the command that does it.
    """
    directory = dataset_dir(name, data_dir)
    path = directory / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(_how_to_prepare(name, data_dir))
    content = path.read_bytes()
    try:
        manifest = json.loads(content)
        has = len(manifest["images"][0].get("folds", ()))
        if not -1 <= fold < has:
            raise _NoFoldError(
                f"config.data.fold={fold}: {name} is prepared with "
                + (f"{has} folds, 0 to {has - 1}" if has else "no folds")
                + "; -1 is its main division, and prepare --folds=K --overwrite makes others."
            )
        members: dict[str, list[tuple[str, int, Any]]] = {s: [] for s in SPLITS}
        stored: collections.Counter[str] = collections.Counter()
        for image in manifest["images"]:
            written = image["split"]
            split = written if fold < 0 else image["folds"][fold]
            members[split].append((written, stored[written], image))
            stored[written] += 1
        splits = {
            s: PreparedSource(
                directory,
                s,
                [(written, position) for written, position, _ in found],
                np.asarray([manifest["classes"].index(i["class"]) for _, _, i in found], np.int64),
                [i["id"] for _, _, i in found],
                [i["group"] for _, _, i in found],
            )
            for s, found in members.items()
            if found
        }
        height, width = map(int, manifest["settings"]["size"])
    except _NoFoldError:
        raise
    except (json.JSONDecodeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); prepare it again with --overwrite.") from (
            None
        )
    _check_records(directory, stored)
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


class _NoFoldError(ValueError):
    """A fold that the data set has not."""


def _check_records(directory: Path, wanted: Mapping[str, int]) -> None:
    written = tfds.builder_from_directory(str(directory)).info.splits
    for split, count in wanted.items():
        have = written[split].num_examples if split in written else 0
        if have != count:
            raise ValueError(
                f"{directory}: split {split} has {have} records, its manifest {count}; prepare it "
                "again with --overwrite."
            )
