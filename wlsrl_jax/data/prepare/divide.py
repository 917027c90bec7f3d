"""Every image into a group and a split, and into a split of every fold."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence

from wlsrl_jax.data.audit.inspect import SourceImage
from wlsrl_jax.data.audit.near_duplicates import Pair
from wlsrl_jax.data.prepare.groups import (
    DEFAULT_FRACTIONS,
    SPLITS,
    Item,
    assign_groups,
    missing_classes,
    split_groups,
    stay_where_they_were,
)
from wlsrl_jax.data.published.common import DatasetSpec, Problem
from wlsrl_jax.files import Mistake, some


@dataclasses.dataclass(frozen=True)
class Division:
    """How to divide.

    Attributes:
      mode: "grouped"; "official" for the publisher's test set; "own" for the user's own division,
        obeyed to the image.
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
class _Column:
    """One division of all images: labels, groups, and what an earlier one says of it.

    Attributes:
      labels: class of each image.
      groups: group of each image.
      previous: image -> split of the earlier division.
      fixed: group -> split that must stay.
      torn: images that would join groups of different splits.
    """

    labels: Sequence[int]
    groups: Sequence[str]
    previous: Mapping[str, str]
    fixed: Mapping[str, str]
    torn: Sequence[str]

    def split(self, seed: int, fractions: Mapping[str, float]) -> list[str]:
        """Divides all groups."""
        where = split_groups(
            self.labels, self.groups, fractions=fractions, seed=seed, fixed=self.fixed
        )
        return [where[g] for g in self.groups]

    def around(self, seed: int, is_test: Sequence[bool], share: float) -> list[str]:
        """Divides what is not test into training and validation, a share of it."""
        rest = [k for k, test in enumerate(is_test) if not test]
        where = split_groups(
            [self.labels[k] for k in rest],
            [self.groups[k] for k in rest],
            fractions={"train": 1.0 - share, "validation": share},
            seed=seed,
            fixed={g: s for g, s in self.fixed.items() if s != "test"},
        )
        return ["test" if t else where[g] for t, g in zip(is_test, self.groups, strict=True)]


def _columns(
    images: Sequence[SourceImage],
    groups: Sequence[str],
    previous: Mapping[str, tuple[str, ...]],
    how: Division,
) -> list[_Column]:
    """The main division, then those of the folds.

    Raises:
      Mistake: if the earlier division has another number of folds.
    """
    has = {len(where) - 1 for where in previous.values()}
    if len(has) > 1:
        raise Mistake("--split_file names another number of folds for some images.")
    known = has.pop() if has else 0
    if known and how.columns and known != how.columns:
        raise Mistake(f"--split_file has {known} folds; ask for as many with --folds or --repeats.")
    ids, labels = [i.record.id for i in images], [i.record.label for i in images]
    found = []
    for column in range(1 + how.columns):
        before = {n: where[column] for n, where in previous.items() if column <= known}
        found.append(_Column(labels, groups, before, *stay_where_they_were(ids, groups, before)))
    return found


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
      Mistake: if a split would lack a class, or the flags contradict the data.
    """
    items = [
        # Pages of one file stay together, whether its patient is known or not.
        Item(i.record.id, i.record.label, i.subject if i.record.frame else i.record.patient,
             i.sha256)
        for i in images
    ]  # fmt: skip
    groups = assign_groups(items, [(p.first, p.second) for p in pairs])
    main, *folds = columns = _columns(images, groups, previous or {}, how)
    drawn = [_main_split(spec, images, main, how), *_folds(folds, how)]
    torn = {name for column in columns for name in column.torn}
    if how.mode == "own":  # whoever made it said where each image is
        torn = set()
    kept = []
    for image, group, *where in zip(images, groups, *drawn, strict=True):
        name = image.record.id
        if name not in torn:
            split, *others = (
                column.previous.get(name, new) for column, new in zip(columns, where, strict=True)
            )
            kept.append(dataclasses.replace(image, group=group, split=split, folds=tuple(others)))
    left_out = [
        Problem(i.record.path, "left out: it would join groups of different splits")
        for i in images
        if i.record.id in torn
    ]
    return kept, left_out, _check_classes(spec, kept, how)


def _main_split(
    spec: DatasetSpec, images: Sequence[SourceImage], column: _Column, how: Division
) -> list[str]:
    if how.mode == "grouped":
        return column.split(how.seed, DEFAULT_FRACTIONS)
    if not any(i.record.official for i in images):
        raise Mistake(f"{spec.name} has no official split; use --split=grouped.")
    if how.columns:
        raise Mistake("--folds and --repeats divide anew; use them with --split=grouped.")
    wanted = [i.record.official for i in images]
    obeyed = has_own_validation(images) if how.mode == "own" else False
    before = [column.previous.get(i.record.id) for i in images]

    def differ(split: str, official: str) -> bool:
        return split != official if obeyed else (split == "test") != (official == "test")

    moved = [
        image.record.id
        for image, split, official in zip(images, before, wanted, strict=True)
        if split is not None and differ(split, official)
    ]
    if moved:
        own = "the set's own division" if how.mode == "own" else "--split=official"
        raise Mistake(
            f"--split_file and {own} disagree on the test set: {len(moved)} images, "
            f"such as {moved[0]}. Use one of them."
            + (" --split=grouped follows the file." if how.mode == "own" else "")
        )
    if obeyed:
        return wanted
    share = DEFAULT_FRACTIONS["validation"] / (1.0 - DEFAULT_FRACTIONS["test"])
    return column.around(how.seed, [official == "test" for official in wanted], share)


def has_own_validation(images: Sequence[SourceImage]) -> bool:
    """Whether a set's own division names images of validation."""
    return any(i.record.official == "validation" for i in images)


