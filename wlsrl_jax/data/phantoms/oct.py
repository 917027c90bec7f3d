"""Drawing of OCT B-scan phantoms: layered retina with drusen, CNV or DME.

Anatomy from the inner limiting membrane down: nerve fibre layer, ganglion cell and inner
plexiform layers, inner nuclear, outer plexiform and outer nuclear layers, ellipsoid zone,
retinal pigment epithelium (RPE), choroid. Drusen are bumps of the RPE; choroidal
neovascularisation lifts it with reflective material below and fluid above; diabetic
macular oedema thickens the retina around dark intraretinal cysts.
"""

from __future__ import annotations

import functools

import numpy as np

# Relative depth between the inner limiting membrane (0) and the RPE (1), and brightness.
_DEPTHS = (0.0, 0.02, 0.12, 0.15, 0.38, 0.41, 0.50, 0.53, 0.58, 0.61, 0.84, 0.86, 0.92, 0.94, 1.0)
_LEVELS = (0.55, 0.80, 0.78, 0.52, 0.50, 0.30, 0.30, 0.52, 0.52, 0.24, 0.22, 0.70, 0.72, 0.40, 0.4)


@functools.lru_cache(maxsize=16)
def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Depth ``[H, 1]`` in 0..1 and lateral position ``[1, W]`` in -1..1."""
    depth = (np.arange(height) + 0.5) / height
    lateral = (np.arange(width) + 0.5) / width * 2.0 - 1.0
    return depth[:, None].astype(np.float32), lateral[None, :].astype(np.float32)


def _smooth_noise(rng: np.random.Generator, x: np.ndarray, waves: int) -> np.ndarray:
    """Random smooth curve of unit scale along ``x``."""
    k = np.arange(1, waves + 1)[:, None]
    amplitude = rng.normal(size=(waves, 1)) / k
    phase = rng.uniform(0, 2 * np.pi, (waves, 1))
    return (amplitude * np.sin(np.pi * k * x + phase)).sum(axis=0, keepdims=True)


def _bumps(
    x: np.ndarray, centres: np.ndarray, widths: np.ndarray, heights: np.ndarray
) -> np.ndarray:
    """Sum of flat-topped bumps ``[1, W]``."""
    d = (x - centres[:, None]) / widths[:, None]
    return (heights[:, None] * np.exp(-(d**2) - 0.5 * d**4)).sum(axis=0, keepdims=True)


def render(
    name: str, rng: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one B-scan.

    Args:
      name: "CNV", "DME", "DRUSEN" or "NORMAL".
      rng: source of all randomness.
      height: pixels.
      width: pixels.

    Returns:
      (image uint8 ``[height, width, 1]``, lesion mask bool ``[height, width]``).
    """
    depth, x = _grid(height, width)
    uniform = rng.uniform

    # Anatomy, the same distribution for every class.
    tilt, curve = uniform(-0.12, 0.12), uniform(-0.06, 0.10)
    base = uniform(0.52, 0.72) + tilt * x - curve * x**2 + 0.006 * _smooth_noise(rng, x, 4)
    fovea, pit_width = uniform(-0.6, 0.6), uniform(0.18, 0.35)
    pit = uniform(0.0, 0.5) * np.exp(-(((x - fovea) / pit_width) ** 2))
    thickness = uniform(0.24, 0.36) * (1.0 + 0.03 * _smooth_noise(rng, x, 3))

    rpe = base.copy()
    thickening = np.zeros_like(x)
    fluid = np.zeros_like(x)
    if name == "DRUSEN":
        count = int(rng.integers(2, 7))
        centres = uniform(-0.85, 0.85, count)
        lift = _bumps(x, centres, uniform(0.05, 0.12, count), uniform(0.025, 0.055, count))
        rpe = base - np.minimum(lift, 0.075)
    elif name == "CNV":
        centre, half = uniform(-0.5, 0.5, 1), uniform(0.22, 0.45, 1)
        lift = _bumps(x, centre, half, uniform(0.09, 0.17, 1))
        lift = lift * (1.0 + 0.12 * _smooth_noise(rng, x * 3.0, 4))
        rpe = base - np.maximum(lift, 0.0)
        shifted = centre + uniform(-0.25, 0.25, 1)
        fluid = _bumps(x, shifted, half * uniform(0.8, 1.3, 1), uniform(0.02, 0.07, 1))
    elif name == "DME":
        centre, half = uniform(-0.5, 0.5, 1), uniform(0.3, 0.6, 1)
        thickening = _bumps(x, centre, half, uniform(0.10, 0.40, 1))
        pit = pit * uniform(0.2, 0.8)
    outer = rpe - fluid  # where the neurosensory retina ends
    # The inner retina follows a bump of the RPE only in part.
    follow = 0.25 if name == "DRUSEN" else 0.7
    surface = base - follow * (base - outer)
    inner = surface - thickness * (1.0 - pit) * (1.0 + thickening)

    # Layers: brightness by relative depth.
    relative = (depth - inner) / (outer - inner)
    image = np.interp(relative, _DEPTHS, _LEVELS).astype(np.float32)
    image[relative < 0.0] = 0.05
    below = depth - rpe
    image = np.where((relative > 1.0) & (below < 0.0), 0.10, image)
    band = uniform(0.020, 0.030)
    choroid = 0.55 * np.exp(-np.maximum(below - band, 0.0) / uniform(0.10, 0.22))
    texture = rng.normal(size=(max(height // 4, 2), max(width // 4, 2))).astype(np.float32)
    texture = np.kron(texture, np.ones((4, 4), np.float32))
    texture = np.pad(
        texture,
        ((0, max(height - texture.shape[0], 0)), (0, max(width - texture.shape[1], 0))),
        mode="edge",
    )[:height, :width]
    choroid = choroid * (1.0 + 0.18 * texture)
    image = np.where(below >= 0.0, np.where(below < band, 0.95, choroid), image)

    # What the lesion itself is made of.
    mask = np.zeros((height, width), bool)
    if name in ("DRUSEN", "CNV"):
        lifted = base - rpe
        material = (below >= band) & (depth < base + band) & (lifted > 0.012)
        level = uniform(0.50, 0.70) if name == "DRUSEN" else uniform(0.45, 0.85)
        rough = 0.10 if name == "DRUSEN" else 0.25
        image = np.where(material, level * (1.0 + rough * texture), image)
        mask = (below >= 0.0) & (depth < base + band) & (lifted > 0.012)
        mask |= (relative > 1.0) & (below < 0.0) & (fluid > 0.012)
    elif name == "DME":
        for _ in range(int(rng.integers(3, 10))):
            cx = centre[0] + rng.normal() * half[0] * 0.55
            layer = uniform(0.42, 0.76)
            middle = int(np.clip((cx + 1) / 2 * width, 0, width - 1))
            span = float(outer[0, middle] - inner[0, middle])
            cy = float(inner[0, middle]) + layer * span
            ry = uniform(0.08, 0.17) * span
            rx = uniform(0.035, 0.10)
            cyst = ((x - cx) / rx) ** 2 + ((depth - cy) / ry) ** 2 < 1.0
            cyst &= (relative > 0.10) & (relative < 0.93)
            image = np.where(cyst, 0.07, image)
            mask |= cyst
        if not mask.any():  # every cyst fell outside the picture: draw one that cannot
            cyst = (np.abs(x - centre) < 0.08) & (relative > 0.45) & (relative < 0.75)
            image, mask = np.where(cyst, 0.07, image), cyst

    # Acquisition: vessel shadows, illumination, speckle, noise, tone.
    for _ in range(rng.integers(0, 5)):
        column, half_width = uniform(-1, 1), uniform(0.012, 0.035)
        shadow = uniform(0.25, 0.6) * np.exp(-(((x - column) / half_width) ** 2))
        image = image * np.where(relative > 0.08, 1.0 - shadow, 1.0)
    image = image * (1.0 + uniform(-0.25, 0.25) * x) * (1.0 - uniform(0.0, 0.25) * depth)
    looks = uniform(8.0, 20.0)
    image = image * rng.standard_gamma(looks, (height, width)).astype(np.float32) / looks
    image = image + uniform(0.01, 0.05) * rng.standard_normal((height, width), dtype=np.float32)
    image = uniform(0.75, 1.1) * np.clip(image, 0.0, 1.2) ** uniform(0.75, 1.25) + uniform(0, 0.06)
    return np.clip(image * 255.0, 0, 255).astype(np.uint8)[..., None], mask
