"""What an audit remembers of an image: perceptual hashes, its texture, and what is odd about it."""

from __future__ import annotations

import dataclasses

import cv2
import imagehash
import numpy as np
from PIL import Image

from wlsrl_jax.data.images.modality import looks_like
from wlsrl_jax.data.images.pixels import crop_field
from wlsrl_jax.data.images.quality import flaws
from wlsrl_jax.tasks import MODALITIES

BITS = 128  # 64 of pHash, 64 of dHash
SIDE = 48  # pixels of the texture
_SMOOTH = 2.25  # pixels of SIDE; coarser structure, such as illumination, is taken out


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What an audit compares.

    Attributes:
      bits: ``[128]`` bool, perceptual hashes.
      texture: uint8 ``[48, 48]``, band-passed grey levels around 128.
      height: of the file's image, pixels.
      width: of the file's image, pixels.
      oddities: of ``quality.FLAWS``, and "modality".
    """

    bits: np.ndarray
    texture: np.ndarray
    height: int
    width: int
    oddities: tuple[str, ...]


def fingerprint(image: np.ndarray, modality: str) -> Fingerprint:
    """Takes the fingerprint of a picture.

    Hashes are those of the ImageHash library, pHash and dHash, of the whole picture, or of its
    round field.

    Args:
      image: uint8 ``[H, W, 3]``.
      modality: a name in ``tasks.MODALITIES``, of the data set.

    Returns:
      The fingerprint; the same for the same pixels.
    """
    height, width = image.shape[:2]
    looks = looks_like(image, modality)
    oddities = flaws(image, looks)
    if looks != modality:
        oddities += ("modality",)
    if MODALITIES[modality].round_field:
        image = crop_field(image)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA)
    picture = Image.fromarray(small)
    bits = np.concatenate([h(picture).hash.ravel() for h in (imagehash.phash, imagehash.dhash)])
    return Fingerprint(bits, _texture(grey), height, width, oddities)


def _texture(grey: np.ndarray) -> np.ndarray:
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    small -= cv2.GaussianBlur(small, (0, 0), _SMOOTH)
    scaled = 128.0 + 25.0 * small / (small.std() + 1e-6)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
