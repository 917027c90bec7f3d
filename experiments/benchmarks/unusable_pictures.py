"""Pictures of which no retina can be graded, each from a seed: what people do hand to a program.

Every function of ``KINDS`` draws one picture, uint8 ``[H, W, 3]``, from a generator of random
numbers: size, colours, borders, fonts and strengths all vary. They belong to the measurement of
``wlsrl_jax/data/images/quality.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wlsrl_jax.data.phantoms.source import PHANTOMS, render

Rng = np.random.Generator
_WORDS = (
    "patient report the of eye left right retina macula date name image scan OCT fundus result and "
    "vision visit note 2024 17 mm 0.8 follow up in with no sign thickness central layer dose every "
    "four weeks injection signal strength 8/10 hospital department of ophthalmology page file edit "
    "view help open save error please contact your administrator a is to for on Total 12.50 OD OS"
).split()


def _size(rng: Rng) -> tuple[int, int]:
    side = int(np.exp(rng.uniform(np.log(96), np.log(1200))))
    ratio = rng.choice([1.0, 4 / 3, 3 / 4, 16 / 9, 1.4, 1 / 1.4, 2.0, rng.uniform(0.6, 1.8)])
    return max(64, round(side / max(1.0, ratio))), max(64, round(side * min(1.0, ratio)))


def _filled(rng: Rng, height: int, width: int, colour: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.asarray(colour, np.float32), (height, width, 3)).copy()


def _colour(rng: Rng, low: int = 0, high: int = 255) -> np.ndarray:
    if rng.random() < 0.5:
        return np.full(3, rng.integers(low, high + 1), np.float32)
    return rng.integers(low, high + 1, 3).astype(np.float32)


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _field(rng: Rng, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth random values, mean 0 and deviation 1: illumination."""
    coarse = rng.normal(size=(int(rng.integers(2, 5)), int(rng.integers(2, 5)))).astype(np.float32)
    smooth = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return (smooth - smooth.mean()) / (smooth.std() + 1e-6)


