"""Files of wide pixels, as cameras, ImageJ and scripts write them."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2


def grey(seed=0, size=(40, 48)):
    """A picture that uses all grey levels, 0 and 255 among them."""
    found = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    found[0, :2] = 0, 255
    return found


def scaled(pixels, bits):
    """8-bit pixels as values of so many bits."""
    return np.rint(pixels.astype(np.float64) / 255 * (2**bits - 1)).astype(np.uint16)


def png(values, sbit=None, exif=None):
    """A 16-bit PNG of ``[H, W]`` or ``[H, W, 3 or 4]`` (RGB, RGBA), with sBIT and eXIf if given."""
    order = [2, 1, 0, 3][: values.shape[-1]]
    data = cv2.imencode(".png", values if values.ndim == 2 else values[..., order])[1].tobytes()
    chunk = lambda name, body: (  # noqa: E731
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    )
    extra = chunk(b"sBIT", bytes([sbit] * (1 if values.ndim == 2 else 3))) if sbit else b""
    extra += chunk(b"eXIf", exif.tobytes()[6:]) if exif else b""
    return data[:33] + extra + data[33:]


def tiff(values, sign=False, **tags):
    """An uncompressed TIFF written by hand; tags by number as ``t262=0``."""
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    body = values.astype(values.dtype.newbyteorder("<")).tobytes()
    known = {
        256: width, 257: height, 258: [8 * values.dtype.itemsize] * samples, 259: 1,
        262: 1 if samples == 1 else 2, 273: 8, 277: samples, 278: height, 279: len(body),
        339: [2 if sign else 1] * samples,
    }  # fmt: skip
    known |= {int(name[1:]): value for name, value in tags.items()}
    known = {tag: value for tag, value in known.items() if value is not None}
    place = 8 + len(body) + len(body) % 2
    longer = place + 2 + 12 * len(known) + 4
    entries, rest = b"", b""
    for tag, value in sorted(known.items()):
        numbers = value if isinstance(value, list) else [value]
        kind = 4 if max(numbers) > 65535 or tag in (273, 279, 254) else 3
        packed = struct.pack(f"<{len(numbers)}{'I' if kind == 4 else 'H'}", *numbers)
        if len(packed) > 4:
            packed, rest = struct.pack("<I", longer + len(rest)), rest + packed
        entries += struct.pack("<HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    directory = struct.pack("<H", len(known)) + entries + struct.pack("<I", 0)
    return (
        struct.pack("<2sHI", b"II", 42, place) + body + b"\0" * (len(body) % 2) + directory + rest
    )


def pages(pictures, thumbnail=None):
    """A TIFF of several pages, with a thumbnail as a page of its own that says it is one."""
    file, frames = io.BytesIO(), [Image.fromarray(p) for p in pictures]
    if thumbnail is not None:
        frames.insert(1, Image.fromarray(thumbnail))
        tags = ImageFileDirectory_v2()
        tags[254] = 1
        frames[1].encoderinfo = {"tiffinfo": tags}
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:])
    return file.getvalue()
