"""Phantoms: procedural OCT B-scans and fundus photographs with known label and lesions.

A rehearsal for pipelines, never evidence about patients. An example is a function of
(seed, modality, split, index): any index can be asked for, in any order, and nothing is
kept in memory. Lesions follow the clinical definition of their class; everything else
(anatomy, position, illumination, noise) is drawn independently of the label.

    wlsrl phantoms --modality=oct --output=sheet.png
"""

from __future__ import annotations

import argparse
import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from wlsrl_jax import cli
from wlsrl_jax.data.images.save import picture_format, save_picture
from wlsrl_jax.data.phantoms import fundus as phantom_fundus
from wlsrl_jax.data.phantoms import oct as phantom_oct
from wlsrl_jax.tasks import DR_GRADES

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Phantoms:
    """The phantoms of a modality.

    Attributes:
      classes: names, in the order of the labels.
      normal: the healthy one.
      balance: probability of each class, where nobody says otherwise.
      draw: (class, source of randomness, height, width) -> what ``render`` returns.
    """

    classes: tuple[str, ...]
    normal: str
    balance: tuple[float, ...]
    draw: Callable[[str, np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]


PHANTOMS: Mapping[str, Phantoms] = {
    "oct": Phantoms(
        ("CNV", "DME", "DRUSEN", "NORMAL"),
        "NORMAL",
        # The proportions of OCT2017 (Kermany et al., Cell 2018), training set.
        (0.343, 0.105, 0.080, 0.472),
        phantom_oct.render,
    ),
    "fundus": Phantoms(
        DR_GRADES,
        DR_GRADES[0],
        # Skewed as screening data are, but with enough of each grade in a thousand images.
        (0.50, 0.12, 0.18, 0.11, 0.09),
        phantom_fundus.render,
    ),
}
"""Modality -> its phantoms."""

_MASK = 2**64 - 1


def _scramble(values: np.ndarray) -> np.ndarray:
    """Mixes uint64 counters into uniform bits (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def render(
    modality: str,
    label: int,
    rng: np.random.Generator,
    height: int,
    width: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one phantom.

    Args:
      modality: a name in ``tasks.MODALITIES``.
      label: index into the classes of the modality's ``Phantoms``.
      rng: source of all randomness.
      height: pixels, at least 16.
      width: pixels, at least 16.

    Returns:
      (image uint8 ``[height, width, C]``, lesion mask bool ``[height, width]``); the mask
      is empty for a healthy eye.

    Raises:
      ValueError: for an unknown modality, label or a size that is too small.
    """
    kind = _phantoms(modality)
    if not 0 <= label < len(kind.classes):
        raise ValueError(f"phantom: label={label} is outside 0..{len(kind.classes) - 1}.")
    _check_size(height, width)
    return kind.draw(kind.classes[label], rng, height, width)


def _phantoms(modality: str) -> Phantoms:
    if modality not in PHANTOMS:
        raise ValueError(f"phantom: modality={modality!r}; choose one of {', '.join(PHANTOMS)}.")
    return PHANTOMS[modality]


def _check_size(height: int, width: int) -> None:
    if min(height, width) < 16:
        raise ValueError(f"phantom: size {height}x{width} is below 16x16 pixels.")


class PhantomSource:
    """Random-access phantoms; the interface of a prepared split.

    Args:
      modality: a name in ``tasks.MODALITIES``.
      split: "train", "validation" or "test"; they share no example.
      num_examples: length, up to 2^48.
      height: pixels.
      width: pixels.
      seed: another seed is another population.
      balance: probability of each class, normalised; that of its ``Phantoms`` when None.

    Raises:
      ValueError: naming the argument that is out of range.
    """

    def __init__(
        self,
        modality: str,
        split: str,
        num_examples: int,
        height: int,
        width: int,
        seed: int = 0,
        balance: Sequence[float] | None = None,
    ) -> None:
        kind = _phantoms(modality)
        if split not in SPLITS:
            raise ValueError(f"phantom: split={split!r}; choose one of {', '.join(SPLITS)}.")
        if not 0 < num_examples <= 2**48:
            raise ValueError(f"phantom: num_examples={num_examples} must be in 1..2^48.")
        _check_size(height, width)
        shares = np.asarray(kind.balance if balance is None else balance, float)
        expected = len(kind.classes)
        if (
            shares.shape != (expected,)
            or not np.isfinite(shares).all()
            or (shares < 0).any()
            or (shares.sum() <= 0)
        ):
            raise ValueError(f"phantom: balance={balance} must be {expected} shares >= 0.")
        self.modality, self.split, self.height, self.width = modality, split, height, width
        self.num_examples = num_examples
        self._edges = np.cumsum(shares / shares.sum())[:-1]
        name = f"{seed}/{modality}/{split}".encode()
        self._key = (zlib.crc32(name) << 32 | zlib.crc32(name[::-1] + b"key")) & _MASK

    def __len__(self) -> int:
        return self.num_examples

    def __repr__(self) -> str:
        return f"PhantomSource({self.modality}, {self.split}, {self.num_examples})"

    def _labels(self, indices: np.ndarray) -> np.ndarray:
        bits = _scramble(np.uint64(self._key) ^ _scramble(indices.astype(np.uint64)))
        uniform = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return np.searchsorted(self._edges, uniform, side="right")

    def labels(self) -> np.ndarray:
        """Returns all labels ``[N]`` int64 without drawing an image."""
        return self._labels(np.arange(self.num_examples))

    def groups(self) -> list[str]:
        """Returns nothing: every phantom is a group of its own."""
        return []

    def example(self, index: int) -> tuple[dict[str, Any], np.ndarray]:
        """Returns (example, lesion mask bool ``[H, W]``)."""
        index = range(self.num_examples)[index]  # IndexError out of range, as a list
        label = int(self._labels(np.asarray([index]))[0])
        rng = np.random.Generator(np.random.Philox(key=[self._key, index]))
        image, mask = render(self.modality, label, rng, self.height, self.width)
        name = f"phantom-{self.modality}-{self.split}-{index:06d}"
        return {"image": image, "label": label, "id": name, "group": name}, mask

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.example(index)[0]


def contact_sheet(
    modality: str, size: int, columns: int, seed: int, masks: bool = False
) -> np.ndarray:
    """Draws a row of phantoms for every class.

    Args:
      modality: a name in ``tasks.MODALITIES``.
      size: side of one phantom, pixels.
      columns: phantoms of each class.
      seed: of the drawing.
      masks: outline the lesions.

    Returns:
      uint8 ``[rows * size, columns * size, 3]``.
    """
    rows = []
    for label in range(len(PHANTOMS[modality].classes)):
        row = []
        for column in range(columns):
            rng = np.random.Generator(np.random.Philox(key=[seed, label << 32 | column]))
            image, mask = render(modality, label, rng, size, size)
            image = np.broadcast_to(image, (size, size, 3)).copy()
            if masks:
                inner = mask.copy()
                inner[1:-1, 1:-1] &= (
                    mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
                )
                image[mask & ~inner] = (0, 255, 0)
            row.append(np.pad(image, ((2, 2), (2, 2), (0, 0)), constant_values=255))
        rows.append(np.concatenate(row, axis=1))
    return np.concatenate(rows, axis=0)


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = cli.Parser(
        "phantoms",
        description="Contact sheet of phantoms, a row a class.",
    )
    parser.add_argument("--modality", choices=list(PHANTOMS), required=True, help="of the phantoms")
    parser.add_argument("--output", type=cli.output_file, required=True, help="PNG to write")
    parser.add_argument(
        "--side", type=cli.number(16, 4096), default=128,
        help="of a phantom, pixels; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--columns", type=cli.number(1, 100), default=8,
        help="phantoms of a class; default: %(default)s",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=cli.number(0), default=0, help="of the phantoms; default: %(default)s"
    )
    parser.add_argument("--masks", action="store_true", help="outline the lesions")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Writes a contact sheet."""
    args = make_parser().parse_args(argv)
    picture_format(args.output)
    sheet = contact_sheet(args.modality, args.side, args.columns, args.seed, args.masks)
    save_picture(args.output, Image.fromarray(sheet))
    rows = ", ".join(PHANTOMS[args.modality].classes)
    print(f"{args.output}: rows {rows} (procedural phantoms)")
