"""Whether a picture can be graded at all: blank, too dark, over-exposed, noise or text.

A coarse check of the whole picture, for a network gives such a thing a diagnosis as readily as an
eye. It does not judge how good a photograph is. Blank, dark and over-exposed pictures are known by
their grey levels; noise and text by logistic regressions on measures of its texture, fitted for
each modality by ``experiments/benchmarks/quality_check.py --fit``, which also measures how often
real images are refused and such pictures found.
"""

from __future__ import annotations

import cv2
import numpy as np

from wlsrl_jax.data.images.pixels import black_border
from wlsrl_jax.tasks import MODALITIES

SIDE = 128  # pixels of the longer side that is looked at
_BLOCK = 8  # pixels of SIDE
_BLANK = 4.0  # standard deviation of grey levels below which nothing can be seen
_PLAIN, _PLAIN_SHARE = 1.0, 0.6  # of blocks that are not black: a blank picture in a frame
_DARK = {"oct": 32.0, "fundus": 21.0}  # level that 99 of 100 pixels are below
_WHITE, _WHITE_SHARE = 248.0, 0.5  # of pixels
_BLACK, _BLACK_BLOCK = 12.0, 24.0  # grey levels below which a pixel, a block is outside the field
_SURE = 1.0  # logit of noise or text from which a picture is refused
MEASURES = ("fine", "octave0", "octave1", "octave2", "direction1", "direction2", "sparse",
            "far_across", "far_down", "commonest", "black", "two_levels", "median", "uneven",
            "rows", "columns", "corners", "colour", "red", "blue", "channels")  # fmt: skip
"""Names of ``measures``; the last four are of colour, which a B-scan has not."""
_WEIGHTS: dict[str, dict[str, tuple[float, ...]]] = {
    "oct": {
        "noise": (-0.75, 1.41, 1.0, 2.06, -3.32, -2.72, 4.12, -2.67, 3.24, 4.33, 8.56, 9.78, 12.91,
                  -4.48, -1.58, 2.43, 2.83, 0, 0, 0, 0, -4.52),
        "text": (-0.7, 5.56, 4.39, 3.44, -0.34, -3.35, 7.31, 3.84, -4.88, 18.18, 3.01, 11.58, 8.33,
                 0.68, -1.6, 1.05, 1.15, 0, 0, 0, 0, -17.14),
    },
    "fundus": {
        "noise": (4.31, -1.04, -7.97, 2.04, -1.88, 0.48, 3.11, 0.61, -2.18, 14.47, 15.11, 11.11,
                  6.31, -11.06, -3.83, -3.73, 5.06, -7.93, -7.62, -6.47, -8.64, 1.94),
        "text": (3.34, 5.21, 4.1, 3.47, 2.64, -0.42, 4.49, 2.61, 1.29, 8.89, 10.58, 10.72, 3.91,
                 -0.72, -2.66, -2.42, 2.44, -2.46, -2.94, -3.44, -2.22, -9.6),
    },
}  # fmt: skip
"""Weights of the measures, and the bias."""
FLAWS = {
    "blank": "nothing can be seen in it (blank, or all of one colour)",
    "dark": "nearly black",
    "saturated": "more than half of it is white (over-exposed, or a page)",
    "noise": "looks like noise",
    "text": "looks like text or a drawing",
}
"""Name -> what is wrong with a picture."""


