"""A picture inside a page."""

from __future__ import annotations

import base64

import cv2
import numpy as np


def jpeg_uri(image: np.ndarray, quality: int = 82) -> str:
    """A picture, uint8 ``[H, W, 1 or 3]`` RGB, as the address of its own content."""
    pixels = image[..., ::-1] if image.shape[2] == 3 else image
    done, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
