"""Groups that must stay together, and splits that keep them so."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence

from wlsrl_jax.files import Mistake

SPLITS = ("train", "validation", "test")
DEFAULT_FRACTIONS: Mapping[str, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}


@dataclasses.dataclass(frozen=True)
class Item:
    """What a split needs to know of one image.

    Attributes:
      id: unique name.
      label: class index.
      patient: patient id, or None where the set has none.
      digest: SHA-256 of the file.
    """

    id: str
    label: int
    patient: str | None
    digest: str


def assign_groups(items: Sequence[Item], same: Iterable[tuple[int, int]] = ()) -> list[str]:
    """Joins images of one patient, and patients who share an image.

    Args:
      items: the images.
      same: pairs of indices of near-identical images; byte-identical ones are seen by digest.

    Returns:
      The group of each: the smallest patient (or image) name in it.
    """
    parent: dict[Hashable, Hashable] = {}

    def find(node: Hashable) -> Hashable:
        root = node
        while parent.setdefault(root, root) != root:
            root = parent[root]
        while parent[node] != root:
            parent[node], node = root, parent[node]
        return root

    def name(item: Item) -> str:
        return item.id if item.patient is None else item.patient

    for item in items:
        parent[find(("digest", item.digest))] = find(("name", name(item)))
    for a, b in same:
        parent[find(("name", name(items[a])))] = find(("name", name(items[b])))
    smallest: dict[Hashable, str] = {}
    for item in items:
        root = find(("name", name(item)))
        smallest[root] = min(smallest.get(root, name(item)), name(item))
    return [smallest[find(("name", name(item)))] for item in items]


def _tie_break(group: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{group}".encode()).hexdigest()


def _targets(total: int, fractions: Mapping[str, float]) -> dict[str, float]:
    """How many groups of a class each split should get."""
    wanted = {s: f * total for s, f in fractions.items()}
    used = [s for s, f in fractions.items() if f > 0]
    if total >= len(used):
        largest = max(used, key=lambda s: fractions[s])
        wanted |= {s: max(1.0, wanted[s]) for s in used if s != largest}
        wanted[largest] = total - sum(v for s, v in wanted.items() if s != largest)
    return wanted


def split_groups(
    labels: Sequence[int],
    groups: Sequence[str],
    *,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    fixed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Divides groups so that every class is spread by ``fractions``, rarest class first.

    Each group, in the order of the rarity of its rarest class (a stable hash breaks
    ties), goes to the split that lacks most groups of that class. A class with as many
    groups as there are splits is aimed at one group at least in each.

    Args:
      labels: class of each image.
      groups: group of each image.
      fractions: split -> share of the groups of every class; they sum to 1.
      seed: another seed is another division.
      fixed: group -> split for groups that stay where they are.

    Returns:
      Group -> split.

    Raises:
      Mistake: if the fractions do not sum to 1.
    """
    if abs(sum(fractions.values()) - 1.0) > 1e-9 or min(fractions.values()) < 0:
        raise Mistake(f"split fractions must be >= 0 and sum to 1, got {dict(fractions)}.")
    classes: dict[str, set[int]] = collections.defaultdict(set)
    for label, group in zip(labels, groups, strict=True):
        classes[group].add(label)
    total = collections.Counter(c for present in classes.values() for c in present)
    target = {c: _targets(n, fractions) for c, n in total.items()}
    result = {g: s for g, s in (fixed or {}).items() if g in classes}
    have = collections.Counter((result[g], c) for g in result for c in classes[g])

    def rarest(group: str) -> int:
        return min(classes[group], key=lambda c: (total[c], c))

    order = sorted(
        (g for g in classes if g not in result),
        key=lambda g: (total[rarest(g)], rarest(g), _tie_break(g, seed)),
    )
    for group in order:
        key = rarest(group)

        def lack(split: str, key: int = key) -> float:
            return target[key][split] - have[split, key]

        result[group] = max(fractions, key=lambda s: (round(lack(s), 9), fractions[s]))
        have.update((result[group], c) for c in classes[group])
    return result


def stay_where_they_were(
    ids: Sequence[str], groups: Sequence[str], previous: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Carries an earlier division over to a data set that has grown.

    Args:
      ids: name of each image.
      groups: group of each image, of the grown set.
      previous: image -> split of the earlier division.

    Returns:
      (group -> split for groups known before, new images that would join groups of
      different splits; leave those out).
    """
    seen: dict[str, set[str]] = collections.defaultdict(set)
    for name, group in zip(ids, groups, strict=True):
        if name in previous:
            seen[group].add(previous[name])
    fixed = {group: min(splits) for group, splits in seen.items() if len(splits) == 1}
    torn = {group for group, splits in seen.items() if len(splits) > 1}
    left_out = [n for n, g in zip(ids, groups, strict=True) if g in torn and n not in previous]
    return fixed, left_out


def missing_classes(
    labels: Iterable[int], splits: Iterable[str], classes: Sequence[str]
) -> dict[str, list[str]]:
    """Names the classes that a split lacks.

    Args:
      labels: class of each image.
      splits: split of each image.
      classes: class names.

    Returns:
      Class name -> splits without it; empty when every split has every class.
    """
    present = set(zip(splits, labels, strict=True))
    lacking = {
        name: [s for s in SPLITS if (s, label) not in present] for label, name in enumerate(classes)
    }
    return {name: where for name, where in lacking.items() if where}
