"""How often the check of ``wlsrl_jax/data/images/quality.py`` errs: real images, and what is none.

WLSRL_TEST_DATA=DIR python experiments/benchmarks/quality_check.py --json=quality_check.json

False alarms are counted in every folder of real images, as they are and changed (smaller, JPEG,
darker, brighter, less contrast, noisy, cropped, in grey), and on phantoms; detections on every kind
of ``unusable_pictures.py``. ``--fit`` fits the weights of the check anew, on every second real
image and pictures of another seed, and prints them.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import unusable_pictures

from wlsrl_jax.data.images import quality
from wlsrl_jax.data.images.decode import decode, is_image_name, read_file
from wlsrl_jax.data.images.modality import looks_like
from wlsrl_jax.data.phantoms.source import PhantomSource

FOLDERS = {
    "octdl": "oct",
    "oct2017_sample": "oct",
    "odir_sample": "fundus",
    "eyepacs_sample": "fundus",
    "eyepacs_equalised": "fundus",
    "aptos_sample": "fundus",
}
SEED_OF_FIT, SEED_OF_FIGURES = 0, 1
Rng = np.random.Generator


def _scaled(image: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(image.shape[:2])
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _jpeg(image: np.ndarray, value: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, value])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0, 255).astype(np.uint8)


def _crop(image: np.ndarray, rng: Rng) -> np.ndarray:
    (top, left), (height, width) = rng.uniform(0, 0.12, 2), image.shape[:2]
    return image[int(top * height) :, int(left * width) :][
        : int(height * 0.88), : int(width * 0.88)
    ]


CHANGES: dict[str, Callable[[np.ndarray, Rng], np.ndarray]] = {
    "smaller": lambda image, rng: _scaled(image, int(rng.choice([48, 64, 96, 160]))),
    "jpeg": lambda image, rng: _jpeg(image, int(rng.integers(15, 40))),
    "darker": lambda image, rng: _bytes(image * rng.uniform(0.4, 0.7)),
    "brighter": lambda image, rng: _bytes(image * rng.uniform(1.2, 1.5)),
    "less contrast": lambda image, rng: _bytes(
        image.mean() + (image - image.mean()) * rng.uniform(0.4, 0.7)
    ),
    "noisy": lambda image, rng: _bytes(image + rng.uniform(4, 12) * rng.normal(size=image.shape)),
    "cropped": _crop,
    "grey": lambda image, rng: np.repeat(image[..., 1:2], 3, axis=2),
}
"""Name -> a change that leaves a real image one."""


def real_images(folder: Path, step: int, start: int = 0) -> Iterator[np.ndarray]:
    """Yields every ``step``-th image of a folder, uint8 ``[H, W, 3]``, in the order of names."""
    names = sorted(path for path in folder.rglob("*") if is_image_name(path))
    for path in names[start::step]:
        yield decode(read_file(path), 3)


def phantoms(modality: str, count: int) -> Iterator[np.ndarray]:
    """Yields phantoms of several sizes, uint8 ``[H, W, 3]``."""
    for side in (32, 64, 128, 224):
        source = PhantomSource(modality, "test", count, side, side)
        for k in range(count):
            yield np.ascontiguousarray(np.broadcast_to(source[k]["image"], (side, side, 3)))


def flaws(image: np.ndarray, modality: str) -> tuple[str, ...]:
    """The check as the commands make it."""
    return quality.flaws(image, looks_like(image, modality))


def false_alarms(data: Path, *, limit: int, changed: int) -> list[dict[str, Any]]:
    """Counts real images and phantoms that are refused.

    Args:
      data: the folders.
      limit: images of each folder, evenly over it; 0 takes all.
      changed: every so many-th of them is changed in each way.

    Returns:
      A row for each folder and change: "set", "change", "images", "refused", "flaws".
    """
    rows = []
    for name, modality in FOLDERS.items():
        if not (data / name).is_dir():
            continue
        count = sum(is_image_name(path) for path in (data / name).rglob("*"))
        step = max(1, round(count / limit)) if limit else 1
        found: dict[str, list[tuple[str, ...]]] = collections.defaultdict(list)
        rng = np.random.default_rng(SEED_OF_FIGURES)
        for k, image in enumerate(real_images(data / name, step)):
            found["as it is"].append(flaws(image, modality))
            if k % changed == changed - 1:
                image = _scaled(image, 256) if max(image.shape[:2]) > 256 else image
                for change, function in CHANGES.items():
                    found[change].append(
                        flaws(np.ascontiguousarray(function(image, rng)), modality)
                    )
        rows += [_row(name, change, each) for change, each in found.items()]
    for modality in ("oct", "fundus"):
        passed = [flaws(image, modality) for image in phantoms(modality, 50)]
        rows.append(_row(f"{modality} phantoms", "as it is", passed))
    return rows


def _row(name: str, change: str, checks: list[tuple[str, ...]]) -> dict[str, Any]:
    refused = [found for found in checks if found]
    return {
        "set": name,
        "change": change,
        "images": len(checks),
        "refused": len(refused),
        "flaws": dict(collections.Counter(name for found in refused for name in found)),
    }


def detections(count: int, seed: int = SEED_OF_FIGURES) -> list[dict[str, Any]]:
    """Counts pictures of no retina that are refused, by kind and modality of the model."""
    rows = []
    for kind in unusable_pictures.KINDS:
        pictures = [unusable_pictures.picture(kind, seed, k) for k in range(count)]
        for modality in ("oct", "fundus"):
            rows.append(_row(kind, modality, [flaws(p, modality) for p in pictures]))
    return rows


def milliseconds(rounds: int = 50) -> float:
    """Time of a check on the thumbnail that prediction gives it; the least of the rounds."""
    image = next(phantoms("fundus", 1))
    image = cv2.resize(image, (256, 256))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        flaws(image, "fundus")
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def fit(data: Path, count: int) -> dict[str, dict[str, list[float]]]:
    """Fits the weights of the check: modality -> flaw -> weights of the measures, and the bias."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    weights: dict[str, dict[str, list[float]]] = {"oct": {}, "fundus": {}}
    rng = np.random.default_rng(SEED_OF_FIT)
    for modality in weights:
        colours = len(quality.MEASURES) - (4 if modality == "oct" else 0)

        def look(image: np.ndarray, modality: str = modality, colours: int = colours) -> np.ndarray:
            small = quality.view(np.ascontiguousarray(image), modality)
            return quality.measures(small)[:colours]

        good, importance = [look(image) for image in phantoms(modality, 60)], []
        importance += [1.0] * len(good)
        for name, kind in FOLDERS.items():
            if kind != modality:
                continue
            for k, image in enumerate(real_images(data / name, 6 if "odir" in name else 2)):
                good.append(look(image))
                importance.append(1.0)
                if k % 2 == 0:
                    change = list(CHANGES)[k // 2 % len(CHANGES)]
                    good.append(look(CHANGES[change](image, rng)))
                    importance.append(10.0 if change == "grey" else 1.0)  # red-free, and rare here
        for flaw in ("noise", "text"):
            bad = [
                look(unusable_pictures.picture(kind, SEED_OF_FIT, k))
                for kind in unusable_pictures.KINDS
                if kind.startswith(flaw)
                for k in range(count)
            ]
            both = np.array(good + bad)
            each = np.r_[importance, np.full(len(bad), sum(importance) / len(bad))]
            scaler = StandardScaler().fit(both)
            model = LogisticRegression(C=0.3, max_iter=3000)
            model.fit(scaler.transform(both), np.arange(len(both)) >= len(good), each)
            found = model.coef_[0] / scaler.scale_
            bias = model.intercept_[0] - (found * scaler.mean_).sum()
            padded = np.r_[found, np.zeros(len(quality.MEASURES) - colours), bias]
            weights[modality][flaw] = padded.round(2).tolist()
    return weights


def main() -> None:
    """Prints the rates, and writes them where ``--json`` says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=os.environ.get("WLSRL_TEST_DATA"))
    parser.add_argument("--limit", type=int, default=0, help="images of a folder; 0: all")
    parser.add_argument("--changed", type=int, default=20, help="every so many-th is changed")
    parser.add_argument("--pictures", type=int, default=200, help="of every kind")
    parser.add_argument("--fit", action="store_true", help="print weights fitted anew")
    args = parser.parse_args()
    if args.data is None:
        parser.error("name the folders of real images with --data or WLSRL_TEST_DATA")
    cv2.setNumThreads(1)
    if args.fit:
        print(json.dumps(fit(args.data, args.pictures), indent=2))
        return
    found = {
        "false_alarms": false_alarms(args.data, limit=args.limit, changed=args.changed),
        "detections": detections(args.pictures),
        "milliseconds": milliseconds(),
    }
    for part in ("false_alarms", "detections"):
        for row in found[part]:
            share = row["refused"] / row["images"]
            print(
                f"{row['set']:20} {row['change']:14} {share:8.2%} of {row['images']} {row['flaws']}"
            )
    print(f"{found['milliseconds']:.2f} ms a picture")
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
