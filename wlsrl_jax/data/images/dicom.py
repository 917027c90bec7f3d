"""DICOM images: ophthalmic tomography (OPT) and photography (OP), through pydicom.

Only pixels and what is needed to show them are read. Nothing else of the header, such as the
patient's name, is kept, written, logged or put into a message.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from wlsrl_jax.data.images.limits import MAX_BYTES, BadImageError, check_bytes, check_size
from wlsrl_jax.data.images.read_image import MAX_PAGES, Wide

MISSING = "a DICOM file; to read such files: pip install 'wlsrl_jax[dicom]'"


def _pydicom() -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError:
        raise BadImageError(MISSING) from None
    # Its warnings quote what stands in the header.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    return pydicom


def _open(source: Path | BinaryIO, **options: Any) -> Any:
    pydicom = _pydicom()
    try:
        return pydicom.dcmread(source, **options)
    except OSError as error:
        raise BadImageError(f"cannot be read ({error.strerror})") from None
    except Exception as error:  # damaged headers raise many kinds, some quoting the header
        raise BadImageError(f"a damaged DICOM file ({type(error).__name__})") from None


def _frames(header: Any) -> int:
    try:
        count = int(header.get("NumberOfFrames") or 1)
        height, width = int(header.Rows), int(header.Columns)
    except Exception:  # a damaged element raises many kinds when it is looked at
        raise BadImageError("a DICOM file without an image") from None
    check_size(width, height)
    if not 0 < count <= MAX_PAGES:
        raise BadImageError(f"a DICOM file that claims {count} frames")
    return count


def count_frames(path: Path) -> int:
    """Reads the number of frames, without the pixels.

    Args:
      path: of a DICOM file.

    Returns:
      1 for a single image, the number of B-scans for an OCT volume.

    Raises:
      BadImageError: if it cannot be read or holds no image, with the reason.
    """
    check_bytes(path, 16 * MAX_BYTES)
    return _frames(_open(path, stop_before_pixels=True))


def read_frame(source: Path | BinaryIO, frame: int | None = None) -> Image.Image | Wide:
    """Decodes one frame as a display would show it.

    Compressed data are decoded, YBR and palettes become RGB, grey values go through the modality
    transformation and the first window (or look-up table) of the file, and are inverted for
    MONOCHROME1. Without a window the whole range of the stored bits becomes 0..255, so that
    the frames of a volume stay comparable; where those bits are only the width of the type (16
    stored of 16), the range stays open.

    Args:
      source: path or content of the file.
      frame: number from 1, as DICOM counts; None for the only one.

    Returns:
      8-bit image of mode "L" or "RGB", or wide pixels of unknown range.

    Raises:
      BadImageError: if pydicom is not installed, or with the reason.
    """
    pydicom = _pydicom()
    data = _open(source, defer_size="1 MB" if isinstance(source, Path) else None)
    count = _frames(data)
    if frame is None and count > 1:
        raise BadImageError(f"a DICOM file of {count} frames; export them one by one")
    try:
        pixels = pydicom.pixels.pixel_array(source, index=(frame or 1) - 1)
    except (NotImplementedError, RuntimeError):
        syntax = pydicom.uid.UID(str(data.file_meta.get("TransferSyntaxUID", "")))
        raise BadImageError(
            f"a DICOM file compressed as {syntax.name}, damaged or without a decoder here; the "
            "decoders: pip install 'wlsrl_jax[dicom]'"
        ) from None
    except Exception as error:
        raise BadImageError(f"a damaged DICOM file ({type(error).__name__})") from None
    try:
        return _shown(pydicom, pixels, data)
    except Exception as error:
        raise BadImageError(f"a damaged DICOM file ({type(error).__name__})") from None


def _shown(pydicom: Any, pixels: np.ndarray, data: Any) -> Image.Image | Wide:
    if data.PhotometricInterpretation == "PALETTE COLOR":
        colours = pydicom.pixels.apply_color_lut(pixels, data)
        return Image.fromarray(colours) if colours.dtype == np.uint8 else Wide(colours)
    bits, open_range = int(data.BitsStored), _is_open(data)
    if pixels.ndim == 3:
        return Wide(pixels) if open_range else Image.fromarray(_to_bytes(pixels, 0, 2**bits - 1))
    if open_range:
        # A rescaling alone moves black and white with the values.
        falling = float(data.get("RescaleSlope") or 1) < 0
        return Wide(pixels, inverted=_inverted(data) != falling)
    grey = _to_bytes(*_windowed(pydicom, pixels, data))
    return Image.fromarray(255 - grey if _inverted(data) else grey)


def _is_open(data: Any) -> bool:
    """Whether the header leaves open what is white: its bits are only the width of the type."""
    if data.PhotometricInterpretation == "PALETTE COLOR":
        return int(data.RedPaletteColorLookupTableDescriptor[2]) > 8
    said = ("WindowWidth", "VOILUTSequence", "ModalityLUTSequence")
    wide = 8 < int(data.BitsStored) == int(data.BitsAllocated)
    return wide and (int(data.SamplesPerPixel) > 1 or not any(data.get(name) for name in said))


def has_open_range(path: Path) -> bool:
    """Whether the pixels of a DICOM file are wide and its header does not say what is white."""
    try:
        return _is_open(_open(path, stop_before_pixels=True))
    except Exception:  # whatever is wrong with it is told where it is read
        return False


def _inverted(data: Any) -> bool:
    shape = data.get("PresentationLUTShape")
    return shape == "INVERSE" if shape else data.PhotometricInterpretation == "MONOCHROME1"


def _windowed(pydicom: Any, stored: np.ndarray, data: Any) -> tuple[np.ndarray, float, float]:
    """Grey values as they are shown, and the values that are black and white."""
    bits = int(data.BitsStored)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if data.PixelRepresentation else (
        0, 2**bits - 1
    )  # fmt: skip
    values = pydicom.pixels.apply_modality_lut(stored, data)
    if "ModalityLUTSequence" in data:
        low, high = 0, 2 ** int(data.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
    elif "RescaleSlope" in data:
        slope, shift = float(data.RescaleSlope), float(data.get("RescaleIntercept", 0))
        low, high = low * slope + shift, high * slope + shift
    if data.get("VOILUTSequence"):
        shown = pydicom.pixels.apply_voi(values, data)
        return shown, 0, 2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1
    if data.get("WindowWidth"):
        return pydicom.pixels.apply_windowing(values, data), low, high
    return values, min(low, high), max(low, high)


def _to_bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = (values.astype(np.float64) - low) * (255.0 / (high - low))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
