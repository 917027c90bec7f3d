"""A trained run as a Python object: ``wlsrl_jax.load(RUN).predict(images)``."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageOps

from wlsrl_jax.data.batches import filled_up
from wlsrl_jax.data.images.limits import BadImageError, bad_images
from wlsrl_jax.data.images.listing import Item
from wlsrl_jax.data.images.read_image import Wide, check_size
from wlsrl_jax.evaluate.calibration import scale
from wlsrl_jax.evaluate.temperatures import temperatures
from wlsrl_jax.explain.class_maps import grad_cam
from wlsrl_jax.files import Mistake, local_path
from wlsrl_jax.runs.input import InputSpec, input_spec, make_input
from wlsrl_jax.runs.open import TrainedRun, load_trained

BATCH = 32
"""Images at a time; the last batch is filled up, so one shape is compiled."""
CHECKS = ("refuse", "off")

Picture = str | os.PathLike[str] | Image.Image | np.ndarray
"""A file, an opened image, or an array ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]`` (RGB) of uint8
or, with more than 8 bits, uint16; of any size."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A network with its weights, its classes, and how images reach it.

    Attributes:
      run: the opened run.
      spec: how images are made ready, as they were for training.
      temperatures: task -> what logits are divided by; None for raw probabilities.
    """

    run: TrainedRun
    spec: InputSpec
    temperatures: dict[str, float] | None = None

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Task -> names of its classes, in the order of the columns of ``predict``."""
        return {task.name: tuple(task.classes) for task in self.run.tasks}

    @property
    def modality(self) -> str:
        """What it grades: "oct" or "fundus"."""
        return self.run.modality

    @property
    def calibrated(self) -> Model:
        """The same model with temperature-scaled probabilities.

        Raises:
          Mistake: if validation could not give a temperature.
        """
        return dataclasses.replace(self, temperatures=temperatures(self.run))

    def predict(
        self,
        images: Picture | Sequence[Picture],
        *,
        check: str = "refuse",
        pixel_bits: str | int = "",
    ) -> dict[str, np.ndarray]:
        """Probabilities of images, the numbers of ``wlsrl predict``.

        Args:
          images: one picture or several; an array of another leading axis is several.
          check: "refuse" pictures of the other modality and those that nobody can grade, or "off".
          pixel_bits: range of pixels of more than 8 bits, as ``--pixel_bits``; "" finds it.

        Returns:
          Task -> float32 ``[N, C]``.

        Raises:
          Mistake: for a picture that cannot be used, naming it and the reason.
        """
        ready = self._ready(images, check, pixel_bits)
        rows: dict[str, list[np.ndarray]] = {name: [] for name in self.classes}
        for start in range(0, len(ready), BATCH):
            batch = np.stack(ready[start : start + BATCH])
            found = self._predictor(filled_up(batch, BATCH))
            for name, kept in rows.items():
                kept.append(np.asarray(found[name])[: len(batch)])
        probabilities = {
            name: np.concatenate(kept) if kept else np.zeros((0, len(self.classes[name])), "f4")
            for name, kept in rows.items()
        }
        if self.temperatures is None:
            return probabilities
        return {
            name: scale(p, self.temperatures[name]).astype(np.float32)
            for name, p in probabilities.items()
        }

    def explain(
        self,
        image: Picture,
        task: str,
        of: str | None = None,
        *,
        check: str = "refuse",
        pixel_bits: str | int = "",
    ) -> np.ndarray:
        """Map of what speaks for a class: LayerCAM, fused over the streams.

        Args:
          image: one picture.
          task: such as "TO1".
          of: name of the class; None for the one that ``predict`` shows.
          check: as for ``predict``.
          pixel_bits: as for ``predict``.

        Returns:
          float32 ``[H, W]`` in 0..1, of the model's input size.

        Raises:
          Mistake: for an unknown task or class, or a picture that cannot be used.
        """
        if task not in self.classes:
            raise Mistake(f"task={task!r} is not of this model; it has {', '.join(self.classes)}.")
        names = self.classes[task]
        if of is not None and of not in names:
            raise Mistake(f"of={of!r} is no class of {task}; it has {', '.join(names)}.")
        ready = np.stack(self._ready(image, check, pixel_bits))
        if len(ready) != 1:
            raise Mistake(f"explain takes one image, not {len(ready)}.")
        if of is None:
            shown = np.asarray(self._predictor(filled_up(ready, BATCH))[task])[:1].argmax(axis=1)
        else:
            shown = np.asarray([names.index(of)])
        return grad_cam(self.run.model, self.run.variables, ready, task, shown)["fused"][0]

    def _ready(self, images: Any, check: str, pixel_bits: str | int) -> list[np.ndarray]:
        """The model's input of each image, uint8 ``[H, W, C]``."""
        if check not in CHECKS:
            raise Mistake(f"check={check!r}; choose one of {', '.join(CHECKS)}.")
        pictures = list(_each(images))
        files = [Item(os.fspath(p)) for _, p in pictures if isinstance(p, str | os.PathLike)]
        spec = self.spec.for_images(files, str(pixel_bits))
        ready = []
        for name, picture in pictures:
            try:
                found = make_input(_opened(picture), spec, "off" if check == "off" else "warn")
            except BadImageError as error:
                raise Mistake(f"{name}: {error}") from None
            if check == "refuse" and (reason := found.flaw or found.warning):
                raise Mistake(f'{name}: refused: {reason}; check="off" predicts it all the same.')
            ready.append(found.image)
        return ready

    @functools.cached_property
    def _predictor(self) -> Callable[[Any], dict[str, jax.Array]]:
        return self.run.predictor()


def load(workdir: str | os.PathLike[str]) -> Model:
    """Opens a trained run; see ``wlsrl_jax.load``."""
    run = load_trained(local_path(os.fspath(workdir)))
    return Model(run, input_spec(run))


def _each(images: Any) -> Iterator[tuple[str, Any]]:
    """(What an error calls it, picture) of one or several."""
    several = isinstance(images, Sequence) and not isinstance(images, str)
    if isinstance(images, np.ndarray):
        several = images.ndim == 4 or (images.ndim == 3 and images.shape[2] not in (1, 3))
    for k, picture in enumerate(images if several else [images]):
        is_file = isinstance(picture, str | os.PathLike)
        yield os.fspath(picture) if is_file else f"images[{k}]", picture


def _opened(picture: Any) -> Image.Image | Wide:
    """Decodes a picture as ``decode.open_image`` does.

    Raises:
      BadImageError: with the reason.
    """
    if isinstance(picture, str | os.PathLike):
        return Item(os.fspath(picture)).open()
    with bad_images():
        if isinstance(picture, Image.Image):
            check_size(*picture.size)
            if not picture.mode.startswith("I;16"):
                return ImageOps.exif_transpose(picture)
            picture = np.asarray(picture)
        values = np.asarray(picture)
        values = values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values
        if values.dtype not in (np.uint8, np.uint16) or not (
            values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)
        ):
            raise BadImageError(
                "must be a file, a PIL image, or uint8 or uint16 [H, W], [H, W, 1] or [H, W, 3], "
                f"not {values.dtype} {list(values.shape)}"
            )
        check_size(values.shape[1], values.shape[0])
        return Wide(values) if values.dtype == np.uint16 else Image.fromarray(values)
