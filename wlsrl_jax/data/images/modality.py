"""Whether a picture is an OCT B-scan or a fundus photograph: a coarse check of its texture.

It guards against a folder given to the wrong model, not more. Layers of the retina run across a
B-scan, so brightness changes faster downwards than sideways, which holds in any colour map; a
fundus photograph has no such direction, dark corners, and mostly colour. The constants
were fitted on OCTDL, EyePACS and APTOS images, grey, red-free, inverted, padded, cropped, in false
colour, squeezed and rotated, and on phantoms; ``tests/data/images/test_modality.py`` holds its
errors on them.
"""

from __future__ import annotations

import cv2
import numpy as np

from wlsrl_jax.data.images.quality import direction, thumbnail
from wlsrl_jax.tasks import FUNDUS, MODALITIES, OCT

SIDE = 96  # pixels of the longer side that is looked at
SURE = 2.0  # logit below which it says nothing
_WEIGHTS = (6.1, 5.1, 7.1, 6.2, 7.4)
_BIAS = -13.8
_GREY = 0.02  # mean difference of the channels, relative, below which a picture is grey


def oct_logit(image: np.ndarray) -> float:
    """Logistic score of a picture.

    Args:
      image: uint8 ``[H, W, 3]``, the whole picture as it is in the file.

    Returns:
      Log odds; positive for OCT, negative for fundus.
    """
    small = thumbnail(image, SIDE)
    red, green, blue = cv2.split(small)  # NumPy reduces an axis of three ten times slower
    grey = (red + green + blue) / 3
    height, width = grey.shape
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.5)  # below it there is speckle
    rows = slice(height // 4, 3 * height // 4)
    columns = slice(width // 4, 3 * width // 4)
    k = max(2, min(height, width) // 12)
    corners = np.mean([grey[y, x].mean() for y in (slice(k), slice(-k, None))
                       for x in (slice(k), slice(-k, None))])  # fmt: skip
    middle = grey[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3].mean()
    most = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    colour = (most - least).mean() / (most.mean() + 1.0)
    features = (
        direction(smooth, 0.1),
        direction(smooth[rows, columns], 0.1),
        np.log((smooth.mean(axis=1).std() + 1.0) / (smooth.mean(axis=0).std() + 1.0)),
        min(corners / (middle + 1.0), 1.0),
        float(colour < _GREY),
    )
    return float(np.dot(_WEIGHTS, features) + _BIAS)


def looks_like(image: np.ndarray, modality: str) -> str:
    """The modality that a picture clearly has, or the given one where nothing can be said.

    Args:
      image: uint8 ``[H, W, 3]``.
      modality: a name in ``tasks.MODALITIES``, what it is meant to be.

    Returns:
      The name of a modality.
    """
    logit = oct_logit(image)
    return OCT.name if logit > SURE else FUNDUS.name if logit < -SURE else modality


def mismatch(looks: str, modality: str) -> str:
    """Says why a picture does not look like one of a modality.

    Args:
      looks: of ``looks_like``.
      modality: a name in ``tasks.MODALITIES``, of the model.

    Returns:
      The reason, or "" where the picture fits or nothing can be said.
    """
    if looks == modality:
        return ""
    other, own = MODALITIES[looks], MODALITIES[modality]
    return f"looks like {other.article} {other.noun}, but this model was trained on {own.noun}s"
