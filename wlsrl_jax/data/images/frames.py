"""Files of several images: the frames of DICOM, the pages of TIFF."""

from __future__ import annotations

from pathlib import Path

from wlsrl_jax.data.images import read_image
from wlsrl_jax.data.images.decode import is_dicom
from wlsrl_jax.data.images.dicom import count_frames
from wlsrl_jax.data.images.limits import bad_images

_SUFFIXES = ("", ".dcm", ".dicom", ".tif", ".tiff")


def may_hold_several(path: Path) -> bool:
    """Whether files of this name may hold several images, so that they are looked into."""
    return path.suffix.lower() in _SUFFIXES


def count_images(path: Path) -> int:
    """Counts the images of a file, without their pixels.

    Args:
      path: of a regular file.

    Returns:
      Frames of a DICOM file, pages of a TIFF (neither thumbnails nor masks); 1 for other files.

    Raises:
      BadImageError: for a damaged DICOM file, or one that claims more than any has.
    """
    if is_dicom(path):
        return count_frames(path)
    with bad_images():
        return read_image.count_pages(path)
