"""What an audit of a data set finds, as numbers and lists of images."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wlsrl_jax.data.audit.inspect import SourceImage
from wlsrl_jax.data.audit.near_duplicates import Pair
from wlsrl_jax.data.images.quality import FLAWS
from wlsrl_jax.tasks import MODALITIES

_UNUSUAL_AREA = 8.0  # times larger or smaller than the median
ODDITIES = {
    **FLAWS,
    "modality": "does not look like the modality of the set",
    "size": "area more than 8 times the median, or less than an eighth",
}
Key = Callable[[SourceImage], Any]
_KEYS: Mapping[str, Key] = {
    "patients": lambda i: i.subject,
    "classes": lambda i: i.record.label,
    "splits": lambda i: i.split,
    "official_splits": lambda i: i.record.official,
}


def identical_sets(images: Sequence[SourceImage]) -> list[list[int]]:
    """Indices of images whose files are the same byte by byte, a list a set."""
    same: dict[str, list[int]] = collections.defaultdict(list)
    for k, image in enumerate(images):
        same[image.sha256].append(k)
    return [members for members in same.values() if len(members) > 1]


def _across(images: Sequence[SourceImage], sets: Sequence[Sequence[int]]) -> dict[str, int]:
    """How many sets hold images of several patients, classes, ..."""
    return {
        name: sum(len({key(images[k]) for k in members}) > 1 for members in sets)
        for name, key in _KEYS.items()
    }


def audit(
    images: Sequence[SourceImage], pairs: Sequence[Pair] | None, modality: str
) -> dict[str, Any]:
    """Counts what a reviewer asks for.

    Args:
      images: of the source; divided, or not yet.
      pairs: near-identical images; None where they were not looked for.
      modality: a name in ``tasks.MODALITIES``.

    Returns:
      Counts and lists of ids, for the manifest: "identical_sets" and how many of them are across
      patients and classes; "near_identical" with its rule, counts and pairs; patients of several
      official splits; groups in several splits; odd images by kind; "sizes".
    """
    sets = identical_sets(images)
    across = _across(images, sets)
    split_of, official = collections.defaultdict(set), collections.defaultdict(set)
    for image in images:
        split_of[image.group].add(image.split)
        official[image.subject].add(image.record.official)
    found: dict[str, Any] = {
        "identical_sets": len(sets),
        "identical_sets_across_patients": across["patients"],
        "identical_sets_across_classes": across["classes"],
        "identical_sets_across_official_splits": across["official_splits"],
        "groups_in_several_splits": sorted(g for g, s in split_of.items() if len(s) > 1),
        "has_patient_ids": all(i.record.patient is not None for i in images),
        "patients_in_several_official_splits": sorted(p for p, s in official.items() if len(s) > 1),
        "odd": odd_images(images),
        "sizes": sizes(images),
    }
    if pairs is not None:
        found["near_identical"] = {
            "rule": {
                "hash_bits": MODALITIES[modality].near_bits,
                "correlation": MODALITIES[modality].near_correlation,
            },
            "pairs": len(pairs),
            **{
                f"across_{name}": count
                for name, count in _across(images, [(p.first, p.second) for p in pairs]).items()
            },
            "list": [
                [images[p.first].record.id, images[p.second].record.id, p.correlation]
                for p in pairs
            ],
        }
    return found


def sizes(images: Sequence[SourceImage]) -> dict[str, list[int]]:
    """[height, width] in pixels of the smallest, the median and the largest image by area."""
    order = sorted((i.look.height * i.look.width, i.look.height, i.look.width) for i in images)
    chosen = {"smallest": order[0], "median": order[len(order) // 2], "largest": order[-1]}
    return {name: [height, width] for name, (_, height, width) in chosen.items()}


def odd_images(images: Sequence[SourceImage]) -> dict[str, list[str]]:
    """Kind of oddity -> ids of the images; see ``ODDITIES``."""
    found: dict[str, list[str]] = {name: [] for name in ODDITIES}
    area = np.asarray([i.look.height * i.look.width for i in images], np.float64)
    ratio = area / np.median(area)
    for image, r in zip(images, ratio, strict=True):
        for name in image.look.oddities:
            found[name].append(image.record.id)
        if not 1 / _UNUSUAL_AREA <= r <= _UNUSUAL_AREA:
            found["size"].append(image.record.id)
    return {name: sorted(ids) for name, ids in found.items() if ids}


def sentences(found: Mapping[str, Any], *, show_ids: bool = True) -> list[str]:
    """The findings as text, a sentence each; empty findings say nothing.

    Args:
      found: from ``audit``.
      show_ids: name images and patients.

    Returns:
      Sentences for the terminal and the page.
    """
    text = []

    def some(names: Sequence[str], most: int = 10) -> str:
        return f": {', '.join(names[:most])}{', ...' if len(names) > most else ''}" * show_ids

    def where(patients: int, classes: int) -> str:
        known = (
            f"{patients} of them under several patient ids, " if found["has_patient_ids"] else ""
        )
        return f"{known}{classes} under several classes"

    if found["identical_sets"]:
        across = [found[f"identical_sets_across_{key}"] for key in ("patients", "classes")]
        text.append(f"byte-identical images: {found['identical_sets']} sets, {where(*across)}")
    near = found.get("near_identical")
    if near and near["pairs"]:
        across = [near[f"across_{key}"] for key in ("patients", "classes")]
        text.append(f"near-identical images: {near['pairs']} pairs, {where(*across)}")
    official = found["patients_in_several_official_splits"]
    if official and found["has_patient_ids"]:
        text.append(
            f"{len(official)} patients are in several of the publisher's splits{some(official)}"
        )
    if found["identical_sets_across_official_splits"]:
        text.append(
            f"{found['identical_sets_across_official_splits']} sets of byte-identical images are "
            "in several of the publisher's splits"
        )
    for kind, ids in found["odd"].items():
        text.append(f"{len(ids)} images, {ODDITIES[kind]}{some(ids)}")
    if not found["has_patient_ids"]:
        text.append(
            "This set names no patients: that no patient is in two splits cannot be "
            "verified, only that no identical image is."
        )
    crossing = found["groups_in_several_splits"]
    if crossing:
        text.append(
            f"WARNING: {len(crossing)} groups (patients) are in several splits{some(crossing)}"
        )
    return text
