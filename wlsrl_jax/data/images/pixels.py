"""What is done to pixels to make them small: the crop to the round field, steps, the resize.

The steps are optional: what publications on these images do first. ``shrink`` applies
them after the crop to the round field and before the resize, on an image of at most ``SIDE``
pixels: histograms, edges and shifts are then finer than what is kept, and a photograph of 12
million pixels costs no more than one of a million. What a step does to a pixel is part of
prepared data and of every run that was trained on them, so a step that is changed gets another
name.

Only NumPy and OpenCV are imported, for exported models carry a copy of this file.
``wlsrl steps`` shows what the steps do.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import cv2
import numpy as np

SIDE = 1024
"""Longest side, pixels, of the image that the steps see; more where prepared images have more."""

RPE_ROW = 0.75
"""Row at which ``flatten`` lays the retinal pigment epithelium, as a fraction of the height."""

_DARK = 12  # grey level below which a fundus photograph shows no retina
_SUPPORT = 0.45  # clarity of an RPE, 0..1; of OCTDL 499 in 500 scans have more, of noise 1 in 3
_LEAST = 16  # pixels; a smaller field is none
_PAPER = 47  # grey level above which a flat corner of a photograph is a border that is not black
_FLAT = 20  # grey levels that the pixels and channels of such a corner differ by at the most
_WHITE = 235  # grey level from which a pixel may be of a white border; JPEG spoils 255


def black_border(image: np.ndarray) -> np.ndarray:
    """Paints the grey or white border of a fundus photograph black, as cameras leave it.

    Pages of reports, slides and some programs lay the round field on white or grey. Such a border
    is flat and without colour in a corner; from there it is followed to what stands out, which
    is the field where it fills the fifth part of the picture, and all else (a caption) is border.

    Args:
      image: uint8 ``[H, W, 3]``.

    Returns:
      uint8 ``[H, W, 3]``; the image itself, to the bit, where no corner is of such a border.
    """
    height, width = image.shape[:2]
    size = max(3, min(height, width) // 50)
    border = np.zeros((height, width), np.uint8)
    for y in (0, height - size):
        for x in (0, width - size):
            corner = image[y : y + size, x : x + size]
            if corner.min() <= _PAPER or int(corner.max()) - int(corner.min()) > _FLAT:
                continue
            level = int(np.median(corner))
            near = cv2.inRange(image, (level - _FLAT,) * 3, (level + _FLAT,) * 3)
            cv2.floodFill(near, None, (x + size // 2, y + size // 2), 1)
            border |= near == 1
    if not border.any():
        return image
    outlines, _ = cv2.findContours(1 - border, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    largest = max(outlines, key=cv2.contourArea, default=None)
    if largest is None or cv2.contourArea(largest) < 0.2 * height * width:
        return image
    field = cv2.fillConvexPoly(np.zeros_like(border), cv2.convexHull(largest), 1)
    rim = 2 * round(max(height, width) / 300) + 3  # the edge is blurred
    field = cv2.erode(field, np.ones((rim, rim), np.uint8), borderValue=1)
    return cv2.bitwise_and(image, image, mask=field)


def crop_field(image: np.ndarray) -> np.ndarray:
    """Crops a fundus photograph to its round field and pads it with black to a square.

    Args:
      image: uint8 ``[H, W, 3]``, the field on black, grey or white, or filling the picture.

    Returns:
      uint8 ``[S, S, 3]``; the whole image where no field stands out.
    """
    image = black_border(image)
    bright = image.max(axis=2) > _DARK
    rows, columns = (
        np.flatnonzero(bright.mean(axis=1) > 0.02),
        np.flatnonzero(bright.mean(axis=0) > 0.02),
    )
    if rows.size >= _LEAST and columns.size >= _LEAST:
        image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(image, ((top, side - height - top), (left, side - width - left), (0, 0)))


def field_mask(image: np.ndarray) -> np.ndarray:
    """The part of a fundus photograph that shows the retina.

    Args:
      image: uint8 ``[H, W, 3]``.

    Returns:
      uint8 ``[H, W]``, 1 inside the convex hull of the largest bright region (dark lesions and
      vessels are inside it, specks outside are not); all 1 where nothing is bright.
    """
    red, green, blue = cv2.split(image)  # NumPy reduces an axis of three ten times slower
    bright = (cv2.max(cv2.max(red, green), blue) > _DARK).astype(np.uint8)
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
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    (x, y), radius = cv2.minEnclosingCircle(np.concatenate(outlines))
    sigma = max(radius / 30, 0.5)
    # A wide blur of a smaller image is the same blur.
    factor = max(1.0, sigma / 4)
    small = max(1, round(width / factor)), max(1, round(height / factor))
    inside = cv2.bitwise_and(image, image, mask=mask)
    sums, counts = (
        cv2.GaussianBlur(
            cv2.resize(pixels, small, interpolation=cv2.INTER_AREA).astype(np.float32),
            (0, 0),
            sigma / factor,
            borderType=cv2.BORDER_CONSTANT,
        )
        for pixels in (inside, mask * np.uint8(255))
    )
    average: np.ndarray = 255 * sums / np.maximum(counts, 1)[..., None]
    average = cv2.resize(average, (width, height), interpolation=cv2.INTER_LINEAR)
    out = cv2.addWeighted(image.astype(np.float32), 4, average, -4, 128, dtype=cv2.CV_8U)
    rim = max(1, round(0.02 * radius))  # dim pixels along straight edges
    kept = cv2.erode(mask, np.ones((2 * rim + 1, 2 * rim + 1), np.uint8),
                     borderType=cv2.BORDER_CONSTANT, borderValue=1)  # fmt: skip
    disc = cv2.circle(np.zeros_like(mask), (round(x), round(y)), round(0.9 * radius), 1, -1)
    return cv2.bitwise_and(out, out, mask=cv2.bitwise_and(kept, disc))


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


def background(grey: np.ndarray) -> int:
    """Grey level of the dark part of a B-scan: the median of its darker half."""
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
    size = max(3, round(max(height, width) / 40)) | 1
    # Outside of the picture all is white, so that a thin wedge along the border is thick.
    near = np.pad((grey >= _WHITE).astype(np.uint8), size, constant_values=1)
    solid = cv2.morphologyEx(near, cv2.MORPH_OPEN, np.ones((size, size), np.uint8))
    solid = np.ascontiguousarray(solid[size:-size, size:-size])
    _, regions, facts, _ = cv2.connectedComponentsWithStats(solid, connectivity=4)
    across = facts[:, cv2.CC_STAT_WIDTH] / width
    down = facts[:, cv2.CC_STAT_HEIGHT] / height
    long = np.maximum(across, down) >= 1 / 16
    long[0] = False  # the rest
    found = np.isin(regions, [regions[at] for at in corners if long[regions[at]]])
    share = found.mean()
    if share == 0 or share > 0.9:
        return image
    found = cv2.dilate(found.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0  # the blurred edge
    return np.where(found, background(grey[~found]), grey)[..., None].astype(np.uint8)


def _edges(small: np.ndarray) -> np.ndarray:
    """How much each pixel looks like the RPE, with its lower edge close below.

    A thin bright band with darkness both above (outer nuclear layer) and below: the inner retina
    is a thick one, and has little bright tissue above it.

    Args:
      small: uint8 ``[rows, columns]``.

    Returns:
      float32 ``[rows, columns]``, at most 1 in each column.
    """
    rows = len(small)
    band, reach = rows // 50, rows // 14
    smooth = cv2.GaussianBlur(small.astype(np.float32), (0, 0), sigmaX=1.5, sigmaY=2.0)
    tissue = np.sqrt(np.maximum(smooth - background(small), 0))
    total = np.cumsum(tissue, axis=0)
    ends = np.pad(total, ((reach + band, reach), (0, 0)), mode="edge")
    ends[: reach + band] = 0
    left = np.minimum(reach, np.arange(rows - 1, -1, -1, dtype=np.float32))[:, None]
    inside = (total - ends[reach:-reach][:rows]) / band
    above = (ends[reach : reach + rows] - ends[:rows]) / reach
    below = (ends[2 * reach + band :] - total) / np.maximum(left, 1)
    share = total / np.maximum(total[-1:], 1e-3)
    edge = np.sqrt(np.maximum(inside - below, 0) * np.maximum(inside - 0.9 * above, 0))
    edge *= np.minimum(2 * share, 1) * (left >= reach // 3)
    return edge / np.maximum(edge.max(axis=0), 0.1)  # less is no edge


def _powers(columns: int) -> np.ndarray:
    """1, x and x² at the centres of columns, x from -1 to 1: ``[columns, 3]``."""
    x = (np.arange(columns, dtype=np.float32) + 0.5) / columns * 2 - 1
    return np.stack([np.ones_like(x), x, x**2], axis=1)


_ROWS, _COLUMNS = 256, 96  # of the picture in which the RPE is looked for
_ANCHORS = np.linspace(3, _COLUMNS - 4, 11).round().astype(int)
_TRIOS = np.array([t for t in itertools.combinations(range(11), 3) if t[2] - t[0] >= 5])
_CHOICES = np.array(list(itertools.product((0, 1), repeat=3)))  # of each anchor's two candidates
_SOLVE = np.linalg.inv(_powers(_COLUMNS)[_ANCHORS[_TRIOS]])  # values at a trio -> parabola


def rpe_curve(image: np.ndarray) -> np.ndarray | None:
    """Finds the retinal pigment epithelium (RPE), the deepest bright band, in its lower half.

    Every column of a small, smoothed picture has two candidates: the edge that stands out most,
    and the deepest one that is half as clear. Parabolas through three columns compete for the sum
    of the edges along them; among the good ones the deepest wins, for an inner retina can be
    brighter than the RPE (arterial occlusion). Reweighted least squares on the candidates near it
    make it precise. There is no chance in it.

    Args:
      image: uint8 ``[H, W, 1]``.

    Returns:
      Row of the RPE in every column, float ``[W]``, on a parabola; None where no band runs
      through most columns.
    """
    height, width = image.shape[:2]
    small = cv2.resize(image[..., 0], (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA)
    edge, powers = _edges(small), _powers(_COLUMNS)
    top = np.pad(edge, ((1, 1), (0, 0)))
    peak = (edge >= 0.5) & (edge >= top[:-2]) & (edge >= top[2:])
    candidates = np.stack([edge.argmax(axis=0), _ROWS - 1 - peak[::-1].argmax(axis=0)])
    nearby = candidates[:, _ANCHORS[:, None] + np.arange(-3, 4)]
    anchors = np.median(nearby, axis=2).astype(np.float32)  # [2, anchors]
    values = anchors[_CHOICES[None], _TRIOS[:, None]]  # [trios, choices, 3]
    parabolas = (values @ _SOLVE.transpose(0, 2, 1)).reshape(-1, 3)
    parabolas = parabolas[(np.abs(parabolas[:, 1:]) < _ROWS / 2).all(axis=1)]
    lines = np.rint(parabolas @ powers.T).astype(int)
    inside = (lines >= 0) & (lines < _ROWS)
    wide = cv2.dilate(edge, np.ones((7, 1), np.uint8)) ** 2
    along = wide[lines.clip(0, _ROWS - 1), np.arange(_COLUMNS)] * inside
    support, depth = along.mean(axis=1), lines.mean(axis=1)
    good = support >= max(_SUPPORT, 0.9 * support.max(initial=0))
    if not good.any():
        return None
    good &= depth > depth[good].max() - 0.05 * _ROWS
    found = parabolas[np.where(good, support, 0).argmax()]
    off = np.abs(candidates - powers @ found)
    y = np.where(off[0] < off[1], *candidates)
    for _ in range(5):
        weight = np.maximum(1 - ((y - powers @ found) / (0.04 * _ROWS)) ** 2, 0)[:, None]
        if (weight > 0).mean() < 0.4:
            return None
        found = np.linalg.lstsq(powers * weight, y * weight[:, 0], rcond=None)[0]
    return (_powers(width) @ found + 0.5) * height / _ROWS - 0.5


def flatten(image: np.ndarray) -> np.ndarray:
    """Shifts the columns of a B-scan so that the RPE is level, at ``RPE_ROW`` of the height.

    P. P. Srinivasan et al., Biomed. Opt. Express 5:3568, 2014: a parabola is fitted to the RPE and
    straightened. Columns move by whole pixels, so that none is blurred; what they leave free is
    background.

    Args:
      image: uint8 ``[H, W, 1]``.

    Returns:
      uint8 ``[H, W, 1]``; the image itself where no RPE is found.
    """
    curve = rpe_curve(image)
    if curve is None:
        return image
    height, width = image.shape[:2]
    shift = np.rint(curve - RPE_ROW * height).astype(int)
    rows = np.arange(height)[:, None] + shift
    moved = np.take_along_axis(image[..., 0], rows.clip(0, height - 1), axis=0)
    outside = (rows < 0) | (rows >= height)
    moved[outside] = background(image[..., 0])
    return moved[..., None]


STEPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "ben_graham": ben_graham,
    "clahe": clahe,
    "white_borders": white_borders,
    "flatten": flatten,
}
"""Name -> function of an image; a modality names those that suit it (``tasks.py``)."""


def apply_steps(image: np.ndarray, steps: Sequence[str], height: int, width: int) -> np.ndarray:
    """Applies steps to an image that will be resized to ``height`` x ``width`` after them.

    Args:
      image: uint8 ``[H, W, C]``, cropped (fundus).
      steps: names, in order.
      height: of the prepared image, pixels.
      width: of the prepared image, pixels.

    Returns:
      uint8 ``[h, w, C]``; made smaller if its longest side was above ``SIDE`` and those two.
    """
    if not steps:
        return image
    image = np.ascontiguousarray(image)  # all that OpenCV takes
    scale = max(SIDE, height, width) / max(image.shape[:2])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        channels = image.shape[2]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        image = image.reshape(size[1], size[0], channels)
    for name in steps:
        image = STEPS[name](image)
    return image


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes with anti-aliasing when shrinking.

    Args:
      image: uint8 ``[H, W, C]``.
      height: of the result, pixels.
      width: of the result, pixels.

    Returns:
      uint8 ``[height, width, C]``.
    """
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] > height or image.shape[1] > width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    out = cv2.resize(image, (width, height), interpolation=method)
    return out.reshape(height, width, image.shape[2])


def shrink(
    image: np.ndarray, height: int, width: int, steps: Sequence[str] = (), *, crop: bool
) -> np.ndarray:
    """Makes an image as small as prepared data are: crop, steps, resize.

    Args:
      image: uint8 ``[H, W, C]``.
      height: of the result, pixels.
      width: of the result, pixels.
      steps: names of ``STEPS``, applied in this order before the resize.
      crop: to the round field, before them.

    Returns:
      uint8 ``[height, width, C]``.
    """
    image = crop_field(image) if crop else image
    return resize(apply_steps(image, steps, height, width), height, width)
