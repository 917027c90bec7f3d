"""Reading image files, and what is black and white in pixels of more than 8 bits.

Only NumPy, OpenCV and Pillow are imported, for exported models carry a copy of this file: there is
one reader.

8-bit pixels are grey levels as they are. Wider ones are not: 12 bits of a camera lie in files of 16
bits, where full white is 4095. Their range is what the file says; else the smallest of 8, 10, 12,
14 and 16 bits that holds the largest value of all images of a set (``decide_range``), never of one
image, for a dark image must stay dark.
"""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

MIN_SIDE = 16
MAX_SIDE = 12_000  # a fundus photograph is laid on a square
MAX_PIXELS = 64_000_000  # 8 k x 8 k; no fundus camera comes near. More is a mistake or an attack
MAX_PAGES = 100_000  # a file may claim any number
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "AVIF", "PPM")  # of dozens
FLAG = "--pixel_bits"
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# Some cameras write a long text into their PNG; it is not read, but it is no damage.
PngImagePlugin.MAX_TEXT_CHUNK = 2**26
PngImagePlugin.MAX_TEXT_MEMORY = 2**27

_BITS = (8, 10, 12, 14, 16)
_FEW = 10  # images whose largest value tells little, unless it needs the range's highest bit
_DARKEST = 16  # an image whose maximum is below this part of the range shows nothing
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")  # may hold a film; others, pages or thumbnails
_GREY = ("I;16", "I;16B", "I;16L", "I")  # modes of wide pixels
_ORIENTATION = 0x0112
_PNG = b"\x89PNG\r\n\x1a\n"
_EXTRA, _MAXIMUM, _SIGNED_MAXIMUM, _PHOTOMETRIC, _BITS_PER_SAMPLE, _SUBFILE = (
    338, 281, 341, 262, 258, 254
)  # fmt: skip


class UnreadableError(ValueError):
    """An image file that cannot be used; the message is the reason, without the name."""


class RangeError(ValueError):
    """The range of wide pixels cannot be told; the message names the flag that decides."""


