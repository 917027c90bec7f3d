"""The range of wide pixels in the images of a command: the flag's, the run's, or the set's own."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from wlsrl_jax.data.images.decode import is_dicom
from wlsrl_jax.data.images.limits import BadImageError
from wlsrl_jax.data.images.listing import Item
from wlsrl_jax.data.images.read_image import (
    FLAG,
    Extent,
    PixelRange,
    RangeError,
    Wide,
    decide_range,
    has_wide_pixels,
)
from wlsrl_jax.files import Mistake
from wlsrl_jax.runtime.threads import ordered_map


def add_flag(parser: argparse.ArgumentParser) -> None:
    """Adds the flag that says the range of wide pixels."""
    parser.add_argument(
        FLAG,
        default="",
        metavar="BITS",
        help="of pixels in 16-bit files that do not say it, such as 12: 0 to 4095 is black to "
        "white; default: of the run's data, or the smallest of 8, 10, 12, 14, 16 that holds all",
    )


def parse_flag(text: str) -> PixelRange | None:
    """Reads the flag; None where it is not given.

    Raises:
      Mistake: naming it.
    """
    with range_mistakes():
        return PixelRange.parse(text, given=True) if text else None


@contextlib.contextmanager
def range_mistakes() -> Iterator[None]:
    """Tells what ``read_image`` asks about a range as a ``Mistake``."""
    try:
        yield
    except RangeError as error:
        raise Mistake(str(error)) from None


def range_line(pixel_range: PixelRange) -> str:
    """A line for the terminal."""
    source = "" if pixel_range.given else f"; {FLAG} says otherwise"
    return (
        "pixels of more than 8 bits, where their file does not say what is black and white: "
        f"{pixel_range.describe()}{source}"
    )


def may_need_range(path: Path) -> bool:
    """Whether the header of a file allows for wide pixels of unknown range.

    Only images for which this holds are decoded to find the range of a set: 8-bit ones are not
    decoded twice.
    """
    if is_dicom(path):
        from wlsrl_jax.data.images.dicom import has_open_range  # an optional package

        return has_open_range(path)
    return has_wide_pixels(path)


def set_range(items: Iterable[Item]) -> PixelRange | None:
    """Decides the range of the images of a command.

    Args:
      items: all of them, also those that have a row already: the range is of the set.

    Returns:
      The range, or None where no image needs one.

    Raises:
      Mistake: if it cannot be told, naming the flag that decides.
    """

    def found() -> Iterator[Extent]:
        good = (i for i in items if not i.problem)
        # Frames of a volume follow each other.
        files = itertools.groupby(good, key=lambda i: i.path)
        candidates = (i for path, frames in files if may_need_range(Path(path)) for i in frames)
        yield from filter(None, ordered_map(_extent, candidates))

    with range_mistakes():
        return decide_range(found())


def _extent(item: Item) -> Extent | None:
    try:
        opened = item.open()
    except BadImageError:  # told where it is read
        return None
    return opened.extent if isinstance(opened, Wide) else None


def chosen_range(
    flag: str, recorded: PixelRange | None, items: Sequence[Item]
) -> PixelRange | None:
    """Chooses the range for the images of a command.

    Args:
      flag: value of the flag, or "".
      recorded: of the data that the run was trained on, or None.
      items: the images.

    Returns:
      The flag's, else the run's, else the set's own.

    Raises:
      Mistake: if it cannot be told, naming the flag that decides.
    """
    return parse_flag(flag) or recorded or set_range(items)
