"""Contact sheet of what the preprocessing steps do.

wlsrl steps --modality=oct --output=sheet.jpg IMAGE...
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wlsrl_jax import cli
from wlsrl_jax.data.images.decode import to_array
from wlsrl_jax.data.images.limits import BadImageError
from wlsrl_jax.data.images.listing import Item, find_images
from wlsrl_jax.data.images.pixels import SIDE, apply_steps, crop_field, resize
from wlsrl_jax.data.images.read_image import PixelRange
from wlsrl_jax.data.images.save import picture_format, save_picture
from wlsrl_jax.data.images.set_range import add_flag, chosen_range, range_line
from wlsrl_jax.data.images.steps import check_steps, describe, parse_steps
from wlsrl_jax.files import Mistake
from wlsrl_jax.tasks import MODALITIES

_TITLE = 22  # pixels of a line of text
_MARGIN = 4


def _read(item: Item, modality: str, pixel_range: PixelRange | None) -> np.ndarray:
    """Reads an image and crops it to its round field.

    Raises:
      Mistake: naming the file, if it cannot be used.
    """
    try:
        pixels = to_array(item.open(), MODALITIES[modality].channels, pixel_range)
    except BadImageError as error:
        raise Mistake(f"{item.name}: {error}") from None
    return crop_field(pixels) if MODALITIES[modality].round_field else pixels


def contact_sheet(
    named: Sequence[tuple[str, np.ndarray]], modality: str, together: Sequence[str], width: int
) -> np.ndarray:
    """Draws a row for every image: as it is, after each step alone, after several.

    Args:
      named: (title, uint8 ``[H, W, C]``, cropped) of each image.
      modality: a name in ``tasks.MODALITIES``.
      together: steps of a last column, applied one after the other; without any it is not there.
      width: of a picture, pixels.

    Returns:
      uint8 ``[height, width, 3]``.
    """
    kind = MODALITIES[modality]
    columns: dict[str, tuple[str, ...]] = {"cropped" if kind.round_field else "original": ()}
    columns |= {name: (name,) for name in kind.steps}
    if len(together) > 1:
        columns[describe(together)] = tuple(together)
    heights = [round(width * image.shape[0] / image.shape[1]) for _, image in named]
    sheet = Image.new(
        "RGB",
        (len(columns) * (width + _MARGIN) + _MARGIN, sum(heights) + _TITLE * (len(named) + 1)),
        "white",
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    lefts = [_MARGIN + k * (width + _MARGIN) for k in range(len(columns))]
    for left, title in zip(lefts, columns, strict=True):
        draw.text((left, 2), title, "black", font)
    top = _TITLE
    for (name, image), height in zip(named, heights, strict=True):
        for left, steps in zip(lefts, columns.values(), strict=True):
            cell = resize(apply_steps(image, steps, SIDE, SIDE), height, width)
            sheet.paste(Image.fromarray(np.broadcast_to(cell, (height, width, 3))), (left, top))
        draw.text((_MARGIN, top + height + 2), name, "dimgrey", font)
        top += height + _TITLE
    return np.asarray(sheet)


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = cli.Parser(
        "steps",
        description="Shows images before and after the steps of prepare --preprocess.",
    )
    cli.add_images(parser)
    parser.add_argument("--modality", choices=list(MODALITIES), required=True, help="of the images")
    parser.add_argument(
        "--output", type=cli.output_file, required=True, help="JPEG or PNG to write"
    )
    parser.add_argument(
        "--preprocess",
        type=parse_steps,
        default=(),
        metavar="NAME,...",
        help="a last column: these steps one after the other, as prepare would apply them",
    )
    parser.add_argument(
        "--width",
        type=cli.number(16, 4096),
        default=320,
        help="of a picture, pixels; default: %(default)s",
    )
    add_flag(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the sheet that the arguments ask for."""
    args = make_parser().parse_args(argv)
    picture_format(args.output)
    together = check_steps(args.preprocess, args.modality)
    listed = find_images(args.images)
    items = listed.items
    for line in listed.sentences():
        print(line)
    pixel_range = chosen_range(args.pixel_bits, None, items)
    if pixel_range:
        print(range_line(pixel_range))
    named = [(Path(item.name).name, _read(item, args.modality, pixel_range)) for item in items]
    sheet = Image.fromarray(contact_sheet(named, args.modality, together, args.width))
    save_picture(args.output, sheet)
    print(f"{args.output}: {len(named)} images")
