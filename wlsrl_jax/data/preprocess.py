"""Optional steps before an image is resized: what publications on these images do first.

``data.images.shrink`` applies them after the crop to the round field and before the resize, on an
image of at most ``SIDE`` pixels: histograms, edges and shifts are then finer than what is kept, and
a photograph of 12 million pixels costs no more than one of a million. What a step does to a pixel
is part of prepared data and of every run that was trained on them, so a step that is changed gets
another name.

Only NumPy and OpenCV are imported, for exported models carry a copy of this file.

python -m wlsrl_jax.data.preprocess --modality=oct --output=sheet.jpg IMAGES...
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import cv2
import numpy as np

SIDE = 1024
"""Longest side, pixels, of the image that the steps see; more where prepared images have more."""

RPE_ROW = 0.7
"""Row at which ``flatten`` lays the retinal pigment epithelium, as a fraction of the height."""

_DARK = 12  # grey level below which a fundus photograph shows no retina
_WHITE = 235  # grey level from which a pixel may be of a white border; JPEG spoils 255


def field_mask(image: np.ndarray) -> np.ndarray:
    """The part of a fundus photograph that shows the retina.

    Args:
      image: uint8 ``[H, W, 3]``.

    Returns:
      uint8 ``[H, W]``, 1 inside the convex hull of the largest bright region (dark lesions and
      vessels are inside it, specks outside are not); all 1 where nothing is bright.
    """
    bright = (image.max(axis=2) > _DARK).astype(np.uint8)
    outlines, _ = cv2.findContours(cv2.medianBlur(bright, 5), cv2.RETR_EXTERNAL,
                                   cv2.CHAIN_APPROX_SIMPLE)  # fmt: skip
    if not outlines:
        return np.ones_like(bright)
    hull = cv2.convexHull(max(outlines, key=cv2.contourArea))
    return cv2.fillConvexPoly(np.zeros_like(bright), hull, 1)


def ben_graham(image: np.ndarray) -> np.ndarray:
    """Takes the local average colour away: ``4 (image - blurred image) + 128``.

    The blur's standard deviation is 1/30 of the radius of the field, and the outer tenth of the
    radius is masked. B. Graham, Kaggle Diabetic Retinopathy Detection competition report, 2015.
    Two things differ. The average is over pixels of the field alone, so that the straight edges
    of a field that the sensor cut off get no bright seam. What is masked is black instead of
    grey, as ``crop_field`` pads and as augmentation fills in where it rotates.

    Args:
      image: uint8 ``[H, W, 3]``.

    Returns:
      uint8 ``[H, W, 3]``.
    """
    mask = field_mask(image)
    height, width = mask.shape
    points = cv2.findNonZero(mask)
    (x, y), radius = cv2.minEnclosingCircle(points)
    sigma = max(radius / 30, 0.5)
    # A wide blur of a smaller image is the same blur.
    factor = max(1.0, sigma / 4)
    small = max(1, round(width / factor)), max(1, round(height / factor))
    inside = mask.astype(np.float32)
    pixels = image * inside[..., None]
    both = np.dstack([pixels, inside])
    both = cv2.resize(both, small, interpolation=cv2.INTER_AREA)
    both = cv2.GaussianBlur(both, (0, 0), sigma / factor, borderType=cv2.BORDER_CONSTANT)
    both = cv2.resize(both, (width, height), interpolation=cv2.INTER_LINEAR)
    average = both[..., :3] / np.maximum(both[..., 3:], 1e-3)
    out = np.clip(np.rint(4 * (pixels - average) + 128), 0, 255).astype(np.uint8)
    disc = cv2.circle(np.zeros_like(mask), (round(x), round(y)), round(0.9 * radius), 1, -1)
    rim = max(1, round(0.02 * radius))  # of dim pixels along straight edges
    kept = cv2.erode(mask, np.ones((2 * rim + 1, 2 * rim + 1), np.uint8),
                     borderType=cv2.BORDER_CONSTANT, borderValue=1)  # fmt: skip
    return out * (disc & kept)[..., None]


def clahe(image: np.ndarray) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation, limit 2, 8x8 tiles.

    K. Zuiderveld, Graphics Gems IV, 1994. Of lightness (L of CIE Lab) in colour, so that hues
    stay; outside of the field of a fundus photograph nothing is changed.

    Args:
      image: uint8 ``[H, W, 1]`` or ``[H, W, 3]``.

    Returns:
      uint8 of the same shape.
    """
    equaliser = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8))  # an object a thread
    if image.shape[2] == 1:
        return equaliser.apply(np.ascontiguousarray(image[..., 0]))[..., None]
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = equaliser.apply(np.ascontiguousarray(lab[..., 0]))
    out = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    return np.where(field_mask(image)[..., None] > 0, out, image)


def _background(grey: np.ndarray) -> int:
    """Level of the dark part of a B-scan: the median of its darker half."""
    return int(np.percentile(grey, 25)) if grey.size else 0


