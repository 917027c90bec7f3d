"""Joining names that two people wrote: rows with images, listed ids with those of a source.

What is the same to the letter is joined by the caller. Here the rest is tried, each way only where
one name of the one side meets one of the other, and what was taken is said.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence

from wlsrl_jax.data.text.names import IMAGE_SUFFIXES, folded, number_key, shown

_KEPT = 2**18  # normal forms, for each is asked for several times
Key = Callable[[str], str]


@dataclasses.dataclass(frozen=True)
class Joined:
    """What was joined beyond the letter.

    Attributes:
      found: wanted name -> the name that is there.
      how: way -> wanted names that were found by it.
    """

    found: Mapping[str, str]
    how: Mapping[str, Sequence[str]]

    def sentences(self, what: str) -> list[str]:
        """Says what was taken; ``what`` are the wanted names, such as "rows of labels.csv"."""
        return [
            f"{len(names)} {what} are joined although {way} differs, such as {shown(names[0])} "
            f"with {shown(self.found[names[0]])}."
            for way, names in self.how.items()
        ]


@functools.lru_cache(_KEPT)
def _path(name: str) -> str:
    parts = [part.strip() for part in folded(name.replace("\\", "/")).split("/")]
    return "/".join(part for part in parts if part not in ("", "."))


@functools.lru_cache(_KEPT)
def _no_suffix(name: str) -> str:
    path = _path(name)
    return (path.rpartition(".")[0] if path.endswith(IMAGE_SUFFIXES) else path).strip()


@functools.lru_cache(_KEPT)
def _numbers(name: str) -> str:
    return "/".join(number_key(part) for part in _no_suffix(name).split("/"))


def _endings(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[k:]) for k in range(len(parts))]


def _alike(key: Key, wanted: Sequence[str], there: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that have one normal form."""
    forms = collections.defaultdict(list)
    for name in there:
        forms[key(name)].append(name)
    return [(name, other) for name in wanted for other in forms.get(key(name), ())]


def _one_ends_the_other(
    key: Key, wanted: Sequence[str], there: Sequence[str]
) -> list[tuple[str, str]]:
    """Pairs of which one is the other with more folders in front."""
    whole, ends = collections.defaultdict(list), collections.defaultdict(list)
    for name in there:
        first, *others = _endings(key(name))
        whole[first].append(name)
        for ending in others:
            ends[ending].append(name)
    pairs = []
    for name in wanted:
        first, *others = _endings(key(name))
        pairs += [(name, other) for ending in others for other in whole.get(ending, ())]
        pairs += [(name, other) for other in (*whole.get(first, ()), *ends.get(first, ()))]
    return pairs


def _affixes(names: Sequence[str]) -> tuple[str, str]:
    """What all last parts begin and end with, without a digit at its edge."""
    last = sorted({_no_suffix(name).rsplit("/", 1)[-1] for name in names})
    if len(last) < 2:
        return "", ""
    front = re.sub(r"\d+$", "", os.path.commonprefix(last))
    rest = [name[len(front) :][::-1] for name in last]
    return front, re.sub(r"^\d+", "", os.path.commonprefix(rest)[::-1])


def _without_affixes(wanted: Sequence[str], there: Sequence[str]) -> list[tuple[Key, Key]]:
    """Keys of both sides where one of them has something in front of or behind every name."""
    mine, theirs = _affixes(wanted), _affixes(there)
    front, back = (sorted(pair, key=len) for pair in zip(mine, theirs, strict=True))
    if not (front[1].endswith(front[0]) and back[1].startswith(back[0])):
        return []  # "left_1" is not "right_1", but "OCT_left_1" may be "left_1"

    def key(front: str, back: str) -> Key:
        def cut(name: str) -> str:
            last = _no_suffix(name).rsplit("/", 1)[-1]
            return number_key(last.removeprefix(front).removesuffix(back))

        return cut

    return [(key(*mine), key(*theirs))] if mine != theirs else []


def join_names(
    wanted: Sequence[str],
    there: Sequence[str],
    all_wanted: Sequence[str],
    all_there: Sequence[str],
) -> Joined:
    """Joins names that differ in spelling, folder, suffix, lost zeros or a common prefix.

    Args:
      wanted: names that are not there to the letter.
      there: names that nothing has claimed.
      all_wanted: also those that were joined; what is common to all is taken from them.
      all_there: the same of the other side.

    Returns:
      What was joined. Two wanted names never get one, nor one of two that fit equally well.
    """
    found: dict[str, str] = {}
    how: dict[str, list[str]] = {}

    def take(way: str, pairs: Sequence[tuple[str, str]]) -> None:
        pairs = sorted(set(pairs))
        left = collections.Counter(name for name, _ in pairs)
        right = collections.Counter(other for _, other in pairs)
        taken = {n: o for n, o in pairs if left[n] == 1 and right[o] == 1}
        if taken:
            found.update(taken)
            how[way] = list(taken)

    def rest() -> tuple[list[str], list[str]]:
        used = set(found.values())
        return [n for n in wanted if n not in found], [o for o in there if o not in used]

    wanted = list(dict.fromkeys(n for n in wanted if _no_suffix(n)))
    take("the case, Unicode form or a blank", _alike(_path, *rest()))
    take("the suffix", _alike(_no_suffix, *rest()))
    take("the folder in front", _one_ends_the_other(_no_suffix, *rest()))
    take("the way to write a number (zeros in front)", _alike(_numbers, *rest()))
    take(
        "the folder in front and the way to write a number", _one_ends_the_other(_numbers, *rest())
    )
    for mine, theirs in _without_affixes(all_wanted, all_there):
        left, right = rest()
        forms = collections.defaultdict(list)
        for other in right:
            forms[theirs(other)].append(other)
        take("what all begin or end with", [(n, o) for n in left for o in forms.get(mine(n), ())])
    return Joined(found, how)


def both_sides(
    what: str, wanted: Sequence[str], without: str, there: Sequence[str], counts: tuple[int, int]
) -> str:
    """Counts what found no partner, on each side that has such names, with three examples.

    Args:
      what: the wanted names, such as "rows of labels.csv".
      wanted: those without a partner.
      without: the other side, such as "images".
      there: those without a partner.
      counts: how many there are of both.
    """

    def examples(names: Sequence[str]) -> str:
        some = ", ".join(shown(name) or "an empty one" for name in names[:3])
        return f", such as {some}" if some else ""

    parts = [
        f"{len(names)} of {count} {mine} match none of the {others}{examples(names)}"
        for names, count, mine, others in (
            (wanted, counts[0], what, without),
            (there, counts[1], without, what),
        )
        if names
    ]
    return f"{'; '.join(parts)}."
