"""Runs an exported model on image files: python run_model.py [--pixel_bits=BITS] IMAGE...

Needs jax, numpy, flatbuffers, opencv-python-headless and Pillow, and beside it model.stablehlo,
model.json, read_image.py and pixels.py.
Research use only: no medical device, not for decisions about patients.
"""

import hashlib
import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax import export


def load(folder):
    """Reads a model.

    Args:
      folder: with ``model.stablehlo`` and ``model.json``.

    Returns:
      (function of uint8 ``[B, H, W, C]`` giving task -> probabilities, content of model.json).

    Raises:
      ValueError: if the artifact is damaged.
    """
    folder = Path(folder)
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    artifact = (folder / "model.stablehlo").read_bytes()
    if hashlib.sha256(artifact).hexdigest() != about["sha256"]:
        raise ValueError(f"{folder}/model.stablehlo is damaged: its SHA-256 is another.")
    return jax.jit(export.deserialize(bytearray(artifact)).call), about


def read(path, about, page=0, pixel_range=None):
    """Reads an image file as the model's input.

    Args:
      path: of a PNG, JPEG, TIFF or BMP file.
      about: content of model.json.
      page: number from 1 in a file of several pages, or 0.
      pixel_range: of pixels of more than 8 bits of which the file does not say it; that of the
        model's own data if not given.

    Returns:
      uint8 ``[H, W, C]``.

    Raises:
      ValueError: if it cannot be read, with the reason.
    """
    import pixels  # beside this file
    import read_image

    wanted = about["input"]
    _, height, width, channels = wanted["shape"]
    try:
        opened = read_image.open_image(Path(path), page)
        image = read_image.to_array(opened, channels, pixel_range or known_range(about))
    except (read_image.UnreadableError, OSError) as error:
        raise ValueError(f"{path}: {error}") from None
    if wanted["prepared_size"]:
        size, steps = wanted["prepared_size"], wanted["preprocess"]
        image = pixels.shrink(image, *size, steps, crop=wanted["cropped"])
    return pixels.resize(image, height, width)


def known_range(about):
    """The range of wide pixels in the data that the model was trained on, or None."""
    import read_image

    bits = about["input"].get("pixel_bits")
    return read_image.PixelRange.parse(bits) if bits else None


def set_range(images):
    """The range of wide pixels in a set of (path, page), or None if no image needs it."""
    import read_image

    extents = []
    for path, page in images:
        try:
            opened = read_image.open_image(Path(path), page)
        except (read_image.UnreadableError, OSError):
            continue  # told where it is read
        if isinstance(opened, read_image.Wide) and opened.extent:
            extents.append(opened.extent)
    return read_image.decide_range(extents)


def main(arguments):
    """Prints the probabilities of image files, a JSON line each."""
    import read_image

    predict, about = load(Path(__file__).resolve().parent)
    flags = [a for a in arguments if a.startswith(read_image.FLAG + "=")]
    images = []
    for path in (a for a in arguments if a not in flags):
        pages = read_image.count_pages(Path(path))
        images += [(path, page) for page in (range(1, pages + 1) if pages > 1 else [0])]
    if flags:
        pixel_range = read_image.PixelRange.parse(flags[-1].partition("=")[2], given=True)
    else:
        pixel_range = known_range(about) or set_range(images)
    for path, page in images:
        output = predict(read(path, about, page, pixel_range)[None])
        found = {
            task: dict(
                zip(about["output"][task]["classes"], np.asarray(p)[0].tolist(), strict=True)
            )
            for task, p in output.items()
        }
        print(json.dumps({"path": f"{path}#{page}" if page else str(path), **found}))


if __name__ == "__main__":
    main(sys.argv[1:])
