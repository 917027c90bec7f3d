"""From an image file to the model's input, exactly as prepared data reach it."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from wlsrl_jax.data.augment import resize
from wlsrl_jax.data.images.decode import open_image, read_file, shrink, to_array
from wlsrl_jax.data.images.dicom import read_frame
from wlsrl_jax.data.images.modality import mismatch
from wlsrl_jax.data.images.steps import check_steps
from wlsrl_jax.data.published import all_specs
from wlsrl_jax.files import Mistake
from wlsrl_jax.runs.open import TrainedRun

_CHECKED_SIDE = 256  # pixels; a photograph of 64 million is not made an array in colour twice


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """How a run's images came to the model.

    Attributes:
      modality: "oct" or "fundus".
      shape: (height, width, channels) of the model's input.
      prepared_size: (height, width) of the prepared data; None for phantoms, which are drawn in
        the model's size and are only resized, not cropped.
      preprocess: steps that prepared images went through before they had that size.
    """

    modality: str
    shape: tuple[int, int, int]
    prepared_size: tuple[int, int] | None
    preprocess: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ModelInput:
    """What was read from a file.

    Attributes:
      image: uint8 ``[H, W, C]``, the model's input.
      warning: why the picture looks like one of the other modality, or "".
    """

    image: np.ndarray
    warning: str


def input_spec(run: TrainedRun) -> InputSpec:
    """Finds how the images of a run were made ready.

    Runs from before the size was recorded are taken to have used the data set's default, those
    from before steps were to have used none.

    Args:
      run: the run.

    Returns:
      The recipe.

    Raises:
      Mistake: for a step that this version does not know.
    """
    size = run.data.get("prepared_size")
    if size is None and not run.data["phantom"]:
        known = all_specs().get(run.data["dataset"])
        size = known.size if known else run.image_shape[:2]
    try:
        steps = check_steps(run.data.get("preprocess", ()), run.modality)
    except Mistake as error:
        raise Mistake(
            f"{run.workdir}/data.json: {error} If a newer version wrote it, use that one."
        ) from None
    return InputSpec(run.modality, run.image_shape, tuple(size) if size else None, steps)


def to_input(image: Image.Image, spec: InputSpec) -> np.ndarray:
    """Crops and resizes an opened image in the steps that prepared data take.

    Args:
      image: as ``open_image`` gives it.
      spec: of the run.

    Returns:
      uint8 ``[H, W, C]`` of the model's input.

    Raises:
      BadImageError: for pixels without a known range.
    """
    height, width, channels = spec.shape
    pixels = to_array(image, channels)
    if spec.prepared_size is not None:
        pixels = shrink(pixels, spec.modality, *spec.prepared_size, spec.preprocess)
    return resize(pixels, height, width)


def read_input(source: Path | bytes, spec: InputSpec, frame: int = 0) -> ModelInput:
    """Reads an image file, DICOM included, and makes it ready.

    Args:
      source: the file, or its content.
      spec: of the run.
      frame: number from 1 in a DICOM file of several frames; 0 for any other file.

    Returns:
      The input, and whether the picture looks like one.

    Raises:
      BadImageError: with the reason.
    """
    if frame:
        image = read_frame(source if isinstance(source, Path) else io.BytesIO(source), frame)
    else:
        image = open_image(source if isinstance(source, bytes) else read_file(source))
    return ModelInput(to_input(image, spec), mismatch(_thumbnail(image), spec.modality))


def _thumbnail(image: Image.Image) -> np.ndarray:
    colour = to_array(image, 3)
    scale = _CHECKED_SIDE / max(colour.shape[:2])
    return colour if scale >= 1 else cv2.resize(
        colour, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
    )  # fmt: skip
