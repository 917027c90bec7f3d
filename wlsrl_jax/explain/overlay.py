"""Drawing a map over the image that it explains."""

from __future__ import annotations

import cv2
import numpy as np

SHOWN_SIDE = 256
"""Smaller images are enlarged to at least this many pixels a side before a person sees them."""
_PALEST = 215  # of the 256 colours


def upscale(image: np.ndarray, side: int = SHOWN_SIDE) -> np.ndarray:
    """Enlarges by a whole factor until the shorter side has ``side`` pixels or more.

    Args:
      image: uint8 ``[H, W, C]`` or a float32 map ``[H, W]``.
      side: pixels; a larger image comes back as it is.

    Returns:
      ``[kH, kW, C]`` or ``[kH, kW]`` of the same type.
    """
    height, width = image.shape[:2]
    factor = -(-side // min(height, width))
    if factor <= 1:
        return image
    size = (width * factor, height * factor)
    # Linear, not cubic: an overshoot would draw values that the map does not have.
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR).reshape(
        size[1], size[0], *image.shape[2:]
    )


def colour(heat: np.ndarray) -> np.ndarray:
    """Colours of values in 0..1, from OpenCV's copy of matplotlib's "inferno".

    Its lightness rises evenly with the value, so the order survives colour blindness and a
    grey printer (Smith and van der Walt, SciPy 2015). The palest end is left out: laid over a
    dark image it looks green beside its orange neighbours.

    Args:
      heat: ``[...]`` in 0..1.

    Returns:
      uint8 ``[..., 3]`` RGB.
    """
    table = cv2.applyColorMap(
        np.linspace(0, _PALEST, 256).astype(np.uint8)[:, None], cv2.COLORMAP_INFERNO
    )
    return table[:, 0, ::-1][np.rint(np.asarray(heat) * 255.0).astype(np.uint8)]


def overlay(image: np.ndarray, heat: np.ndarray, alpha: float = 0.45) -> np.ndarray:
    """Lays a map over its image.

    Opacity rises with the value, so what the map leaves out looks as it did.

    Args:
      image: uint8 ``[H, W, C]``, grey (C = 1) or RGB (C = 3).
      heat: ``[H, W]`` in 0..1.
      alpha: opacity of a value of 1, in 0..1.

    Returns:
      uint8 ``[H, W, 3]`` RGB.

    Raises:
      ValueError: if a shape, a type or a range is wrong.
    """
    heat = np.asarray(heat, np.float32)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(
            f"overlay: image must be uint8 [H, W, 1 or 3], got {image.dtype} {list(image.shape)}."
        )
    if heat.shape != image.shape[:2]:
        raise ValueError(
            f"overlay: heat {list(heat.shape)} does not lie on image {list(image.shape)}."
        )
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"overlay: alpha={alpha} must be in 0..1.")
    if not (np.isfinite(heat).all() and 0.0 <= heat.min() and heat.max() <= 1.0):
        raise ValueError("overlay: heat must be finite and in 0..1.")
    opacity = (alpha * np.sqrt(heat))[..., None]
    mixed = image.astype(np.float32) * (1.0 - opacity) + colour(heat) * opacity
    return np.rint(mixed).astype(np.uint8)


def enlarged_overlay(
    image: np.ndarray, heat: np.ndarray, alpha: float = 0.45, side: int = SHOWN_SIDE
) -> np.ndarray:
    """Lays a map over its image, both of a size for people; see ``overlay`` and ``upscale``."""
    return overlay(upscale(image, side), np.clip(upscale(heat, side), 0.0, 1.0), alpha)