def choose_mode(
    asked: str, images: Sequence[SourceImage], *, is_own: bool, columns: int
) -> tuple[str, list[str]]:
    """Decides whose division is followed.

    Args:
      asked: "grouped", "official", or "" where nothing is asked for.
      images: of the source.
      is_own: whether the set is the user's own, which says where each image is.
      columns: of folds or repeats.

    Returns:
      (the mode of ``Division``, sentences).

    Raises:
      Mistake: if folds are asked for of a set that is divided already.
    """
    parts = collections.Counter(i.record.official for i in images if i.record.official)
    text = ", ".join(f"{name} {parts[name]}" for name in SPLITS if parts[name])
    if not is_own:
        if asked == "official" and parts["validation"]:
            return asked, [
                f"--split=official takes the published test set; the {parts['validation']} "
                "published images of validation are divided anew, with those of training."
            ]
        return asked or "grouped", []
    if not parts or asked == "grouped":
        given = f"your own division ({text}) is not followed: --split=grouped." if parts else ""
        return asked or "grouped", [given] if given else []
    if columns and not asked:
        raise Mistake(
            f"--folds and --repeats divide anew, and this set has a division of its own ({text}); "
            "add --split=grouped to set that aside."
        )
    drawn = "" if parts["validation"] else "; it names no validation, which is drawn from training"
    return "own", [f"your own division is followed: {text}{drawn}."]


def _folds(columns: Sequence[_Column], how: Division) -> list[list[str]]:
    if how.repeats:
        return [c.split(how.seed + k, DEFAULT_FRACTIONS) for k, c in enumerate(columns, start=1)]
    if not how.folds:
        return []
    fixed = {
        group: str(k)
        for k, column in enumerate(columns)
        for group, split in column.fixed.items()
        if split == "test"
    }
    labels, groups = columns[0].labels, columns[0].groups
    equal = {str(k): 1.0 / how.folds for k in range(how.folds)}
    fold_of = split_groups(labels, groups, fractions=equal, seed=how.seed, fixed=fixed)
    share = min(0.5, DEFAULT_FRACTIONS["validation"] / (1.0 - 1.0 / how.folds))
    return [
        column.around(how.seed, [fold_of[g] == str(k) for g in groups], share)
        for k, column in enumerate(columns)
    ]


def _few_groups(spec: DatasetSpec, images: Sequence[SourceImage], name: str) -> str:
    """Why a class that has images cannot be in every split, or ""."""
    label = spec.classes.index(name)
    found = [image.group for image in images if image.record.label == label]
    groups = len(set(found))
    if not found or groups > 2 or groups == len(found):
        return ""
    return (
        f": its {len(found)} images are {groups} {'group' if groups == 1 else 'groups'}, of the "
        "same patient or of identical or near-identical pictures, which are never divided"
    )


def _check_classes(
    spec: DatasetSpec, images: Sequence[SourceImage], how: Division
) -> dict[str, list[str]]:
    labels = [i.record.label for i in images]
    lacking = missing_classes(labels, [i.split for i in images], spec.classes)
    text = [
        f"  class {c} is missing in {', '.join(s)}{_few_groups(spec, images, c)}"
        for c, s in lacking.items()
    ]
    for k in range(how.columns):
        found = missing_classes(labels, [i.folds[k] for i in images], spec.classes)
        text += [f"  fold {k}: class {c} is missing in {', '.join(s)}" for c, s in found.items()]
    if text and not how.allow_missing_classes:
        raise Mistake(
            "Not every class is in every split:\n"
            + "\n".join(some(text))
            + "\nAdd images of at least three patients of each class"
            + (", take fewer --folds," if how.folds else "")
            + " or go on with --allow_missing_classes."
        )
    return lacking
