"""Opening what ``wlsrl prepare`` has written."""

from __future__ import annotations

import collections
import dataclasses
import difflib
import hashlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from wlsrl_jax.data.prepare.groups import SPLITS
from wlsrl_jax.data.prepare.manifest import parse_manifest
from wlsrl_jax.data.prepare.place import LOOKS, MANIFEST, VERSION, dataset_dir, resolve_data_dir
from wlsrl_jax.data.published import all_specs
from wlsrl_jax.files import Mistake


class ImageCache:
    """Decoded images, kept until they take a number of bytes; what comes later is not.

    No image gives way to another: in a permutation a lately read one is the last to be read
    again.

    Args:
      limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._kept: dict[tuple[str, int], dict[str, Any]] = {}
        self._lock = threading.Lock()

    def get(self, place: tuple[str, int]) -> dict[str, Any] | None:
        """Returns an example that is kept, or None."""
        return self._kept.get(place)

    def put(self, place: tuple[str, int], example: dict[str, Any]) -> None:
        """Keeps an example if there is room; nobody may write into its image any more."""
        image = example["image"]
        with self._lock:
            if image.nbytes > self._left or place in self._kept:
                return
            self._left -= image.nbytes
            image.setflags(write=False)
            self._kept[place] = example


class PreparedSource:
    """One split: examples by index, read from ArrayRecord.

    Args:
      directory: of the prepared data set.
      split: its name.
      records: split as it was written -> its records by position.
      places: where each example is stored: (split in which it was written, position there).
      labels: ``[N]``.
      ids: of the N examples.
      groups: of the N examples.
      cache: of decoded images, keyed by where they are stored.
    """

    def __init__(
        self,
        directory: Path,
        split: str,
        records: Mapping[str, Any],
        places: Sequence[tuple[str, int]],
        labels: np.ndarray,
        ids: Sequence[str],
        groups: Sequence[str],
        cache: ImageCache,
    ) -> None:
        self.directory, self.split, self._records = directory, split, records
        self._places, self._labels, self._ids, self._groups = places, labels, ids, groups
        self._cache = cache

    def __len__(self) -> int:
        return len(self._labels)

    def __repr__(self) -> str:
        return f"PreparedSource({self.directory.parent.name}, {self.split})"

    def labels(self) -> np.ndarray:
        """Returns all labels ``[N]`` int64 without decoding an image."""
        return self._labels

    def ids(self) -> Sequence[str]:
        """Returns the id of every example, in record order."""
        return self._ids

    def groups(self) -> Sequence[str]:
        """Returns the group of every example, in record order."""
        return self._groups

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads an example.

        Raises:
          Mistake: if its record is damaged, naming it.
        """
        stored, position = place = self._places[index]
        if (kept := self._cache.get(place)) is not None:
            return dict(kept)
        try:
            record = self._records[stored][position]
        except Exception as error:  # ArrayRecord, protobuf and the decoder raise many kinds
            reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
            raise Mistake(
                f"{self.directory}: record {position} of split {stored} ({self._ids[index]}) is "
                f"damaged ({reason}); prepare the data again with --overwrite."
            ) from error
        example = {
            "image": record["image"],
            "label": int(record["label"]),
            "id": _text(record["id"]),
            "group": _text(record["group"]),
        }
        self._cache.put(place, example)
        return dict(example)


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
    preprocess: tuple[str, ...]
    pixel_bits: str
    looks: np.ndarray | None


def prepared_names(data_dir: str | None) -> list[str]:
    """Names of the data sets that are prepared in a directory."""
    found = resolve_data_dir(data_dir).glob(f"[a-z]*/{VERSION}/{MANIFEST}")
    return sorted(path.parts[-3] for path in found)


def _how_to_prepare(name: str, data_dir: str | None) -> str:
    known = all_specs()
    text = f"{name} is not prepared in {dataset_dir(name, data_dir)}. "
    command = "Run: wlsrl prepare"
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


