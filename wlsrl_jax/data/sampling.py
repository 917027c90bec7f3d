"""How often each class is shown in training, and in which order: ``config.data.sampling``.

An epoch stays as long as the training split. Class c with n_c of its images is shown in
proportion to n_c^p: as often as it occurs (p = 1), by the square root, or all classes equally.
"""

from __future__ import annotations

import grain
import numpy as np

from wlsrl_jax.files import Mistake

POWERS = {"natural": 1.0, "sqrt": 0.5, "balanced": 0.0}
"""Exponent p of each way to sample."""


def epoch_counts(counts: np.ndarray, sampling: str) -> np.ndarray:
    """Number of times that an epoch shows each class.

    Args:
      counts: ``[K]`` images of each class in the training split.
      sampling: one of ``POWERS``.

    Returns:
      ``[K]`` int64 with the sum of ``counts``: the shares n_c^p / sum n^p of it, rounded by
      largest remainder. A class with images is shown at least once, one without never.

    Raises:
      Mistake: for an unknown sampling.

    Examples:
      >>> epoch_counts(np.array([81, 0, 16, 3]), "balanced").tolist()
      [34, 0, 33, 33]
    """
    if sampling not in POWERS:
        raise Mistake(f"config.data.sampling={sampling!r}; choose one of {', '.join(POWERS)}.")
    n = np.asarray(counts, np.int64)
    if sampling == "natural" or not n.any():
        return n
    raw = np.where(n > 0, n.astype(np.float64) ** POWERS[sampling], 0.0)
    exact = n.sum() * raw / raw.sum()
    whole = np.floor(exact).astype(np.int64)
    remainder = np.where(n > 0, exact - whole, -1.0)
    whole[np.argsort(-remainder, kind="stable")[: n.sum() - whole.sum()]] += 1
    return whole


def epoch_labels(labels: np.ndarray, sampling: str) -> np.ndarray:
    """Labels of what an epoch shows, in no order: from them follow the class weights.

    Args:
      labels: ``[N]`` labels of the training split.
      sampling: one of ``POWERS``.

    Returns:
      ``[N]`` integers; ``labels`` themselves for "natural".

    Raises:
      Mistake: for an unknown sampling, or if an image without a label would be left out.
    """
    if sampling == "natural":
        return labels
    counts = epoch_counts(_count(labels, sampling), sampling)
    return np.repeat(np.arange(counts.size), counts)


def _count(labels: np.ndarray, sampling: str) -> np.ndarray:
    missing = int((labels < 0).sum())
    if missing:
        raise Mistake(
            f"config.data.sampling={sampling!r} needs the class of every training image, and "
            f"{missing} have none; use natural."
        )
    return np.bincount(labels)


class _ClassOrder(grain.transforms.DatasetSelectionMap):
    """Position in the stream -> (class, how many of the class came before).

    The same slots of every epoch belong to a class, spread evenly with jitter, so that every
    batch has nearly the epoch's proportions. Without jitter they would recur with a fixed period,
    and a micro-batch of every A-th row could hold a single class.
    """

    def __init__(self, counts: np.ndarray, seed: int) -> None:
        self._counts = counts
        classes = np.repeat(np.arange(counts.size), counts)
        ranks = np.concatenate([np.arange(c) for c in counts])
        jitter = np.random.default_rng(seed).random(classes.size)
        order = np.argsort((ranks + jitter) / counts[classes], kind="stable")
        self._classes, self._ranks = classes[order], ranks[order]

    def __len__(self) -> int:
        return self._classes.size

    def __getitem__(self, index: int) -> tuple[int, int]:
        epoch, slot = divmod(index, self._classes.size)
        k = int(self._classes[slot])
        return k, epoch * int(self._counts[k]) + int(self._ranks[slot])


def sampled_indices(labels: np.ndarray, sampling: str, seed: int) -> grain.MapDataset:
    """Which training image is shown at each position of the stream.

    The images of a class are gone through in a permutation, then in another, whatever the
    epoch's borders, so that no image of it is shown twice more often than any other.

    Args:
      labels: ``[N]`` labels of the training split.
      sampling: "sqrt" or "balanced"; the order of "natural" is a permutation of all images.
      seed: of the order.

    Returns:
      Random-access integers in ``[0, N)``; N an epoch, positions beyond belong to later epochs.

    Raises:
      Mistake: for an unknown sampling, or if an image without a label would be left out.
    """
    counts = epoch_counts(_count(labels, sampling), sampling)
    present = np.flatnonzero(counts)
    seeds = np.random.SeedSequence(seed).generate_state(present.size + 1)
    members = [
        grain.MapDataset.source(np.flatnonzero(labels == k)).shuffle(seed=int(s))
        for k, s in zip(present, seeds[1:], strict=True)
    ]
    order = _ClassOrder(counts[present], int(seeds[0]))
    return grain.MapDataset.select_from_datasets(members, order)
