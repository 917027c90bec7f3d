"""A data set by name: phantoms, or one that ``data.prepare`` has written."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from wlsrl_jax.data.phantoms import source as phantom
from wlsrl_jax.data.published import all_specs
from wlsrl_jax.data.published.folder import is_dataset_name
from wlsrl_jax.files import Mistake


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Splits with one label an example.

    Attributes:
      name: of the data set.
      modality: a name in ``tasks.MODALITIES``.
      classes: names, in the order of the labels.
      normal: the healthy one.
      splits: "train", "validation", "test" -> source; a source has a length, examples by
        index (dict of image uint8 ``[H, W, C]``, label, id, group) and ``labels()``.
      fingerprint: SHA-256 of the manifest, or of what defines the phantoms.
      is_phantom: whether results on it are a rehearsal only.
      details: id -> {"patient", "group", "sha256", "attributes": {column: value}}; empty for
        phantoms.
      has_patient_ids: whether every image names its patient.
      audit: what preparation found; empty for phantoms.
      prepared_size: (height, width) to which its images were resized when it was prepared; None
        for phantoms, which are drawn in the model's size.
      preprocess: steps of ``pixels.STEPS`` that its images went through before that.
      pixel_bits: range of its wide pixels, as ``--pixel_bits``; "" where there were none of which
        the file does not say it.
      looks: perceptual hashes, uint8 ``[N, 16]`` in the order of ``details``; None where there are
        none.
    """

    name: str
    modality: str
    classes: tuple[str, ...]
    normal: str
    splits: Mapping[str, Any]
    fingerprint: str
    is_phantom: bool
    details: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    has_patient_ids: bool = False
    audit: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prepared_size: tuple[int, int] | None = None
    preprocess: tuple[str, ...] = ()
    pixel_bits: str = ""
    looks: np.ndarray | None = None


def load_dataset(data: Any, modality: str) -> Dataset:
    """Opens the data set that a config names.

    Args:
      data: ``config.data``.
      modality: ``config.modality``.

    Returns:
      The data set.

    Raises:
      Mistake: if it is unknown, of the other modality, damaged, or not prepared, with the command
        that does it.
    """
    if data.dataset == "phantom":
        if data.fold >= 0:
            raise Mistake("config.data.fold is for prepared data; phantoms have no folds.")
        sizes = {split: int(data.phantom[split]) for split in phantom.SPLITS}
        splits = {
            split: phantom.PhantomSource(
                modality, split, size, data.height, data.width, data.phantom.seed
            )
            for split, size in sizes.items()
        }
        identity = {
            "modality": modality,
            "seed": data.phantom.seed,
            **sizes,
            "size": [data.height, data.width],
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return Dataset(
            "phantom",
            modality,
            phantom.PHANTOMS[modality].classes,
            phantom.PHANTOMS[modality].normal,
            splits,
            digest,
            True,
        )
    _check_name(data.dataset, modality)
    from wlsrl_jax.data.prepared import load_prepared  # TFDS is slow to import

    found = load_prepared(data.dataset, data.data_dir or None, data.fold, cache_mib=data.cache_mib)
    if found.modality != modality:
        raise Mistake(
            f"config.data.dataset={data.dataset!r} is a set of {found.modality} images; use "
            f"configs/{found.modality}.py."
        )
    return Dataset(
        found.name,
        found.modality,
        found.classes,
        found.normal,
        found.splits,
        found.manifest_sha256,
        False,
        found.details,
        bool(found.audit.get("has_patient_ids")),
        found.audit,
        found.size,
        found.preprocess,
        found.pixel_bits,
        found.looks,
    )


def _check_name(name: str, modality: str) -> None:
    """Refuses a published set of another modality, and what can be the name of no set."""
    known = all_specs()
    if known[name].modality != modality if name in known else not is_dataset_name(name):
        names = ["phantom", *(spec.name for spec in known.values() if spec.modality == modality)]
        raise Mistake(
            f"configs/{modality}.py has no data set {name!r}; choose one of {', '.join(names)}."
        )


def division(dataset: Dataset) -> str:
    """SHA-256 of which image is in which split with which label, and how images were prepared.

    Unlike the fingerprint it is the same for a preparation by another version, or with folds
    besides. "" for phantoms.
    """
    if dataset.is_phantom:
        return ""
    splits = {
        split: sorted(zip(source.ids(), map(int, source.labels()), strict=True))
        for split, source in sorted(dataset.splits.items())
    }
    content = [splits, list(dataset.prepared_size or ()), list(dataset.preprocess)]
    content += [dataset.pixel_bits] if dataset.pixel_bits else []
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def is_same_data(saved: Mapping[str, Any], dataset: Dataset) -> bool:
    """Whether a data set is the one of a ``data.json``, so that no split holds what was trained on.

    Args:
      saved: content of the file; that of a packed run has its "division".
      dataset: opened now.

    Returns:
      Whether it is the same preparation, or at least the same division of the same images.
    """
    if dataset.fingerprint == saved["fingerprint"]:
        return True
    return bool(saved.get("division")) and division(dataset) == saved["division"]


def class_table(dataset: Dataset) -> dict[str, dict[str, dict[str, int]]]:
    """Counts split -> class -> {"images", "groups"}; a group is a patient where they are known."""
    table: dict[str, dict[str, dict[str, int]]] = {}
    for split, source in dataset.splits.items():
        labels, groups = source.labels(), np.asarray(source.groups())
        table[split] = {}
        for k, name in enumerate(dataset.classes):
            inside = labels == k
            distinct = np.unique(groups[inside]).size if groups.size else int(inside.sum())
            table[split][name] = {"images": int(inside.sum()), "groups": distinct}
    return table
