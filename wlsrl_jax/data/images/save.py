"""Writing a picture that a command was asked for."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from wlsrl_jax.files import Mistake, write_whole

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def picture_format(path: Path) -> str:
    """The format that a file name asks for; to be looked at before there is a picture.

    Raises:
      Mistake: if it is none that is written.
    """
    if path.suffix.lower() not in _FORMATS:
        raise Mistake(f"--output={path} must end in .jpg or .png.")
    return _FORMATS[path.suffix.lower()]


def save_picture(path: Path, image: Image.Image) -> None:
    """Writes a picture whole or not at all; its folder is made.

    Raises:
      Mistake: see ``picture_format``.
    """
    content = io.BytesIO()
    image.save(content, picture_format(path), quality=82)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getvalue())
