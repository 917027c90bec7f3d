"""Augmentation of one image, on the host.

All geometry of an augmentation (flip, rotation, scale, shift, resize) is one affine warp,
all tone (brightness, contrast, gamma) one look-up table, so each pixel is touched twice.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from wlsrl_jax.data.images.pixels import resize


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; 0 switches one off.

    Attributes:
      flip: probability of a left-right mirror.
      rotation: largest angle, degrees; 180 is any rotation.
      shift: largest translation as a fraction of each side.
      scale: largest relative zoom in or out.
      brightness: largest additive change as a fraction of full range.
      contrast: largest relative change of contrast.
      gamma: largest change of log gamma.
      speckle: largest standard deviation of multiplicative noise (OCT).
      noise: largest standard deviation of additive noise as a fraction of full range.
    """

    flip: float = 0.5
    rotation: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    gamma: float = 0.0
    speckle: float = 0.0
    noise: float = 0.0


def augment(
    image: np.ndarray, height: int, width: int, ranges: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """Draws one random variant of an image; a function of its arguments only.

    Args:
      image: uint8 ``[H, W, C]``.
      height: of the result, pixels.
      width: of the result, pixels.
      ranges: strength of each change.
      rng: source of all randomness.

    Returns:
      uint8 ``[height, width, C]``.
    """
    channels = image.shape[2]
    # All but the noise is drawn here, whatever the ranges are: switching one off moves none.
    u = rng.uniform(-1.0, 1.0, size=9)
    mirrored = rng.random() < ranges.flip
    image = resize(image, height, width)

    angle = np.deg2rad(u[0] * ranges.rotation)
    zoom = np.exp(u[1] * ranges.scale)
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    matrix = np.array([[cos, -sin], [sin, cos]])
    if mirrored:
        matrix[:, 0] *= -1.0
    centre = np.array([(width - 1) / 2.0, (height - 1) / 2.0])
    shift = u[2:4] * ranges.shift * np.array([width, height])
    offset = centre + shift - matrix @ centre
    warp = np.concatenate([matrix, offset[:, None]], axis=1)
    if not np.allclose(warp, [[1, 0, 0], [0, 1, 0]]):
        image = cv2.warpAffine(
            image,
            warp,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT if channels == 3 else cv2.BORDER_REFLECT_101,
        ).reshape(height, width, channels)

    levels = np.linspace(0.0, 1.0, 256) ** np.exp(u[4] * ranges.gamma)
    levels = (levels - 0.5) * (1.0 + u[5] * ranges.contrast) + 0.5 + u[6] * ranges.brightness
    table = np.clip(np.rint(levels * 255.0), 0, 255).astype(np.uint8)
    image = cv2.LUT(image, table).reshape(image.shape)

    # Plain floats: NumPy's would make float64 of every pixel.
    speckle, noise = float(abs(u[7])) * ranges.speckle, float(abs(u[8])) * ranges.noise
    if speckle or noise:
        pixels = image.astype(np.float32)
        if speckle:
            pixels *= 1.0 + speckle * rng.standard_normal(pixels.shape, dtype=np.float32)
        if noise:
            pixels += 255.0 * noise * rng.standard_normal(pixels.shape, dtype=np.float32)
        image = np.clip(pixels, 0, 255).astype(np.uint8)
    return image
