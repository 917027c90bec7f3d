"""Reading image files that strangers have made."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from wlsrl_jax.data.augment import resize
from wlsrl_jax.data.images.pixels import apply_steps
from wlsrl_jax.files import Mistake

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
MIN_SIDE = 16
MAX_BYTES = 256 * 2**20
MAX_SIDE = 12_000  # a fundus photograph is laid on a square
MAX_PIXELS = 64_000_000  # 8 k x 8 k; no fundus camera comes near. More is a mistake or an attack
FORMATS = ("JPEG", "PNG", "TIFF", "BMP")  # Pillow knows dozens that nobody uses here
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# Some cameras write a long text into their PNG; it is not read, but it is no damage.
PngImagePlugin.MAX_TEXT_CHUNK = 2**26
PngImagePlugin.MAX_TEXT_MEMORY = 2**27
DICOM_MARK = b"DICM"  # after a preamble of 128 bytes
_DARK = 12  # grey level below which a fundus photograph shows no retina


class BadImageError(Mistake):
    """An image file that cannot be used; the message is the reason, without the name."""


def decode(data: bytes, channels: int) -> np.ndarray:
    """Decodes an image file completely.

    16-bit images are scaled to 8 bits, palettes resolved, transparency laid on black, the
    EXIF orientation applied.

    Args:
      data: content of the file.
      channels: 1 for grey, 3 for RGB.

    Returns:
      uint8 ``[H, W, channels]``.

    Raises:
      BadImageError: with the reason.
    """
    return to_array(open_image(data), channels)


def open_image(data: bytes) -> Image.Image:
    """Decodes an image file, pixels and channels as they are in it.

    Args:
      data: content of the file. Of DICOM files only pixels are read (``dicom.py``).

    Returns:
      The whole image, the EXIF orientation applied.

    Raises:
      BadImageError: with the reason.
    """
    if not data:
        raise BadImageError("the file is empty (0 bytes)")
    if data[128:132] == DICOM_MARK:
        from wlsrl_jax.data.images.dicom import read_frame  # an optional package

        return read_frame(io.BytesIO(data))
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_size(*image.size)
            image.load()
            return ImageOps.exif_transpose(image)
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(f"too many pixels ({error})") from None
    except Image.UnidentifiedImageError:
        raise BadImageError(
            f"not an image in any known format ({', '.join(FORMATS)}), whatever its name says"
        ) from None
    except Exception as error:  # Pillow's decoders raise many kinds for damaged data
        raise BadImageError(f"truncated or damaged ({error})") from None


def check_size(width: int, height: int) -> None:
    """Refuses sizes, in pixels, that no camera makes.

    Raises:
      BadImageError: with the reason.
    """
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{width}x{height} pixels are more than {MAX_PIXELS:,}")
    if max(width, height) > MAX_SIDE:
        raise BadImageError(f"{width}x{height} pixels; a side is above {MAX_SIDE:,} pixels")
    if min(width, height) < MIN_SIDE:
        raise BadImageError(f"{width}x{height} pixels; a side is below {MIN_SIDE} pixels")


def read_file(path: Path) -> bytes:
    """Reads an image file.

    Raises:
      BadImageError: if it cannot be read or is larger than any image.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise BadImageError(f"{size:,} bytes are more than {MAX_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise BadImageError(f"cannot be read ({error.strerror})") from None


def to_array(image: Image.Image, channels: int) -> np.ndarray:
    """Converts an opened image; see ``decode`` for how.

    Args:
      image: of any mode.
      channels: 1 for grey, 3 for RGB.

    Returns:
      uint8 ``[H, W, channels]``.

    Raises:
      BadImageError: for pixels without a known range.
    """
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        wide = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.clip(np.rint(wide / 257.0), 0, 255).astype(np.uint8))
    elif image.mode == "F":
        raise BadImageError("floating-point pixels have no known range; save it as 8 or 16 bit")
    elif "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    try:
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except ValueError:
        raise BadImageError(f"pixels of mode {image.mode} cannot be converted") from None
    return pixels.reshape(*pixels.shape[:2], channels)


def crop_field(image: np.ndarray) -> np.ndarray:
    """Crops a fundus photograph to its round field and pads it with black to a square.

    Args:
      image: uint8 ``[H, W, 3]``.

    Returns:
      uint8 ``[S, S, 3]``; the whole image where no field stands out.
    """
    bright = image.max(axis=2) > _DARK
    rows, columns = (
        np.flatnonzero(bright.mean(axis=1) > 0.02),
        np.flatnonzero(bright.mean(axis=0) > 0.02),
    )
    if rows.size >= MIN_SIDE and columns.size >= MIN_SIDE:
        image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = image.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(image, ((top, side - height - top), (left, side - width - left), (0, 0)))


def shrink(
    image: np.ndarray, modality: str, height: int, width: int, steps: Sequence[str] = ()
) -> np.ndarray:
    """Crops a decoded image (fundus), applies steps and resizes it, as prepared data are.

    Args:
      image: uint8 ``[H, W, C]``.
      modality: "oct" or "fundus".
      height: of the result, pixels.
      width: of the result, pixels.
      steps: names of ``preprocess.STEPS``, applied in this order before the resize.

    Returns:
      uint8 ``[height, width, C]``.
    """
    image = crop_field(image) if modality == "fundus" else image
    return resize(apply_steps(image, steps, height, width), height, width)


def presize(
    data: bytes, modality: str, height: int, width: int, steps: Sequence[str] = ()
) -> bytes:
    """Decodes an image, makes it as small as prepared data are, and encodes it as PNG.

    Args:
      data: content of the file.
      modality: "oct" or "fundus".
      height: of the result, pixels.
      width: of the result, pixels.
      steps: see ``shrink``.

    Returns:
      A PNG file; the same bytes for the same input.

    Raises:
      BadImageError: with the reason.
    """
    small = shrink(decode(data, 1 if modality == "oct" else 3), modality, height, width, steps)
    if modality == "fundus":
        small = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    done, buffer = cv2.imencode(".png", small)
    if not done:
        raise BadImageError("cannot be encoded as PNG")
    return buffer.tobytes()


def is_image_name(path: Path) -> bool:
    """Whether a file name says that it is an image; hidden files are not."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
