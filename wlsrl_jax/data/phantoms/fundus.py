"""Drawing of colour fundus phantoms by diabetic retinopathy grade.

Grades follow the international clinical severity scale (Wilkinson et al., Ophthalmology
2003): 0 none; 1 microaneurysms only; 2 more than that, less than 3; 3 severe: many
haemorrhages in all four quadrants, venous beading; 4 proliferative: new vessels, or
preretinal haemorrhage.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np

_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates

RED = np.array([0.42, 0.07, 0.05], np.float32)
DARK_RED = np.array([0.34, 0.04, 0.03], np.float32)
YELLOW = np.array([1.0, 0.92, 0.50], np.float32)
WHITE = np.array([0.95, 0.90, 0.78], np.float32)


@functools.lru_cache(maxsize=16)
def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates x and y in -1..1 across the larger field, and the radius from the centre."""
    y = ((np.arange(height) + 0.5) / height * 2.0 - 1.0)[:, None].astype(np.float32)
    x = ((np.arange(width) + 0.5) / width * 2.0 - 1.0)[None, :].astype(np.float32)
    return x, y, np.sqrt(x**2 + y**2)


class _Canvas:
    """Coverage of one kind of lesion, drawn at twice the size in -1..1 coordinates."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.pixels = np.zeros((2 * height, 2 * width), np.uint8)

    def _point(self, x: float, y: float) -> tuple[int, int]:
        scale = 1 << _SHIFT
        return (
            int(((x + 1.0) * self.width - 0.5) * scale),
            int(((y + 1.0) * self.height - 0.5) * scale),
        )

    def _length(self, r: float) -> int:
        # Never below 1.6 drawn pixels: a lesion that no pixel shows would be a wrong label.
        return int(max(r * min(self.height, self.width), 1.6) * (1 << _SHIFT))

    def disc(self, x: float, y: float, r: float) -> None:
        cv2.circle(self.pixels, self._point(x, y), self._length(r), 255, -1, cv2.LINE_AA, _SHIFT)

    def ellipse(
        self, x: float, y: float, a: float, b: float, angle: float, start: float = 0.0
    ) -> None:
        axes = (self._length(a), self._length(b))
        end = 360.0 if start == 0.0 else 180.0 + start
        cv2.ellipse(
            self.pixels, self._point(x, y), axes, angle, start, end, 255, -1, cv2.LINE_AA, _SHIFT
        )

    def line(self, x: np.ndarray, y: np.ndarray, thickness: int) -> None:
        points = np.array([self._point(*p) for p in zip(x, y, strict=True)], np.int32)
        cv2.polylines(self.pixels, [points], False, 255, thickness, cv2.LINE_AA, _SHIFT)

    def coverage(self) -> np.ndarray:
        """Returns float32 ``[H, W, 1]`` in 0..1."""
        small = cv2.resize(self.pixels, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return (small.astype(np.float32) / 255.0)[..., None]


def _vessels(
    canvas: _Canvas, rng: np.random.Generator, disc: tuple[float, float], side: float, beading: bool
) -> None:
    """Four arcades and their branches, from the disc around the macula."""
    t = np.linspace(0.0, 1.0, 12)
    unit = min(canvas.height, canvas.width) / 64.0
    for vertical in (-1.0, 1.0):
        for reach in (rng.uniform(0.45, 0.65), rng.uniform(0.8, 1.0)):
            length = rng.uniform(1.0, 1.4)
            x = disc[0] - side * length * t * (0.6 + 0.4 * t) + 0.03 * np.sin(9 * t + reach * 20)
            y = disc[1] + vertical * reach * np.sin(0.5 * np.pi * t**0.7)
            thickness = max(1, round(rng.uniform(1.6, 2.6) * unit))
            canvas.line(x, y, thickness)
            if beading:
                for k in range(1, 11, 2):
                    canvas.disc(float(x[k]), float(y[k]), 0.030)
            for start in rng.integers(3, 9, 2):
                s = t[:6] * rng.uniform(0.3, 0.6)
                canvas.line(
                    x[start] - side * s * rng.uniform(0.2, 1.0),
                    y[start] + vertical * s * rng.uniform(-0.8, 0.9),
                    max(1, round(unit)),
                )


def _place(rng: np.random.Generator, count: int, spread: float = 0.8) -> np.ndarray:
    """``[count, 2]`` points, uniform in a disc of radius ``spread``."""
    radius = spread * np.sqrt(rng.uniform(0.01, 1.0, count))
    angle = rng.uniform(0, 2 * np.pi, count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _place_in_quadrants(rng: np.random.Generator, each: int) -> np.ndarray:
    """``[4 * each, 2]`` points, as many in every quadrant."""
    points = np.abs(_place(rng, 4 * each)) + 0.04
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    return points * np.repeat(signs, each, axis=0)


def _exudates(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Clusters of small waxy dots."""
    for centre in _place(rng, int(rng.integers(1, 4)), 0.6):
        for offset in rng.normal(0, 0.07, (int(rng.integers(3, 8)), 2)):
            canvas.disc(centre[0] + offset[0], centre[1] + offset[1], rng.uniform(0.010, 0.022))


