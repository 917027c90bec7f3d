"""Pairs of pictures that show the same scan, though their files differ.

Two steps: perceptual hashes that differ in few bits choose candidates, and the correlation of the
band-passed pictures, at the shift where it is highest, decides. The thresholds, ``near_bits`` and
``near_correlation`` of a modality, were set by eye on
OCTDL (1,645 scans), APTOS (760) and EyePACS (894 photographs): on OCTDL every pair at or
above 0.85 is the same eye, saved again, cropped or shifted; below it scans of different eyes
appear. Photographs resemble each other more: the same one is at 0.998, the next pair at 0.94.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from wlsrl_jax.data.audit.inspect import SourceImage, progress
from wlsrl_jax.runtime.threads import ordered_map
from wlsrl_jax.tasks import MODALITIES

_MARGIN = 6  # pixels of the texture by which pictures may be shifted against each other
_BLOCK_ENTRIES = 2**25  # of the comparison matrix at a time: 128 MiB


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images that show the same.

    Attributes:
      first: index of one image.
      second: index of the other, larger.
      correlation: of their textures, at most 1.
    """

    first: int
    second: int
    correlation: float


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """Highest normalised correlation of two textures over small shifts, symmetric.

    Args:
      a: uint8 ``[S, S]``.
      b: uint8 ``[S, S]``.

    Returns:
      A number in [-1, 1]; 0 for pictures without texture.
    """
    inner = (slice(_MARGIN, -_MARGIN),) * 2
    if min(a[inner].std(), b[inner].std()) < 1e-3:
        return 0.0
    return float(
        max(
            cv2.matchTemplate(a, b[inner], cv2.TM_CCOEFF_NORMED).max(),
            cv2.matchTemplate(b, a[inner], cv2.TM_CCOEFF_NORMED).max(),
        )
    )


def find_pairs(
    images: Sequence[SourceImage], modality: str, workers: int | None = None
) -> list[Pair]:
    """Finds near-identical pictures of different patients or different classes.

    Pairs of one patient and one class are left out: they are in one group anyway. So are
    byte-identical files, of which one stands for all. All pairs of hashes are compared, as
    matrix products, in blocks of bounded memory.

    Args:
      images: of the source.
      modality: a name in ``tasks.MODALITIES``.
      workers: threads that compare; None is one a core.

    Returns:
      The pairs, the most similar first.
    """
    kind = MODALITIES[modality]
    first_of: dict[str, int] = {}
    for k, image in enumerate(images):
        first_of.setdefault(image.sha256, k)
    chosen = np.asarray(list(first_of.values()), np.int64)
    if len(chosen) < 2:
        return []
    bits = np.stack([images[k].look.bits for k in chosen])
    signs = np.where(bits, np.float32(1), np.float32(-1))
    codes = _codes([(images[k].subject, images[k].record.label) for k in chosen])
    least = signs.shape[1] - 2 * kind.near_bits  # the product of hashes with d differing bits
    rows = max(1, _BLOCK_ENTRIES // len(chosen))

    def compare(pair: tuple[int, int]) -> float:
        a, b = (images[chosen[k]].look.texture for k in pair)
        return similarity(a, b)

    found = []
    starts = range(0, len(chosen), rows)
    for start in progress(starts, "comparing", len(starts)):
        near = signs[start : start + rows] @ signs[start:].T >= least
        # Of two dimensions at once, NumPy looks for them fifteen times more slowly.
        i, j = np.divmod(np.flatnonzero(near), near.shape[1])
        i, j = i + start, j + start
        keep = (j > i) & (codes[i] != codes[j])
        candidates = list(zip(i[keep].tolist(), j[keep].tolist(), strict=True))
        for (a, b), value in zip(
            candidates, ordered_map(compare, candidates, workers), strict=True
        ):
            if value >= kind.near_correlation:
                found.append(Pair(int(chosen[a]), int(chosen[b]), round(value, 4)))
    return sorted(found, key=lambda p: (-p.correlation, p.first, p.second))


def reindexed(
    pairs: Sequence[Pair], before: Sequence[SourceImage], after: Sequence[SourceImage]
) -> list[Pair]:
    """Pairs of the same images in a list of another order, without those that it lacks.

    Args:
      pairs: of ``before``.
      before: the images as they were compared.
      after: some of them, in any order.

    Returns:
      Pairs of ``after``, in the order of ``pairs``.
    """
    place = {image.record.id: k for k, image in enumerate(after)}
    ends = [
        (place.get(before[p.first].record.id), place.get(before[p.second].record.id), p)
        for p in pairs
    ]
    return [
        Pair(min(a, b), max(a, b), p.correlation)
        for a, b, p in ends
        if a is not None and b is not None
    ]


def _codes(values: Sequence[tuple[str, int]]) -> np.ndarray:
    numbers: dict[tuple[str, int], int] = {}
    return np.asarray([numbers.setdefault(value, len(numbers)) for value in values])
