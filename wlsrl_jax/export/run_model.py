"""Runs an exported model on image files: python run_model.py IMAGE...

Needs jax, numpy, flatbuffers and opencv-python-headless, and beside it model.stablehlo, model.json
and, for fundus photographs or where model.json names steps under input.preprocess, preprocess.py.
Research use only: no medical device, not for decisions about patients.
"""

import hashlib
import json
import sys
from pathlib import Path

import cv2
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


def resize(image, height, width):
    """Resizes ``[H, W, C]``, by area when shrinking."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] > height or image.shape[1] > width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method).reshape(height, width, -1)


def read(path, about):
    """Reads a PNG, JPEG or TIFF file as the model's input, uint8 ``[H, W, C]``."""
    _, height, width, channels = about["input"]["shape"]
    grey = channels == 1
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path} is not an image that can be read.")
    image = image[..., None] if grey else image[..., ::-1]
    if about["input"]["prepared_size"]:
        if about["modality"] == "fundus":
            import preprocess  # beside this file

            image = preprocess.crop_field(image)
        if about["input"].get("preprocess"):
            import preprocess

            size = about["input"]["prepared_size"]
            image = preprocess.apply_steps(image, about["input"]["preprocess"], *size)
        image = resize(image, *about["input"]["prepared_size"])
    return resize(image, height, width)


def main(paths):
    """Prints the probabilities of image files, a JSON line each."""
    predict, about = load(Path(__file__).resolve().parent)
    for path in paths:
        output = predict(read(path, about)[None])
        found = {
            task: dict(
                zip(about["output"][task]["classes"], np.asarray(p)[0].tolist(), strict=True)
            )
            for task, p in output.items()
        }
        print(json.dumps({"path": str(path), **found}))


if __name__ == "__main__":
    main(sys.argv[1:])
