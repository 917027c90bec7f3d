"""Reading image files that strangers have made."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from wlsrl_jax.data.images import foreign, read_image
from wlsrl_jax.data.images.limits import MAX_BYTES, BadImageError, bad_images, check_bytes
from wlsrl_jax.data.images.pixels import shrink
from wlsrl_jax.data.images.read_image import PixelRange, Wide
from wlsrl_jax.data.text.names import IMAGE_SUFFIXES
from wlsrl_jax.tasks import MODALITIES

DICOM_MARK = b"DICM"  # after a preamble of 128 bytes


def decode(
    data: bytes, channels: int, frame: int = 0, pixel_range: PixelRange | None = None
) -> np.ndarray:
    """Decodes an image file completely.

    Wide pixels are scaled to 8 bits, palettes resolved, transparency laid on black, the EXIF
    orientation applied.

    Args:
      data: content of the file.
      channels: 1 for grey, 3 for RGB.
      frame: see ``open_image``.
      pixel_range: of wide pixels of which the file does not say it.

    Returns:
      uint8 ``[H, W, channels]``.

    Raises:
      BadImageError: with the reason.
    """
    return to_array(open_image(data, frame), channels, pixel_range)


def open_image(source: bytes | Path, frame: int = 0) -> Image.Image | Wide:
    """Decodes an image file, pixels and channels as they are in it.

    Args:
      source: the file, or its content. Of DICOM files only pixels are read (``dicom.py``).
      frame: number from 1 in a file of several pages or frames; 0 for any other file.

    Returns:
      The whole image, the EXIF orientation applied.

    Raises:
      BadImageError: with the reason.
    """
    if isinstance(source, Path) and not frame:
        source = read_file(source)
    if is_dicom(source):
        from wlsrl_jax.data.images.dicom import read_frame  # an optional package

        return read_frame(source if isinstance(source, Path) else io.BytesIO(source), frame or None)
    with bad_images():
        if isinstance(source, Path):
            check_bytes(source, 16 * MAX_BYTES)  # not all of it is read
        try:
            return read_image.open_image(source, frame)
        except read_image.UnreadableError:
            if isinstance(source, bytes) and (reason := foreign.explain(source)):
                raise BadImageError(reason) from None
            raise


def is_dicom(source: bytes | Path) -> bool:
    """Whether a file begins as DICOM files do, whatever its name; False if it cannot be read."""
    if isinstance(source, bytes):
        return source[128:132] == DICOM_MARK
    try:
        with source.open("rb") as file:
            return file.read(132)[128:] == DICOM_MARK
    except OSError:
        return False


def read_file(path: Path) -> bytes:
    """Reads an image file.

    Raises:
      BadImageError: if it cannot be read, is larger than any image, or of a format that is known
        but not read here.
    """
    check_bytes(path, MAX_BYTES)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImageError(f"cannot be read ({error.strerror})") from None
    if reason := foreign.explain(data, path.suffix):
        raise BadImageError(reason)
    return data


def to_array(
    image: Image.Image | Wide, channels: int, pixel_range: PixelRange | None = None
) -> np.ndarray:
    """Converts an opened image; see ``read_image.to_array``.

    Raises:
      BadImageError: for pixels without a known range.
    """
    with bad_images():
        return read_image.to_array(image, channels, pixel_range)


def presize(
    data: bytes,
    modality: str,
    height: int,
    width: int,
    steps: Sequence[str] = (),
    frame: int = 0,
    pixel_range: PixelRange | None = None,
) -> bytes:
    """Decodes an image, makes it as small as prepared data are, and encodes it as PNG.

    Args:
      data: content of the file.
      modality: a name in ``tasks.MODALITIES``.
      height: of the result, pixels.
      width: of the result, pixels.
      steps: see ``shrink``.
      frame: see ``open_image``.
      pixel_range: see ``decode``.

    Returns:
      A PNG file; the same bytes for the same input.

    Raises:
      BadImageError: with the reason.
    """
    kind = MODALITIES[modality]
    whole = decode(data, kind.channels, frame, pixel_range)
    small = shrink(whole, height, width, steps, crop=kind.round_field)
    if small.shape[2] == 3:
        small = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    done, buffer = cv2.imencode(".png", small)
    if not done:
        raise BadImageError("cannot be encoded as PNG")
    return buffer.tobytes()


def is_image_name(path: Path) -> bool:
    """Whether a file name says that it is an image, readable here or not; hidden files are not."""
    known = path.suffix.lower() in IMAGE_SUFFIXES + foreign.SUFFIXES
    return known and not path.name.startswith(".")