def render(
    name: str, rng: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one fundus photograph.

    Args:
      name: of the grade, "0" to "4".
      rng: source of all randomness.
      height: pixels.
      width: pixels.

    Returns:
      (image uint8 ``[height, width, 3]`` RGB, lesion mask bool ``[height, width]``).
    """
    grade = int(name)
    x, y, radius = _grid(height, width)
    uniform = rng.uniform

    # The healthy eye: background, macula, optic disc.
    hue = np.array([uniform(0.62, 0.88), uniform(0.26, 0.42), uniform(0.08, 0.20)], np.float32)
    light = uniform(-0.2, 0.2) * x + uniform(-0.2, 0.2) * y - uniform(0.05, 0.30) * radius**2
    coarse = rng.normal(size=(6, 6)).astype(np.float32)
    mottle = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image: np.ndarray = hue * (1.0 + light + 0.05 * mottle)[..., None]
    side = float(rng.choice([-1.0, 1.0]))
    disc = (side * uniform(0.45, 0.65), uniform(-0.12, 0.12))
    macula = np.exp(-((x + side * 0.1) ** 2 + (y - disc[1]) ** 2) / uniform(0.02, 0.05))
    image = image * (1.0 - uniform(0.15, 0.35) * macula)[..., None]
    size = uniform(0.12, 0.17)
    squared = ((x - disc[0]) / size) ** 2 + ((y - disc[1]) / (size * 1.12)) ** 2
    paint = (uniform(0.75, 0.95) / (1.0 + np.exp(np.minimum(8.0 * (squared - 1.0), 50.0))))[
        ..., None
    ]
    image = image * (1.0 - paint) + np.array([1.0, 0.85, 0.55], np.float32) * paint
    vessels = _Canvas(height, width)
    _vessels(vessels, rng, disc, side, beading=grade == 3)
    image = _blend(image, vessels.coverage() * uniform(0.55, 0.85), RED)

    # The lesions of the grade.
    red, exudates, wool, new = (_Canvas(height, width) for _ in range(4))
    dots: Any = {
        0: 0,
        1: rng.integers(4, 10),
        2: rng.integers(4, 12),
        3: rng.integers(6, 16),
        4: rng.integers(2, 14),
    }[grade]
    for px, py in _place(rng, int(dots)):
        red.disc(px, py, uniform(0.016, 0.024))
    blots = np.zeros((0, 2))
    if grade in (2, 4):
        blots = _place(rng, int(rng.integers(2, 7)))
    elif grade == 3:
        blots = _place_in_quadrants(rng, int(rng.integers(4, 7)))
    for px, py in blots:
        red.ellipse(px, py, uniform(0.035, 0.065), uniform(0.030, 0.045), uniform(0, 180))
    if grade >= 2:
        if uniform() < 0.75:
            _exudates(exudates, rng)
        for px, py in _place(rng, int(rng.integers(0, 3 if grade == 2 else 5)), 0.65):
            wool.ellipse(px, py, uniform(0.04, 0.07), uniform(0.03, 0.05), uniform(0, 180))
    if grade == 4:
        unit = min(height, width) / 64.0
        boat = uniform() < 0.6
        for _ in range(1 if boat else 2):
            at_disc = uniform() < 0.5
            origin = np.array(disc) if at_disc else _place(rng, 1, 0.5)[0]
            for angle in uniform(0, 2 * np.pi, int(rng.integers(9, 15))):
                t = np.linspace(0.02, uniform(0.20, 0.36), 8)
                wiggle = angle + uniform(0.4, 0.9) * np.sin(t * uniform(25, 45))
                new.line(
                    origin[0] + t * np.cos(wiggle),
                    origin[1] + t * np.sin(wiggle),
                    max(1, round(0.8 * unit)),
                )
        if boat:  # blood settles below a level line
            new.ellipse(
                uniform(-0.4, 0.4),
                uniform(-0.1, 0.5),
                uniform(0.18, 0.36),
                uniform(0.12, 0.24),
                uniform(-12, 12),
                start=1e-3,
            )
    cover = {
        "red": red.coverage(),
        "exudates": exudates.coverage(),
        "wool": wool.coverage(),
        "new": new.coverage(),
    }
    image = _blend(image, cover["wool"] * uniform(0.35, 0.75), WHITE)
    image = _blend(image, cover["exudates"] * uniform(0.5, 0.95), YELLOW)
    image = _blend(image, cover["red"] * uniform(0.45, 0.8), DARK_RED)
    image = _blend(image, cover["new"] * uniform(0.5, 0.85), RED)
    mask = sum(c[..., 0] for c in cover.values()) > 0.25

    # Acquisition: haze, dust, blur, noise, tone, field stop.
    image = image * (1.0 - (haze := uniform(0.0, 0.25))) + haze * 0.6
    dust = _Canvas(height, width)
    for px, py in _place(rng, int(rng.integers(0, 3)), 0.9):
        dust.disc(px, py, uniform(0.03, 0.06))
    image = _blend(image, dust.coverage() * 0.15, np.full(3, 0.35, np.float32))
    image = image + uniform(0.01, 0.04) * rng.standard_normal((height, width, 3), dtype=np.float32)
    image = uniform(0.8, 1.1) * np.clip(image, 0.0, 1.2) ** uniform(0.85, 1.2)
    field = radius < uniform(0.93, 1.0)
    image = np.where(field[..., None], image, 0.0)
    return np.clip(image * 255.0, 0, 255).astype(np.uint8), mask & field


def _blend(image: np.ndarray, alpha: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return image * (1.0 - alpha) + colour * alpha
