"""What is refused of an image file before and while it is read, and how that is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from wlsrl_jax.data.images import read_image
from wlsrl_jax.files import Mistake

MAX_BYTES = 256 * 2**20


class BadImageError(Mistake):
    """An image file that cannot be used; the message is the reason, without the name."""


@contextlib.contextmanager
def bad_images() -> Iterator[None]:
    """Tells what ``read_image`` refuses as a ``BadImageError``."""
    try:
        yield
    except read_image.UnreadableError as error:
        raise BadImageError(str(error)) from None


def check_size(width: int, height: int) -> None:
    """Refuses sizes, in pixels, that no camera makes.

    Raises:
      BadImageError: with the reason.
    """
    with bad_images():
        read_image.check_size(width, height)


def check_bytes(path: Path, limit: int) -> None:
    """Refuses files that are larger than any image.

    Raises:
      BadImageError: with the reason, or if it cannot be read.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BadImageError(f"cannot be read ({error.strerror})") from None
    if size > limit:
        raise BadImageError(f"{size:,} bytes are more than {limit:,}")