def thumbnail(image: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The picture as it is looked at: float32 ``[h, w, 3]``, the longer side ``side`` pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(16, round(width * scale)), max(16, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=method).astype(np.float32)


def _blocks(grey: np.ndarray) -> np.ndarray:
    """``[N, 64]`` pixels of the blocks."""
    rows, columns = (side // _BLOCK for side in grey.shape)
    whole = grey[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
    return whole.transpose(0, 2, 1, 3).reshape(rows * columns, -1)


def _percentiles(grey: np.ndarray, *shares: int) -> list[float]:
    """Grey levels that so many of a hundred pixels are below; not interpolated, which is slow."""
    places = [share * (grey.size - 1) // 100 for share in shares]
    ordered = np.partition(grey.ravel(), places)
    return [float(ordered[place]) for place in places]


def measures(small: np.ndarray) -> np.ndarray:
    """The texture of a thumbnail in numbers, none of which changes with brightness or contrast.

    Args:
      small: of ``thumbnail``.

    Returns:
      float64 ``[len(MEASURES)]``.
    """
    red, green, blue = cv2.split(small)
    grey = (red + green + blue) / 3
    spread = float(grey.std()) + 0.5
    levels, details = [grey], []
    for _ in range(4):
        smooth = cv2.GaussianBlur(levels[-1], (5, 5), 1.0)
        details.append(levels[-1] - smooth)
        levels.append(np.ascontiguousarray(smooth[::2, ::2]))
    energy = [float(np.sqrt((d**2).mean())) + 0.02 * spread for d in details]
    band = cv2.GaussianBlur(grey, (0, 0), 1.0)
    band = band - cv2.GaussianBlur(band, (0, 0), 6.0)
    power = float((band**2).mean()) + 1e-3 * spread**2
    far_across = float((band[:, 8:] * band[:, :-8]).mean()) / power
    far_down = float((band[4:] * band[:-4]).mean()) / power
    low, middle, high = _percentiles(grey, 1, 50, 99)
    scaled = np.clip((grey - low) * (31.99 / (high - low + 1)), 0, 31).astype(np.uint8)
    counts = np.bincount(scaled.ravel(), minlength=32) / scaled.size
    mode = int(counts.argmax())
    threshold, _ = cv2.threshold(scaled, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    upper = scaled > threshold
    share = float(upper.mean())
    apart = 0.0
    if 0 < share < 1:
        gap = float(grey[upper].mean() - grey[~upper].mean()) / spread
        apart = share * (1 - share) * gap**2
    activity = np.abs(_blocks(details[0])).mean(axis=1) + np.abs(_blocks(band)).mean(axis=1)
    blocks = _blocks(grey)
    smooth = cv2.GaussianBlur(grey, (0, 0), 3.0)
    most, least = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    k = max(2, min(grey.shape) // 12)
    corners = min(grey[y, x].mean() for y in (slice(k), slice(-k, None))
                  for x in (slice(k), slice(-k, None)))  # fmt: skip
    rows, columns = (slice(side // 3, 2 * side // 3) for side in grey.shape)
    bright = float(most.mean()) + 5
    first, second = (c - cv2.GaussianBlur(c, (0, 0), 2.0) for c in (green, blue))
    together = float((first * second).mean()) / np.sqrt(
        float((first**2).mean() * (second**2).mean()) + 0.25
    )
    return np.array(
        [
            np.log(energy[0] / spread),
            *(np.log(energy[k] / energy[k + 1]) for k in range(3)),
            *(direction(level, 0.01 * spread) for level in levels[1:3]),
            np.log((np.abs(details[1]).mean() + 0.01 * spread) / energy[1]),
            far_across,
            far_down,
            counts[max(0, mode - 1) : mode + 2].sum(),
            ((blocks.std(axis=1) < 1.5) & (blocks.mean(axis=1) < _BLACK_BLOCK)).mean(),
            apart,
            (middle - low) / (high - low + 1),
            activity.std() / (activity.mean() + 0.02 * spread),
            np.log((smooth.mean(axis=1).std() + 0.02 * spread) / spread),
            np.log((smooth.mean(axis=0).std() + 0.02 * spread) / spread),
            min(corners / (grey[rows, columns].mean() + 5), 2.0),
            float((most - least).mean()) / bright,
            float(red.mean() - green.mean()) / bright,
            float(green.mean() - blue.mean()) / bright,
            together,
        ]
    )


def direction(grey: np.ndarray, least: float) -> float:
    """Log of how much faster brightness changes downwards than sideways.

    Args:
      grey: float ``[H, W]``.
      least: added to both changes, so that a flat picture has no direction.
    """
    down, across = (np.abs(np.diff(grey, axis=axis)).mean() for axis in (0, 1))
    return float(np.log((down + least) / (across + least)))


def view(image: np.ndarray, modality: str) -> np.ndarray:
    """The thumbnail that is measured: B-scans in grey, photographs on black.

    Args:
      image: uint8 ``[H, W, 3]``, the whole picture as it is in the file.
      modality: a name in ``tasks.MODALITIES``.

    Returns:
      float32 ``[h, w, 3]``.
    """
    small = thumbnail(image)
    if MODALITIES[modality].round_field:
        return black_border(small.astype(np.uint8)).astype(np.float32)
    red, green, blue = cv2.split(small)
    return np.asarray(cv2.merge([(red + green + blue) / 3] * 3))


def flaws(image: np.ndarray, modality: str) -> tuple[str, ...]:
    """Says why a picture cannot be graded.

    Args:
      image: uint8 ``[H, W, 3]``, the whole picture as it is in the file.
      modality: a name in ``tasks.MODALITIES``, what it looks like: of ``modality.looks_like``, so
        that a good picture of the other kind has no flaw. To say that it is of the other is
        ``mismatch``'s.

    Returns:
      Keys of ``FLAWS``; empty where nothing is wrong with it.
    """
    small = view(image, modality)
    red, green, blue = cv2.split(small)
    grey = (red + green + blue) / 3
    blocks = _blocks(grey)
    lit = blocks[blocks.mean(axis=1) > _BLACK_BLOCK]
    framed = len(lit) > 0.02 * len(blocks) and (lit.std(axis=1) < _PLAIN).mean() > _PLAIN_SHARE
    middle = cv2.max(cv2.min(red, green), cv2.min(cv2.max(red, green), blue))
    white = np.count_nonzero(middle >= _WHITE)  # in two channels: red alone is common
    inside = np.count_nonzero(grey > _BLACK) if MODALITIES[modality].round_field else grey.size
    odd = {
        "blank": grey.std() < _BLANK or framed,
        "dark": _percentiles(grey, 99)[0] < _DARK[modality],
        "saturated": white > _WHITE_SHARE * inside,
    }
    found = [name for name, is_so in odd.items() if is_so]
    if not (odd["blank"] or odd["dark"]):
        numbers = np.append(measures(small), 1.0)
        logit, likeliest = max(
            (float(np.dot(weights, numbers)), name) for name, weights in _WEIGHTS[modality].items()
        )
        found += [likeliest] * (logit > _SURE)
    return tuple(found)


def reason(image: np.ndarray, modality: str) -> str:
    """The flaws of a picture in words, "" where there are none; see ``flaws``."""
    return "; ".join(FLAWS[name] for name in flaws(image, modality))