def _framed(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Sometimes a border, or the round field of a camera, around what is there."""
    height, width = image.shape[:2]
    chance = rng.random()
    outside = rng.choice([0.0, 0.0, 255.0, 128.0])
    if chance < 0.2:
        top, left = (int(side * rng.uniform(0.02, 0.2)) for side in (height, width))
        framed = np.full_like(image, outside)
        framed[top : height - top, left : width - left] = image[
            top : height - top, left : width - left
        ]
        return framed
    if chance < 0.35:
        y, x = np.mgrid[:height, :width]
        radius = min(height, width) * rng.uniform(0.42, 0.55)
        disc = (y - height / 2) ** 2 + (x - width / 2) ** 2 < radius**2
        return np.where(disc[..., None], image, np.float32(outside))
    return image


def _compressed(rng: Rng, image: np.ndarray) -> np.ndarray:
    """Half of them as JPEG leaves them."""
    if rng.random() < 0.5:
        return image
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 96))]
    _, data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), quality)
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def _phantom(rng: Rng) -> np.ndarray:
    modality = str(rng.choice(["oct", "fundus"]))
    side = int(rng.integers(96, 257))
    label = int(rng.integers(len(PHANTOMS[modality].classes)))
    image, _ = render(modality, label, rng, side, side)
    return np.broadcast_to(image, (side, side, 3)).astype(np.float32)


def blank(rng: Rng) -> np.ndarray:
    """Black or white all over, but for what a sensor or a file format adds."""
    height, width = _size(rng)
    image = _filled(
        rng, height, width, np.full(3, rng.choice([0.0, 255.0, rng.uniform(0, 5), 250]))
    )
    return _bytes(image + rng.choice([0.0, rng.uniform(0, 2)]) * rng.normal(size=image.shape))


def uniform(rng: Rng) -> np.ndarray:
    """One grey or colour: a lens cap, a closed eye, an empty frame; framed or not."""
    height, width = _size(rng)
    image = _filled(rng, height, width, _colour(rng, 20, 240))
    if rng.random() < 0.3:
        image += rng.uniform(0.5, 3) * _field(rng, image.shape)[..., None]
    if rng.random() < 0.5:
        image += rng.uniform(0, 3) * rng.normal(size=image.shape)
    return _bytes(_framed(rng, image))


def saturated(rng: Rng) -> np.ndarray:
    """Over-exposed: more than half of the picture is white."""
    height, width = _size(rng)
    if rng.random() < 0.5:
        image = _phantom(rng)
        level = np.quantile(image.mean(axis=2), rng.uniform(0.05, 0.38))
        image = image * (270 / max(level, 3.0)) + rng.uniform(0, 8)
    else:
        shares = _field(rng, (height, width))
        image = np.repeat(shares[..., None], 3, axis=2)
        image = 255 + rng.uniform(30, 150) * (image - np.quantile(image, rng.uniform(0.05, 0.4)))
    return _bytes(image + rng.uniform(0, 2) * rng.normal(size=image.shape))


def nearly_black(rng: Rng) -> np.ndarray:
    """Hardly any light: a phantom at a few grey levels, noise of the sensor, a hot pixel."""
    top = rng.uniform(2, 16)
    if rng.random() < 0.6:
        image = _phantom(rng)
        image = image * (top / image.max())
    else:
        height, width = _size(rng)
        image = _filled(rng, height, width, np.full(3, rng.uniform(0, top)))
        image += rng.uniform(0, 3) * _field(rng, image.shape)[..., None]
    image = image + rng.uniform(0, 2) * rng.normal(size=image.shape)
    for _ in range(int(rng.integers(0, 4))):
        image[rng.integers(len(image)), rng.integers(image.shape[1])] = 255
    return _bytes(image)


def noise(rng: Rng) -> np.ndarray:
    """Noise alone: of any distribution, strength, grain and spectrum, in grey or in colour."""
    height, width = _size(rng)
    grain = np.exp(rng.uniform(0, np.log(min(height, width) / 12))) if rng.random() < 0.7 else 1.0
    rows, columns = max(8, round(height / grain)), max(8, round(width / grain))
    if rng.random() < 0.1:  # grains that are longer than high, or higher than long
        columns = max(8, round(columns / rng.uniform(1, 3)))
        if rng.random() < 0.5:
            rows, columns = max(8, round(rows / 3)), columns
    channels = int(rng.choice([1, 1, 3]))
    shape = (rows, columns, channels)
    law = rng.choice(["uniform", "normal", "salt", "exponential", "spectrum"])
    if law == "uniform":
        grains = rng.random(shape)
    elif law == "normal":
        grains = rng.normal(0.5, 0.2, shape)
    elif law == "salt":
        share = rng.uniform(0.03, 0.5)
        grains = np.where(rng.random(shape) < share, rng.random(shape).round(), 0.5 * rng.random())
    elif law == "exponential":
        grains = rng.exponential(0.3, shape)
    else:
        fy, fx = np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None]
        falloff = np.maximum(np.hypot(fy, fx), 1 / max(rows, columns)) ** -rng.uniform(0, 1.2)
        spectrum = np.fft.fft2(rng.normal(size=shape), axes=(0, 1)) * falloff[..., None]
        grains = np.fft.ifft2(spectrum, axes=(0, 1)).real
        grains = 0.5 + 0.2 * grains / grains.std()
    how = int(rng.choice([cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC]))
    image = cv2.resize(grains.astype(np.float32), (width, height), interpolation=how)
    image = image.reshape(height, width, channels)
    strength, middle = rng.uniform(40, 255), rng.uniform(70, 180)
    image = np.broadcast_to(middle + strength * (image - image.mean()), (height, width, 3))
    return _compressed(rng, _bytes(_framed(rng, image.astype(np.float32))))


@functools.cache
def _fonts() -> list[str]:
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    wanted = ("DejaVuSans", "DejaVuSerif", "STIXGeneral", "cmr10", "cmtt10", "cmss10")
    return sorted(
        str(p)
        for p in folder.glob("*.ttf")
        if p.stem.startswith(wanted) and "Display" not in p.stem
    )


_truetype = functools.lru_cache(256)(ImageFont.truetype)


def _font(rng: Rng, size: float) -> ImageFont.FreeTypeFont:
    return _truetype(str(rng.choice(_fonts())), max(7, round(size)))


def _line(rng: Rng, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Words that fill about so many pixels."""
    letters = max(1, int(width / font.size * 1.9))
    start = int(rng.integers(len(_WORDS)))
    text = " ".join(_WORDS[start:] + _WORDS * (1 + letters // 200))[:letters]
    return text.rpartition(" ")[0] or text


class _Page:
    """A page of random colours and what is drawn on it."""

    def __init__(self, rng: Rng, *, dark: bool | None = None, least: int = 200) -> None:
        self.rng = rng
        ratio = rng.choice([1.414, 0.707, 1.333, 0.75, 1.78, 0.5625, 1.0])
        side = int(np.exp(rng.uniform(np.log(least), np.log(1600))))
        self.width, self.height = (side, round(side / ratio)) if ratio > 1 else (
            round(side * ratio), side
        )  # fmt: skip
        dark = rng.random() < 0.4 if dark is None else dark
        tint = rng.integers(0, 50, 3) * (rng.random() < 0.5)
        paper, ink = (255 - tint, tint[::-1]) if not dark else (tint, 255 - tint[::-1])
        self.paper, self.ink = (tuple(int(v) for v in c) for c in (paper, ink))
        self.image = Image.new("RGB", (self.width, self.height), self.paper)
        self.draw = ImageDraw.Draw(self.image)

    def colour(self) -> tuple[int, int, int]:
        return tuple(int(v) for v in self.rng.integers(0, 256, 3))  # type: ignore[return-value]

    def lines(self, left: float, top: float, right: float, bottom: float, size: float) -> None:
        """Fills a box with lines of words, in paragraphs."""
        font, y = _font(self.rng, size), top
        while y + font.size < bottom:
            if self.rng.random() < 0.88:
                short = self.rng.uniform(0.3, 1) if self.rng.random() < 0.25 else 1.0
                text = _line(self.rng, font, (right - left) * short)
                self.draw.text((left, y), text, fill=self.ink, font=font)
            y += font.size * 1.3

    def done(self) -> np.ndarray:
        """The page as it was photographed, scanned or saved."""
        image = np.asarray(self.image).astype(np.float32)
        rng = self.rng
        if rng.random() < 0.25:  # scanned, or photographed from a screen
            turn = cv2.getRotationMatrix2D((self.width / 2, self.height / 2), rng.uniform(-5, 5), 1)
            image = cv2.warpAffine(image, turn, (self.width, self.height),
                                   borderValue=[float(v) for v in self.paper])  # fmt: skip
            image *= 1 + rng.uniform(0, 0.08) * _field(rng, image.shape)[..., None]
            image += rng.uniform(0, 6) * rng.normal(size=image.shape)
        return _compressed(rng, _bytes(image))


def document(rng: Rng) -> np.ndarray:
    """A letter or an article: columns of small lines."""
    page = _Page(rng, dark=rng.random() < 0.2, least=300)
    size = page.height * rng.uniform(0.014, 0.05)
    margin = page.width * rng.uniform(0.04, 0.14)
    columns = int(rng.choice([1, 1, 2]))
    step = (page.width - 2 * margin) / columns
    end = page.height * rng.choice([0.95, 0.95, rng.uniform(0.35, 0.95)])
    for k in range(columns):
        left = margin + k * step
        page.lines(left, page.height * 0.08, left + step * 0.94, end, size)
    return page.done()


def few_words(rng: Rng) -> np.ndarray:
    """Some large words: a title, a name, "no image available"."""
    page = _Page(rng)
    size = page.height * rng.uniform(0.05, 0.2)
    top = page.height * rng.uniform(0.05, 0.4)
    page.lines(page.width * 0.08, top, page.width * 0.95,
               min(page.height * 0.95, top + size * rng.integers(2, 8)), size)  # fmt: skip
    return page.done()


def drawn_words(rng: Rng) -> np.ndarray:
    """Words as OpenCV draws them, black on white, white on black or in colour."""
    height, width = _size(rng)
    dark = rng.random() < 0.5
    paper, ink = (0, 255) if dark else (255, 0)
    image = np.full((height, width, 3), paper, np.uint8)
    scale = max(0.3, height * rng.uniform(0.0015, 0.005))
    face, thick = int(rng.integers(0, 8)), max(1, round(scale * rng.uniform(1, 2.5)))
    colour = [int(c) for c in (rng.integers(0, 256, 3) if rng.random() < 0.3 else (ink,) * 3)]
    if abs(float(np.mean(colour)) - paper) < 90:
        colour = [ink] * 3
    y = 30 * scale + height * rng.uniform(0, 0.1)
    while y < height * 0.98:
        text = " ".join(str(w) for w in rng.choice(_WORDS, max(1, round(width / scale / 90))))
        cv2.putText(image, text, (round(width * 0.04), round(y)), face, scale, colour, thick,
                    cv2.LINE_AA)  # fmt: skip
        y += 38 * scale
    return _compressed(rng, image)


def table(rng: Rng) -> np.ndarray:
    """A table or a form: rules, cells, a coloured head."""
    page = _Page(rng)
    rows, columns = int(rng.integers(4, 25)), int(rng.integers(2, 9))
    left, top = page.width * rng.uniform(0.02, 0.1), page.height * rng.uniform(0.02, 0.15)
    step_x = (page.width - 2 * left) / columns
    step_y = (page.height * 0.97 - top) / rows
    font = _font(rng, min(step_y * 0.6, step_x * 0.3))
    ruled, head = rng.random() < 0.7, rng.random() < 0.5
    for row in range(rows):
        y = top + row * step_y
        if head and row == 0:
            page.draw.rectangle((left, y, page.width - left, y + step_y), fill=page.colour())
        for column in range(columns):
            x = left + column * step_x
            if ruled:
                page.draw.rectangle((x, y, x + step_x, y + step_y), outline=page.ink,
                                    width=max(1, page.height // 600))  # fmt: skip
            if rng.random() < 0.9:
                text = str(rng.choice(_WORDS))
                page.draw.text((x + 0.1 * step_x, y + 0.2 * step_y), text, fill=page.ink, font=font)
    return page.done()


def slide(rng: Rng) -> np.ndarray:
    """A slide: a bar, a title, bullets, perhaps a chart."""
    page = _Page(rng)
    width, height = page.width, page.height
    if rng.random() < 0.6:
        page.draw.rectangle((0, 0, width, height * 0.14), fill=page.colour())
    title = _font(rng, height * rng.uniform(0.06, 0.1))
    page.draw.text((width * 0.05, height * 0.03), _line(rng, title, width * 0.8), fill=page.ink,
                   font=title)  # fmt: skip
    chart = rng.random() < 0.4
    right = width * (0.55 if chart else 0.95)
    body, y = _font(rng, height * rng.uniform(0.035, 0.06)), height * 0.22
    while y < height * 0.9:
        dot = body.size * 0.25
        page.draw.ellipse((width * 0.06 - dot, y + dot, width * 0.06 + dot, y + 3 * dot),
                          fill=page.colour())  # fmt: skip
        page.draw.text((width * 0.09, y), _line(rng, body, right - width * 0.1), fill=page.ink,
                       font=body)  # fmt: skip
        y += body.size * rng.uniform(1.3, 2.2)
    if chart:
        for k in range(int(rng.integers(3, 8))):
            x = width * (0.6 + 0.05 * k)
            page.draw.rectangle((x, height * rng.uniform(0.3, 0.8), x + width * 0.03,
                                 height * 0.85), fill=page.colour())  # fmt: skip
    return page.done()


def screenshot(rng: Rng) -> np.ndarray:
    """Windows with bars, buttons, fields and text; a terminal; a web page."""
    page = _Page(rng, least=400)
    width, height = page.width, page.height
    size = height * rng.uniform(0.018, 0.035)
    page.draw.rectangle((0, 0, width, height * 0.05), fill=page.colour())
    for _ in range(int(rng.integers(1, 5))):
        left, top = width * rng.uniform(0, 0.6), height * rng.uniform(0.05, 0.6)
        right, bottom = left + width * rng.uniform(0.3, 0.7), top + height * rng.uniform(0.3, 0.6)
        page.draw.rectangle((left, top, right, bottom), fill=page.paper, outline=page.ink)
        page.draw.rectangle((left, top, right, top + 1.6 * size), fill=page.colour())
        page.lines(left + size, top + 2 * size, min(right, width) - size, min(bottom, height), size)
    for _ in range(int(rng.integers(0, 12))):
        x, y = width * rng.random(), height * rng.random()
        page.draw.rectangle((x, y, x + 4 * size, y + 1.8 * size), fill=page.colour())
    return page.done()


KINDS: dict[str, Callable[[Rng], np.ndarray]] = {
    "blank": blank,
    "uniform": uniform,
    "saturated": saturated,
    "nearly black": nearly_black,
    "noise": noise,
    "text: document": document,
    "text: few words": few_words,
    "text: drawn words": drawn_words,
    "text: table": table,
    "text: slide": slide,
    "text: screenshot": screenshot,
}
"""Name -> function of a random generator that draws a picture of the kind."""


def picture(kind: str, seed: int, index: int) -> np.ndarray:
    """Draws one picture; the same for the same arguments.

    Args:
      kind: a key of ``KINDS``.
      seed: another seed is another set.
      index: of the picture in the set.

    Returns:
      uint8 ``[H, W, 3]``.
    """
    return KINDS[kind](np.random.default_rng([seed, list(KINDS).index(kind), index]))