@dataclasses.dataclass(frozen=True)
class PixelRange:
    """Which values of wide pixels are black and white.

    Attributes:
      bits: of the values.
      signed: whether they begin below 0, at ``-2 ** (bits - 1)``.
      given: by the user, so that no image is refused for being dark.
    """

    bits: int
    signed: bool = False
    given: bool = False

    @property
    def low(self) -> int:
        """The value that is black."""
        return -(2 ** (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The value that is white."""
        return 2 ** (self.bits - self.signed) - 1

    def __str__(self) -> str:
        return f"{'s' if self.signed else ''}{self.bits}"

    @classmethod
    def parse(cls, text: str, *, given: bool = False) -> PixelRange:
        """Reads what ``str`` gives, and the value of the flag: "12", or "s12" with a sign.

        Raises:
          RangeError: for any other text.
        """
        found = re.fullmatch(r"(s?)([1-9][0-9]?)", text)
        if not found or not 8 <= int(found[2]) <= 32:
            raise RangeError(
                f"{FLAG}={text}: give the bits of a value, 8 to 32, as in {FLAG}=12, which is 0 to "
                f"4095, or {FLAG}=s12, which is -2048 to 2047."
            )
        return cls(int(found[2]), bool(found[1]), given)

    def describe(self) -> str:
        """Says it in words: "0 to 4095 (12 bits)"."""
        return f"{self.low} to {self.high} ({self.bits} bits)"


@dataclasses.dataclass(frozen=True)
class Extent:
    """Smallest and largest value of an image of unknown range, and the largest possible one."""

    low: int
    high: int
    top: int


@dataclasses.dataclass(frozen=True)
class Wide:
    """An image of more than 8 bits a channel.

    Attributes:
      values: integers ``[H, W]`` or ``[H, W, 3]``, as stored.
      opacity: float ``[H, W]``, 0 to 1, or None; what is transparent lies on black.
      inverted: whether the smallest value is white.
      declared: the range, if the file says it.
    """

    values: np.ndarray
    opacity: np.ndarray | None = None
    inverted: bool = False
    declared: PixelRange | None = None

    @property
    def extent(self) -> Extent | None:
        """What the range is decided from; None where the file says it."""
        if self.declared:
            return None
        top = np.iinfo(self.values.dtype).max
        return Extent(int(self.values.min()), int(self.values.max()), int(top))

    def narrow(self, pixel_range: PixelRange | None) -> Image.Image:
        """Makes grey levels or colours of 8 bits.

        Args:
          pixel_range: of the set; not used where the file says its own.

        Raises:
          UnreadableError: if the range is not known, or cannot be that of this image.
        """
        where = self.declared or pixel_range
        if where is None:
            raise UnreadableError(
                f"{8 * self.values.dtype.itemsize}-bit pixels, and nothing says which value is "
                f"white; {FLAG}=12 (or 8, 10, 14, 16) does"
            )
        if (extent := self.extent) is not None:
            _check_fits(extent, where)
        # Rounding has no ties, for (2**bits - 1) is odd.
        scaled = (self.values.astype(np.float64) - where.low) * (255.0 / (where.high - where.low))
        grey = np.clip(np.rint(scaled), 0, 255)
        grey = 255 - grey if self.inverted else grey
        if self.opacity is not None:
            opacity = self.opacity if grey.ndim == 2 else self.opacity[..., None]
            grey = np.rint(grey * opacity)
        return Image.fromarray(grey.astype(np.uint8))


def _check_fits(found: Extent, where: PixelRange) -> None:
    text = f"{where.describe()}, the range of these images"
    alone = f"if its own is another, use this file alone, with {FLAG}"
    if found.high > where.high or (found.low < where.low and where.signed):
        worst = found.high if found.high > where.high else found.low
        raise UnreadableError(f"a pixel of {worst} is outside of {text}; {alone}")
    if where.given:
        return
    full = [] if where.signed else [2**b - 1 for b in _BITS if b < where.bits]
    if found.high in full:
        bits = found.high.bit_length()
        raise UnreadableError(
            f"its largest pixel is exactly {found.high}, all of {bits} bits, and not of {text}; "
            f"{alone}"
        )
    if (found.high - where.low) * _DARKEST < where.high - where.low:
        raise UnreadableError(
            f"its largest pixel, {found.high}, would be nearly black in {text}; {alone}"
        )


def decide_range(extents: Iterable[Extent]) -> PixelRange | None:
    """Finds the range of a set of images whose files do not say it.

    Args:
      extents: of all of them.

    Returns:
      The smallest of 8, 10, 12, 14 and 16 bits that holds the largest value; None for no image.

    Raises:
      RangeError: if more than one range is as likely: few images that do not use the highest bit,
        values of more than 16 bits, or values below 0 that do not span as much as those above.
    """
    low, high, top, count = 0, 0, 0, 0
    for found in extents:
        count += 1
        low, high, top = min(low, found.low), max(high, found.high), max(top, found.top)
    if not count:
        return None
    images = "the only image" if count == 1 else f"{count} images"
    ask = (
        f"pixels of more than 8 bits, and no file says which value is white: the values of {images}"
        f" are {low} to {high}. Say it with {FLAG}=12, which is 0 to 4095, or 8, 10, 14, 16; "
        f"{FLAG}=s12 is -2048 to 2047."
    )
    wide = next((b for b in _BITS if high < 2**b), None)
    if wide is None or low < -(2**15):
        raise RangeError(ask)
    if low < 0:
        above, below = (
            next(b for b in (*_BITS, 17) if value <= 2 ** (b - 1)) for value in (high + 1, -low)
        )
        if above != below:
            raise RangeError(ask)
        return PixelRange(above, signed=True)
    if wide < 16 and high < 2 ** (wide - 1) and count < _FEW:
        raise RangeError(ask)
    return PixelRange(min(wide, top.bit_length()))


def open_image(source: bytes | Path, page: int = 0) -> Image.Image | Wide:
    """Decodes an image completely, pixels and channels as they are in the file.

    Args:
      source: content of the file, or the file.
      page: number from 1 in a file of several (``count_pages``); 0 for any other file.

    Returns:
      The image, the EXIF orientation applied.

    Raises:
      UnreadableError: with the reason.
    """
    if isinstance(source, bytes) and not source:
        raise UnreadableError("the file is empty (0 bytes)")
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file,
            Image.open(file, formats=FORMATS) as image,
        ):
            found = _pages(image)
            if not page and len(found) > 1:
                raise UnreadableError(f"a file of {len(found)} pages; save each as its own file")
            if page > len(found):
                raise UnreadableError(f"there is no page {page}; this file has {len(found)}")
            image.seek(found[max(page, 1) - 1])
            check_size(*image.size)
            _refuse_film(image)
            image.load()
            if not _is_wide(image, file):
                return ImageOps.exif_transpose(image)
            return _wide(image, file)
    except UnreadableError:
        raise
    except Image.DecompressionBombError as error:
        raise UnreadableError(f"too many pixels ({error})") from None
    except Image.UnidentifiedImageError:
        raise UnreadableError(
            f"not an image in any known format ({', '.join(FORMATS)}), whatever its name says"
        ) from None
    except Exception as error:  # Pillow's decoders raise many kinds for damaged data
        raise UnreadableError(f"truncated or damaged ({error})") from None


def _refuse_film(image: Any) -> None:
    """Refuses an animation: which of its frames is meant, nobody knows but its owner."""
    count = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
    if count > 1:
        raise UnreadableError(
            f"an animated {image.format} of {count} frames; save those that you want as PNG files"
        )


def check_size(width: int, height: int) -> None:
    """Refuses sizes, in pixels, that no camera makes.

    Raises:
      UnreadableError: with the reason.
    """
    if width * height > MAX_PIXELS:
        raise UnreadableError(f"{width}x{height} pixels are more than {MAX_PIXELS:,}")
    if max(width, height) > MAX_SIDE:
        raise UnreadableError(f"{width}x{height} pixels; a side is above {MAX_SIDE:,} pixels")
    if min(width, height) < MIN_SIDE:
        raise UnreadableError(f"{width}x{height} pixels; a side is below {MIN_SIDE} pixels")


def has_wide_pixels(path: Path) -> bool:
    """Whether the (first) picture of a file has more than 8 bits a channel; reads its header."""
    try:
        with path.open("rb") as file:
            head = file.read(25)
            if head.startswith(_PNG):
                return head[24:] == b"\x10"
            if head[:2] not in (b"II", b"MM"):
                return False
            with Image.open(file, formats=FORMATS) as image:
                return _is_wide(image, file)
    except Exception:  # whatever is wrong with it is told where it is read
        return False


def count_pages(path: Path) -> int:
    """Counts the pictures of a file, without decoding them; 1 for what is no image.

    Raises:
      UnreadableError: if it claims more than ``MAX_PAGES``.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return max(1, len(_pages(image)))
    except UnreadableError:
        raise
    except Exception:  # whatever is wrong with it is told where it is read
        return 1


def _pages(image: Any) -> list[int]:
    """The frames that are pictures of their own: neither smaller copies nor masks (TIFF 6.0)."""
    count = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if count > MAX_PAGES:
        raise UnreadableError(f"a file that claims {count} pages")
    if count == 1:
        return [0]
    found = []
    for k in range(count):
        image.seek(k)
        if not image.tag_v2.get(_SUBFILE, 0) & 0b101:
            found.append(k)
    return found or [0]


def _is_wide(image: Any, file: Any) -> bool:
    if image.mode in _GREY:
        return True
    if image.format == "PNG":
        file.seek(24)  # the bit depth, in the first chunk
        return file.read(1) == b"\x10"
    return image.format == "TIFF" and image.mode != "F" and max(_depths(image)) > 8


def _depths(image: Any) -> tuple[int, ...]:
    depths = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))
    return depths if isinstance(depths, tuple) else (depths,)


