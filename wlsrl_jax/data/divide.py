"""Every image into a group and a split, and into a split of every fold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from wlsrl_jax.data.builders.common import DatasetSpec, Problem
from wlsrl_jax.data.near_duplicates import Pair
from wlsrl_jax.data.source_images import SourceImage
from wlsrl_jax.data.splits import (
    DEFAULT_FRACTIONS,
    Item,
    assign_groups,
    missing_classes,
    split_groups,
    stay_where_they_were,
)


@dataclasses.dataclass(frozen=True)
class Division:
    """How to divide.

    Attributes:
      mode: "grouped", or "official" for the publisher's test set.
      seed: another seed is another division.
      folds: of a cross-validation: each group is in test once; 0 for none.
      repeats: of a repeated hold-out: so many more divisions, by other seeds; 0 for none.
      allow_missing_classes: go on although a split lacks a class.
    """

    mode: str = "grouped"
    seed: int = 0
    folds: int = 0
    repeats: int = 0
    allow_missing_classes: bool = False

    @property
    def columns(self) -> int:
        """Number of divisions besides the main one."""
        return self.folds or self.repeats


@dataclasses.dataclass(frozen=True)
class _Grouped:
    """Labels and groups of all images, and where they were before."""

    ids: Sequence[str]
    labels: Sequence[int]
    groups: Sequence[str]
    previous: Mapping[str, tuple[str, ...]]

    def fixed(self, column: int) -> tuple[dict[str, str], list[str]]:
        """(group -> split that must stay, images that would join two splits)."""
        known = {name: where[column] for name, where in self.previous.items()}
        return stay_where_they_were(self.ids, self.groups, known)

    def split(self, column: int, seed: int, fractions: Mapping[str, float]) -> list[str]:
        """Divides all groups."""
        where = split_groups(
            self.labels, self.groups, fractions=fractions, seed=seed, fixed=self.fixed(column)[0]
        )
        return [where[g] for g in self.groups]

    def around(self, column: int, seed: int, is_test: Sequence[bool], share: float) -> list[str]:
        """Divides what is not test into training and validation, a share of it."""
        rest = [k for k, test in enumerate(is_test) if not test]
        where = split_groups(
            [self.labels[k] for k in rest],
            [self.groups[k] for k in rest],
            fractions={"train": 1.0 - share, "validation": share},
            seed=seed,
            fixed={g: s for g, s in self.fixed(column)[0].items() if s != "test"},
        )
        return ["test" if t else where[g] for t, g in zip(is_test, self.groups, strict=True)]


def divide(
    spec: DatasetSpec,
    images: Sequence[SourceImage],
    how: Division,
    *,
    pairs: Sequence[Pair] = (),
    previous: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[list[SourceImage], list[Problem], dict[str, list[str]]]:
    """Puts every image into a group, a split, and a split of every fold.

    Args:
      spec: the data set.
      images: of the source.
      how: the division.
      pairs: near-identical images, which come into one group.
      previous: image -> splits of an earlier division that must stay.

    Returns:
      (images with group, split and folds; images left out, for they would join groups of
      different splits; class -> splits without it).

    Raises:
      ValueError: if a split would lack a class, or the flags contradict the data.
    """
    previous = previous or {}
    has = {len(where) - 1 for where in previous.values()}
    if len(has) > 1:
        raise ValueError("--split_file names another number of folds for some images.")
    if previous and has == {0} and how.columns:
        previous_folds: Mapping[str, tuple[str, ...]] = {}
    elif previous and how.columns and has != {how.columns}:
        raise ValueError(
            f"--split_file has {has.pop()} folds; ask for as many with --folds or --repeats."
        )
    else:
        previous_folds = previous
    items = [Item(i.record.id, i.record.label, i.record.patient, i.sha256) for i in images]
    groups = assign_groups(items, [(p.first, p.second) for p in pairs])
    ids, labels = [i.id for i in items], [i.label for i in items]
    main = _Grouped(ids, labels, groups, previous)
    folded = _Grouped(ids, labels, groups, previous_folds)
    drawn = [_main_split(spec, images, main, how)]
    drawn += _folds(folded, how)
    torn = set(main.fixed(0)[1])
    for column in range(1, len(drawn)):
        torn |= set(folded.fixed(column)[1])
    kept = []
    for k, image in enumerate(images):
        name = image.record.id
        if name in torn:
            continue
        where = [column[k] for column in drawn]
        where[0] = previous[name][0] if name in previous else where[0]
        if name in previous_folds and how.columns:
            where[1:] = previous_folds[name][1:]
        kept.append(
            dataclasses.replace(image, group=groups[k], split=where[0], folds=tuple(where[1:]))
        )
    left_out = [
        Problem(i.record.path, "left out: it would join groups of different splits")
        for i in images
        if i.record.id in torn
    ]
    return kept, left_out, _check_classes(spec, kept, how)


def _main_split(
    spec: DatasetSpec, images: Sequence[SourceImage], all_: _Grouped, how: Division
) -> list[str]:
    if how.mode != "official":
        return all_.split(0, how.seed, DEFAULT_FRACTIONS)
    if not any(i.record.official for i in images):
        raise ValueError(f"{spec.name} has no official split; use --split=grouped.")
    if how.columns:
        raise ValueError("--folds and --repeats divide anew; use them with --split=grouped.")
    is_test = [i.record.official == "test" for i in images]
    moved = [
        name
        for name, test in zip(all_.ids, is_test, strict=True)
        if name in all_.previous and (all_.previous[name][0] == "test") != test
    ]
    if moved:
        raise ValueError(
            f"--split_file and --split=official disagree on the test set: {len(moved)} images, "
            f"such as {moved[0]}. Use one of them."
        )
    share = DEFAULT_FRACTIONS["validation"] / (1.0 - DEFAULT_FRACTIONS["test"])
    return all_.around(0, how.seed, is_test, share)


def _folds(all_: _Grouped, how: Division) -> list[list[str]]:
    if how.repeats:
        return [all_.split(1 + k, how.seed + 1 + k, DEFAULT_FRACTIONS) for k in range(how.repeats)]
    if not how.folds:
        return []
    fixed = {
        group: str(k)
        for k in range(how.folds)
        for group, split in all_.fixed(1 + k)[0].items()
        if split == "test"
    }
    equal = {str(k): 1.0 / how.folds for k in range(how.folds)}
    fold_of = split_groups(all_.labels, all_.groups, fractions=equal, seed=how.seed, fixed=fixed)
    share = min(0.5, DEFAULT_FRACTIONS["validation"] / (1.0 - 1.0 / how.folds))
    return [
        all_.around(1 + k, how.seed, [fold_of[g] == str(k) for g in all_.groups], share)
        for k in range(how.folds)
    ]


def _check_classes(
    spec: DatasetSpec, images: Sequence[SourceImage], how: Division
) -> dict[str, list[str]]:
    labels = [i.record.label for i in images]
    lacking = missing_classes(labels, [i.split for i in images], spec.classes)
    text = [f"  class {c} is missing in {', '.join(s)}" for c, s in lacking.items()]
    for k in range(how.columns):
        found = missing_classes(labels, [i.folds[k] for i in images], spec.classes)
        text += [f"  fold {k}: class {c} is missing in {', '.join(s)}" for c, s in found.items()]
    if text and not how.allow_missing_classes:
        raise ValueError(
            "Not every class is in every split:\n"
            + "\n".join(text)
            + "\nAdd images of at least three patients of each class"
            + (", take fewer --folds," if how.folds else "")
            + " or go on with --allow_missing_classes."
        )
    return lacking