def load_prepared(
    name: str, data_dir: str | None = None, fold: int = -1, *, cache_mib: float = 0.0
) -> PreparedDataset:
    """Opens a prepared data set.

    Args:
      name: of the data set.
      data_dir: see ``resolve_data_dir``.
      fold: of its cross-validation or repeated hold-out; -1 is the main division.
      cache_mib: decoded images are kept in memory until they take this many MiB.

    Returns:
      The data set.

    Raises:
      Mistake: for a damaged set, a fold that it has not, or one that is not prepared, with the
        command that does it.
    """
    directory = dataset_dir(name, data_dir)
    path = directory / MANIFEST
    if not path.is_file():
        raise Mistake(_how_to_prepare(name, data_dir))
    content = path.read_bytes()
    manifest = parse_manifest(content, str(path))
    images = manifest["images"]
    written = [image["split"] for image in images]
    divisions = [(image["split"], *image.get("folds", ())) for image in images]
    folds = len(divisions[0]) - 1
    place = {name: k for k, name in enumerate(manifest["classes"])}
    labels = np.asarray([place[image["class"]] for image in images], np.int64)
    ids, groups = ([image[key] for image in images] for key in ("id", "group"))
    height, width = manifest["settings"]["size"]
    steps = tuple(manifest["settings"].get("preprocess", ()))
    pixel_bits = manifest.get("pixel_bits", "")
    if not -1 <= fold < folds:
        raise Mistake(
            f"config.data.fold={fold}: {name} is prepared with "
            + (f"{folds} folds, 0 to {folds - 1}" if folds else "no folds")
            + "; -1 is its main division, and prepare --folds=K --overwrite makes others."
        )
    places = _places(written)
    records = _open_records(directory, collections.Counter(written))
    cache = ImageCache(int(cache_mib * 2**20))
    members: dict[str, list[int]] = {split: [] for split in SPLITS}
    for k, division in enumerate(divisions):
        members[division[1 + fold]].append(k)
    splits = {
        split: PreparedSource(
            directory,
            split,
            records,
            [places[k] for k in found],
            labels[found],
            [ids[k] for k in found],
            [groups[k] for k in found],
            cache,
        )
        for split, found in members.items()
        if found
    }
    details = {
        image["id"]: {
            "patient": image.get("patient"),
            "group": image["group"],
            "sha256": image["sha256"],
            "attributes": image["attributes"],
        }
        for image in images
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
        steps,
        pixel_bits,
        _read_looks(directory, len(images)),
    )


def _read_looks(directory: Path, count: int) -> np.ndarray | None:
    """The perceptual hashes, or None of a preparation by a version that kept none.

    Raises:
      Mistake: if they are damaged.
    """
    path = directory / LOOKS
    if not path.is_file():
        return None
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise Mistake(f"{path} is damaged ({error}); prepare it again with --overwrite.") from None
    if found.dtype != np.uint8 or found.shape != (count, 16):
        raise Mistake(f"{path} is not of this manifest; prepare it again with --overwrite.")
    return found


def _places(written: Sequence[str]) -> list[tuple[str, int]]:
    """Where each example is stored, from the split in which each was written, in order."""
    counts: collections.Counter[str] = collections.Counter()
    found = []
    for split in written:
        found.append((split, counts[split]))
        counts[split] += 1
    return found


def _open_records(directory: Path, wanted: Mapping[str, int]) -> dict[str, Any]:
    """Opens the splits as they were written, each with so many records.

    Raises:
      Mistake: if one has another number.
    """
    try:
        builder = tfds.builder_from_directory(str(directory))
        found: dict[str, Any] = {s: builder.as_data_source(s) for s in builder.info.splits}
    except Exception as error:  # TFDS and ArrayRecord raise many kinds for damaged files
        raise Mistake(
            f"{directory}: its records cannot be opened ({error}); prepare it again with "
            "--overwrite."
        ) from error
    for split in sorted(found.keys() | wanted.keys()):
        have, want = len(found.get(split, ())), wanted.get(split, 0)
        if have != want:
            raise Mistake(
                f"{directory}: split {split} has {have} records, its manifest {want}; prepare it "
                "again with --overwrite."
            )
    return found