def white_borders(image: np.ndarray) -> np.ndarray:
    """Fills the white areas that a rotated or shifted scan has at its border with background.

    Many scans of OCT2017 (Kermany et al., Cell 172:1122, 2018) have them. White is followed from
    the corners of the picture: what lies beside a convex scan always contains one. It is followed
    where it is at least 1/40 of the longer side thick, so it does not run into a bright layer that
    touches it, and a bright layer that touches the side alone is no corner.

    Args:
      image: uint8 ``[H, W, 1]``.

    Returns:
      uint8 ``[H, W, 1]``; the image itself where nothing is found.
    """
    grey = image[..., 0]
    height, width = grey.shape
    corners = ((0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1))
    if all(grey[at] < _WHITE for at in corners):
        return image
    size = max(3, round(max(height, width) / 40))
    # Outside of the picture all is white, so that a thin wedge along the border is thick.
    white = cv2.copyMakeBorder((grey >= _WHITE).astype(np.uint8), *[size] * 4,
                               cv2.BORDER_CONSTANT, value=1)  # fmt: skip
    white = cv2.morphologyEx(white, cv2.MORPH_OPEN, np.ones((size, size), np.uint8))
    white = np.ascontiguousarray(white[size:-size, size:-size])
    _, regions, facts, _ = cv2.connectedComponentsWithStats(white, connectivity=4)
    found = np.zeros_like(white)
    for at in corners:
        label = regions[at]
        long = max(facts[label, cv2.CC_STAT_WIDTH] / width, facts[label, cv2.CC_STAT_HEIGHT] / height)
        if white[at] and long >= 1 / 16:
            found |= (regions == label).astype(np.uint8)
    share = found.mean()
    if share == 0 or share > 0.9:
        return image
    found = cv2.dilate(found, np.ones((7, 7), np.uint8)) > 0  # the blurred edge
    return np.where(found, _background(grey[~found]), grey)[..., None].astype(np.uint8)


def rpe_curve(image: np.ndarray) -> np.ndarray | None:
    """Row of the lower edge of the retinal pigment epithelium (RPE) in every column, a parabola.

    The RPE is the deepest bright band. Every column of a small, smoothed picture has two
    candidates: the edge from bright to dark that stands out most, and the deepest one that still
    does. Parabolas through three columns compete for the sum of the edges that they run along;
    among the good ones the deepest wins, for the inner retina can be brighter (arterial
    occlusion). A weighted fit to the candidates beside it makes it precise.

    Args:
      image: uint8 ``[H, W, 1]``.

    Returns:
      float ``[W]``, or None where no band runs through most columns.
    """
    height, width = image.shape[:2]
    rows, columns = _FIT
    edge, first, last = _edges(cv2.resize(image[..., 0], (columns, rows), interpolation=cv2.INTER_AREA))
    x = (np.arange(columns) + 0.5) / columns * 2 - 1
    basis = np.stack([np.ones_like(x), x, x**2], axis=1)
    at = np.linspace(3, columns - 4, _ANCHORS).round().astype(int)
    nearby = at[:, None] + np.arange(-3, 4)
    anchors = np.median(np.stack([first[nearby], last[nearby]]), axis=2)  # [2, anchors]
    k, which = _trios()
    values = anchors[which, k]
    found = np.linalg.solve(basis[at[k]], values[..., None])[..., 0]
    found = found[(np.abs(found[:, 1]) < 0.5 * rows) & (np.abs(found[:, 2]) < 0.5 * rows)]
    lines = np.rint(found @ basis.T).astype(int)
    inside = (lines >= 0) & (lines < rows)
    wide = cv2.dilate(edge, np.ones((7, 1), np.uint8)) ** 2
    support = (wide[lines.clip(0, rows - 1), np.arange(columns)] * inside).mean(axis=1)
    if not support.size or support.max() < 0.2:
        return None
    good = support >= GOOD * support.max()
    depth = np.where(good, lines.mean(axis=1) + 1e-3 * support, -1)
    deepest = depth.max()
    near = good & (lines.mean(axis=1) > deepest - 0.05 * rows)
    best = found[np.where(near, support, -1).argmax()]
    reach = 0.04 * rows
    y = np.where(np.abs(first - basis @ best) < np.abs(last - basis @ best), first, last)
    for _ in range(5):
        weight = np.maximum(1 - ((y - basis @ best) / reach) ** 2, 0)
        if (weight > 0).mean() < 0.4:
            return None
        best = np.linalg.lstsq(basis * weight[:, None], y * weight, rcond=None)[0]
    x = (np.arange(width) + 0.5) / width * 2 - 1
    return (best[0] + best[1] * x + best[2] * x**2 + 0.5) * height / rows - 0.5


GOOD = 0.85
_FIT = (256, 96)
_ANCHORS = 11


def _trios():
    trios = np.array([t for t in itertools.combinations(range(_ANCHORS), 3) if t[2] - t[0] >= 5])
    which = np.array(list(itertools.product((0, 1), repeat=3)))
    k = np.repeat(trios, 8, axis=0)
    return k, np.tile(which, (len(trios), 1))


def _edges(small):
    rows, columns = small.shape
    smooth = cv2.GaussianBlur(small.astype(np.float32), (0, 0), sigmaX=1.5, sigmaY=2.0)
    above = np.sqrt(np.maximum(smooth - _background(small), 0))
    reach, band = rows // 14, rows // 50
    total = np.cumsum(above, axis=0)
    share = total / np.maximum(total[-1:], 1e-3)
    ends = np.pad(total, ((reach + band, reach), (0, 0)), mode="edge")
    ends[: reach + band] = 0
    left = np.minimum(reach, np.arange(rows - 1, -1, -1))[:, None]
    below = (ends[2 * reach + band :] - total) / np.maximum(left, 1)
    over = (total - ends[reach : reach + rows]) / band
    upper = (ends[reach : reach + rows] - ends[:rows]) / reach
    edge = np.maximum(over - below, 0) * (left >= reach // 3)
    edge = edge * np.maximum(over - W * upper, 0) ** 1
    edge = np.sqrt(edge) * np.clip(share * 2, 0, 1)
    edge /= np.maximum(edge.max(axis=0), 1e-3)
    first = edge.argmax(axis=0)
    peak = (edge >= 0.5) & (edge >= np.roll(edge, 1, axis=0)) & (edge >= np.roll(edge, -1, axis=0))
    last = rows - 1 - peak[::-1].argmax(axis=0)
    return edge, first.astype(float), last.astype(float)


W = 0.7