def _wide(image: Any, file: Any) -> Wide:
    grey = image.mode in _GREY
    if grey:
        values, opacity = np.asarray(ImageOps.exif_transpose(image)), None
        if image.format == "PNG" and isinstance(clear := image.info.get("transparency"), int):
            opacity = (values != clear).astype(np.float64)
    else:
        values, opacity = _colours(image, file)
    if image.format == "PNG":
        return Wide(values, opacity, declared=_png_range(values, file))
    if image.format != "TIFF":  # PGM, JPEG 2000: Pillow has scaled them to 16 bits
        return Wide(values, opacity, declared=PixelRange(16))
    tags, depth = image.tag_v2, max(_depths(image))
    if grey and _PHOTOMETRIC not in tags:
        raise UnreadableError("a TIFF that does not say whether 0 is black or white")
    if values.dtype == np.int32 and depth == 16:
        values = values.astype(np.int16)  # Pillow widens those with a sign
    elif values.dtype == np.int32 and tags.get(339, (1,))[0] == 1:
        values = values.view(np.uint32)
    inverted = grey and tags[_PHOTOMETRIC] == 0
    return Wide(values, opacity, inverted, _tiff_range(values, depth, tags))


def _colours(image: Any, file: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """16-bit colours through OpenCV, for Pillow keeps their higher bytes alone."""
    if image.mode not in ("RGB", "RGBA", "RGBa", "RGBX", "LA"):
        raise UnreadableError(f"16-bit pixels of mode {image.mode}; save it as RGB or grey")
    file.seek(0)
    content, frame = np.frombuffer(file.read(), np.uint8), image.tell()
    if frame:
        found = cv2.imdecodemulti(content, cv2.IMREAD_UNCHANGED, range=(frame, frame + 1))[1]
        pixels = found[0] if found else None
    else:
        pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    if (
        pixels is None
        or pixels.dtype != np.uint16
        or pixels.ndim != 3
        or pixels.shape[2] not in (3, 4)
    ):
        raise UnreadableError("16-bit colours stored in a way that is not known; save it as PNG")
    if image.format == "PNG":  # a TIFF is turned by OpenCV
        pixels = _turned(pixels, image.getexif().get(_ORIENTATION, 1))
    extra = image.tag_v2.get(_EXTRA, (2,)) if image.format == "TIFF" else (2,)
    clear = pixels.shape[2] == 4 and tuple(extra)[:1] == (2,)  # not multiplied by it already
    opacity = pixels[..., 3] / 65535.0 if clear else None
    return np.ascontiguousarray(pixels[..., 2::-1]), opacity


def _png_range(values: np.ndarray, file: Any) -> PixelRange | None:
    """What the chunk sBIT means: the bits that there were before the writer scaled them to 16.

    Some writers set it and do not scale; then values stay below ``2 ** bits`` and use the bits
    that scaling leaves empty.
    """
    file.seek(len(_PNG))
    while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
        size = int.from_bytes(head[:4], "big")
        if head[4:] == b"sBIT":
            colours = file.read(size)[: 1 if size <= 2 else 3]
            bits = max(colours, default=16)
            if not 8 <= bits < 16:
                return None
            raw = values.max() < 2**bits and bool((values & (2 ** (16 - bits) - 1)).any())
            return PixelRange(bits if raw else 16)
        file.seek(size + 4, io.SEEK_CUR)
    return None


def _tiff_range(values: np.ndarray, depth: int, tags: Any) -> PixelRange | None:
    """Bits that fill no bytes, or a maximum of 255, 1023, 4095 or 16383 that no pixel exceeds.

    Any other maximum is that of one image, or of the type, and tells nothing.
    """
    if depth % 8:
        return PixelRange(depth)
    for tag in (_SIGNED_MAXIMUM, _MAXIMUM):
        largest = tags.get(tag)
        largest = largest[0] if isinstance(largest, tuple) else largest
        if largest in (2**b - 1 for b in _BITS if b < depth):
            if values.min() >= 0 and values.max() <= largest:
                return PixelRange(int(largest).bit_length())
    return None


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Applies an EXIF orientation, as ``ImageOps.exif_transpose`` does."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def to_array(
    image: Image.Image | Wide, channels: int, pixel_range: PixelRange | None = None
) -> np.ndarray:
    """Converts an opened image to grey levels or colours of 8 bits.

    Wide pixels are scaled, palettes resolved, transparency laid on black.

    Args:
      image: of any mode.
      channels: 1 for grey, 3 for RGB.
      pixel_range: of wide pixels of which the file does not say it.

    Returns:
      uint8 ``[H, W, channels]``.

    Raises:
      UnreadableError: for pixels without a known range.
    """
    if isinstance(image, Wide):
        image = image.narrow(pixel_range)
    elif image.mode == "F":
        raise UnreadableError("floating-point pixels have no known range; save it as 8 or 16 bit")
    elif "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    try:
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except ValueError:
        raise UnreadableError(f"pixels of mode {image.mode} cannot be converted") from None
    return pixels.reshape(*pixels.shape[:2], channels)
