"""Files that hold pictures in a format that is not read here: what they are, and what reads them.

They are known by their first bytes, and by their name where those say nothing. The names count as
names of images, so that such files are told wherever images are listed and not passed over.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A format.

    Attributes:
      what: it is, in a sentence.
      remedy: how to get a picture out of it.
      suffixes: of its files.
      start: bytes at the beginning of its files; b"" where there are none to rely on.
      listed: whether such a file in a folder is meant as an image; documents are not.
    """

    what: str
    remedy: str
    suffixes: tuple[str, ...]
    start: bytes = b""
    listed: bool = True


_OCT_VOLUME = "export its B-scans as PNG or DICOM, or read them with the Python package {}"
FORMATS = (
    Foreign(
        "a Heidelberg volume (.e2e)",
        _OCT_VOLUME.format("oct-converter or eyepy"),
        (".e2e", ".sdb"),
        b"CMDb",
    ),
    Foreign("a Heidelberg volume (.vol)", _OCT_VOLUME.format("eyepy"), (".vol",), b"HSF-OCT"),
    Foreign(
        "a Topcon volume (.fda, .fds)",
        _OCT_VOLUME.format("oct-converter"),
        (".fda", ".fds"),
        b"FOCT",
    ),
    Foreign(
        "a volume of an OCT device (.oct, .oct3d)",
        _OCT_VOLUME.format("oct-converter"),
        (".oct", ".oct3d"),
    ),
    Foreign(
        "an HEIC photograph",
        "save it as PNG or JPEG, for instance with the Python package pillow-heif",
        (".heic", ".heif", ".hif"),
    ),
    Foreign(
        "a JPEG XL image",
        "save it as PNG or JPEG, for instance with the Python package pillow-jxl-plugin",
        (".jxl",),
    ),
    Foreign(
        "a raw file of a camera",
        "develop it to PNG or TIFF, for instance with the Python package rawpy",
        (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2"),
    ),
    Foreign(
        "a PDF document",
        "save the picture in it as PNG, for instance with pdfimages or the Python package PyMuPDF",
        (".pdf",),
        b"%PDF",
        listed=False,
    ),
    Foreign(
        "an SVG drawing",
        "export it as PNG, for instance with Inkscape or the Python package CairoSVG",
        (".svg",),
        listed=False,
    ),
    Foreign(
        "a film",
        "save the frames that you want as PNG, for instance with ffmpeg",
        (".mp4", ".avi", ".mov", ".mkv"),
        listed=False,
    ),
    Foreign(
        "an array and no image file",
        "save its slices as PNG, for instance with the Python packages nibabel and Pillow",
        (".npy", ".npz", ".nii", ".mat", ".mhd", ".nrrd"),
        listed=False,
    ),
)
SUFFIXES = tuple(suffix for f in FORMATS if f.listed for suffix in f.suffixes)
_BRANDS = {b"heic": ".heic", b"heix": ".heic", b"hevc": ".heic", b"mif1": ".heic",
           b"msf1": ".heic", b"isom": ".mp4", b"mp42": ".mp4", b"qt  ": ".mov"}  # fmt: skip
_READABLE = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"BM", b"II", b"MM", b"RIFF", b"P5", b"P6",
             b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")  # fmt: skip


def explain(data: bytes, suffix: str = "") -> str:
    """Says what a file is that is known but not read here.

    Args:
      data: its content.
      suffix: of its name, with the dot; "" where there is no name. It counts where the content
        says nothing: a JPEG photograph named .heic is a JPEG photograph.

    Returns:
      What it is and what to do, or "".
    """
    brand = _BRANDS.get(data[8:12], "") if data[4:8] == b"ftyp" else ""
    head = data[:1000].lstrip(b"\xef\xbb\xbf \r\n\t")
    if head.startswith(b"<") and b"<svg" in head:
        brand = ".svg"
    for known in FORMATS:
        if known.start and data.startswith(known.start) or brand in known.suffixes:
            return f"{known.what}; {known.remedy}"
    by_content = data.startswith(_READABLE) or data[128:132] == b"DICM" or not data
    for known in FORMATS:
        if suffix.lower() in known.suffixes and not by_content:
            return f"{known.what}; {known.remedy}"
    return ""
