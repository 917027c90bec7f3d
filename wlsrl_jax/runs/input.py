"""From an image file to the model's input, exactly as prepared data reach it."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from wlsrl_jax.data.images.decode import to_array
from wlsrl_jax.data.images.limits import BadImageError
from wlsrl_jax.data.images.listing import Item
from wlsrl_jax.data.images.modality import looks_like, mismatch
from wlsrl_jax.data.images.pixels import resize, shrink
from wlsrl_jax.data.images.quality import reason
from wlsrl_jax.data.images.read_image import PixelRange, Wide
from wlsrl_jax.data.images.set_range import chosen_range, range_mistakes
from wlsrl_jax.data.images.steps import check_steps
from wlsrl_jax.data.published import all_specs
from wlsrl_jax.files import Mistake
from wlsrl_jax.runs.open import TrainedRun
from wlsrl_jax.tasks import MODALITIES

QUALITY_CHECKS = ("refuse", "warn", "off")
_CHECKED_SIDE = 256  # pixels; a photograph of 64 million is not made an array in colour twice


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """How a run's images came to the model.

    Attributes:
      modality: a name in ``tasks.MODALITIES``.
      shape: (height, width, channels) of the model's input.
      prepared_size: (height, width) of the prepared data; None for phantoms, which are drawn in
        the model's size and are only resized, not cropped.
      preprocess: steps that prepared images went through before they had that size.
      pixel_range: of wide pixels of which the file does not say it; None where the run knows
        none, for its data had no such images.
    """

    modality: str
    shape: tuple[int, int, int]
    prepared_size: tuple[int, int] | None
    preprocess: tuple[str, ...] = ()
    pixel_range: PixelRange | None = None

    @property
    def cropped(self) -> bool:
        """Whether images are cropped to their round field; phantoms are drawn as they are used."""
        return MODALITIES[self.modality].round_field and self.prepared_size is not None

    def for_images(self, items: Sequence[Item], pixel_bits: str = "") -> InputSpec:
        """The recipe for the images of a command, which need a range where the run has none.

        Args:
          items: all images of the command.
          pixel_bits: value of ``--pixel_bits``, or "".

        Returns:
          The recipe with the flag's range, else the run's, else that of these images.

        Raises:
          Mistake: if it cannot be told, naming the flag that decides.
        """
        found = chosen_range(pixel_bits, self.pixel_range, items)
        return dataclasses.replace(self, pixel_range=found)


@dataclasses.dataclass(frozen=True)
class ModelInput:
    """What was read from a file.

    Attributes:
      image: uint8 ``[H, W, C]``, the model's input.
      warning: why the picture looks like one of the other modality, or "".
      flaw: why it cannot be graded, or ""; only where that is no reason to refuse it.
    """

    image: np.ndarray
    warning: str
    flaw: str = ""


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
    with range_mistakes():
        bits = run.data.get("pixel_bits")
        pixel_range = PixelRange.parse(bits) if bits else None
    return InputSpec(
        run.modality, run.image_shape, tuple(size) if size else None, steps, pixel_range
    )


def to_input(image: Image.Image | Wide, spec: InputSpec) -> np.ndarray:
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
    pixels = to_array(image, channels, spec.pixel_range)
    if spec.prepared_size is not None:
        pixels = shrink(pixels, *spec.prepared_size, spec.preprocess, crop=spec.cropped)
    return resize(pixels, height, width)


def add_quality_flag(parser: argparse.ArgumentParser) -> None:
    """Adds ``--quality_check`` to a command that reads images."""
    parser.add_argument(
        "--quality_check", choices=QUALITY_CHECKS, default=QUALITY_CHECKS[0],
        help="of pictures that cannot be graded: blank, dark, over-exposed, noise or text; "
        "default: %(default)s",
    )  # fmt: skip


def read_input(item: Item, spec: InputSpec, quality_check: str = QUALITY_CHECKS[0]) -> ModelInput:
    """Reads an image, DICOM included, and makes it ready.

    Args:
      item: the image.
      spec: of the run.
      quality_check: "refuse" a picture that cannot be graded, "warn", or "off".

    Returns:
      The input, and whether the picture looks like one.

    Raises:
      BadImageError: with the reason.
    """
    return make_input(item.open(), spec, quality_check)


def make_input(
    image: Image.Image | Wide, spec: InputSpec, quality_check: str = QUALITY_CHECKS[0]
) -> ModelInput:
    """Makes an opened image ready; see ``read_input``.

    Raises:
      BadImageError: with the reason.
    """
    small = _thumbnail(image, spec)
    looks = looks_like(small, spec.modality)
    flaw = reason(small, looks) if quality_check != "off" else ""
    if flaw and quality_check == "refuse":
        raise BadImageError(f"refused: {flaw} (--quality_check=warn predicts it all the same)")
    return ModelInput(to_input(image, spec), mismatch(looks, spec.modality), flaw)


def _thumbnail(image: Image.Image | Wide, spec: InputSpec) -> np.ndarray:
    colour = to_array(image, 3, spec.pixel_range)
    scale = _CHECKED_SIDE / max(colour.shape[:2])
    return colour if scale >= 1 else cv2.resize(
        colour, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
    )  # fmt: skip
