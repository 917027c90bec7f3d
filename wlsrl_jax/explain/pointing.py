"""The pointing game on phantoms, whose lesions are known.

Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016: a map hits when its
highest point lies on an object of the class, or within a tolerance of it. The paper takes 15
pixels on photographs of about 500 a side; here it is the same fraction of the longer side.

    wlsrl pointing --workdir=RUN
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import jax.numpy as jnp
import numpy as np

from wlsrl_jax import cli
from wlsrl_jax.cli import Table, print_table
from wlsrl_jax.data.phantoms.source import PhantomSource
from wlsrl_jax.explain.class_maps import METHODS, grad_cam
from wlsrl_jax.files import Mistake, write_json
from wlsrl_jax.runs import provenance
from wlsrl_jax.runs.open import TrainedRun, load_trained
from wlsrl_jax.runs.open_data import open_dataset, split_of
from wlsrl_jax.runs.shipped import results_dir
from wlsrl_jax.tasks import MISSING, PHANTOM_NOTE, Task

BATCH = 50
TOLERANCE = 15 / 500  # of the longer side


def default_tolerance(height: int, width: int) -> int:
    """Pixels that a point may lie beside a lesion: 2 at 64x64."""
    return round(TOLERANCE * max(height, width))


def distance_to(mask: np.ndarray) -> np.ndarray:
    """Distance of every pixel to the nearest one of a mask.

    Args:
      mask: bool ``[H, W]``, not empty.

    Returns:
      float32 ``[H, W]``, pixels; 0 on the mask.
    """
    outside = (~mask).astype(np.uint8)
    return cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def hits(heat: np.ndarray, distances: np.ndarray, tolerance: float) -> np.ndarray:
    """Whether the highest point of each map lies on a lesion.

    Args:
      heat: ``[N, H, W]``. Of several highest points the first in row-major order counts; a map
        that is the same everywhere points nowhere and misses.
      distances: ``[N, H, W]`` to the lesions, pixels.
      tolerance: pixels.

    Returns:
      bool ``[N]``.
    """
    flat = heat.reshape(len(heat), -1)
    at = distances.reshape(len(heat), -1)[np.arange(len(heat)), flat.argmax(axis=1)]
    return (at <= tolerance) & (flat.max(axis=1) > flat.min(axis=1))


def _lesions(source: PhantomSource, limit: int) -> Iterator[tuple[np.ndarray, int, np.ndarray]]:
    for index in range(min(limit, len(source))):
        example, mask = source.example(index)
        if mask.any():
            yield example["image"], example["label"], mask


def pointing_game(
    run: TrainedRun,
    source: PhantomSource,
    *,
    limit: int = 1000,
    tolerance: int | None = None,
    method: str = "layer_cam",
) -> dict[str, Any]:
    """Plays the game for the true class of every phantom that has a lesion.

    Args:
      run: a run on phantoms.
      source: phantoms; those of the validation or test split were not trained on.
      limit: phantoms to look at, healthy ones included.
      tolerance: pixels; None is ``default_tolerance``.
      method: of ``grad_cam``.

    Returns:
      {"tolerance_pixels", "method", "rates": task -> class -> {"count", "random_point" and
      "centre": hit rates of a uniformly drawn point and of the middle, each map -> {"hit" with
      the tolerance, "hit_interval" its 95% Wilson interval, "hit_exact" without,
      "hit_if_correct" among correctly classified phantoms or None}}}.

    Raises:
      Mistake: if no phantom has a lesion.
    """
    found = list(_lesions(source, limit))
    if not found:
        raise Mistake(f"none of the first {limit} phantoms has a lesion; raise --limit.")
    images = np.stack([image for image, _, _ in found])
    labels = np.asarray([label for _, label, _ in found])
    distances = np.stack([distance_to(mask) for _, _, mask in found])
    height, width = images.shape[1:3]
    if tolerance is None:
        tolerance = default_tolerance(height, width)
    near = {"hit": tolerance, "hit_exact": 0}
    rates: dict[str, Any] = {}
    for task in run.tasks:
        classes = np.asarray(task.label_map)[labels]
        if (classes == MISSING).any():
            raise Mistake(f"task {task.name} has no class for some phantoms.")
        maps = _all_maps(run, task, images, classes, method)
        correct = _correct(run, task, images, classes)
        rates[task.name] = {}
        for label in np.unique(labels):
            rows = labels == label
            lesion = distances[rows]
            entry: dict[str, Any] = {
                "count": int(rows.sum()),
                "correct": float(correct[rows].mean()),
                "random_point": {k: float((lesion <= t).mean()) for k, t in near.items()},
                "centre": {
                    k: float((lesion[:, height // 2, width // 2] <= t).mean())
                    for k, t in near.items()
                },
            }
            for name, heat in maps.items():
                hit = {k: hits(heat[rows], lesion, t) for k, t in near.items()}
                right = hit["hit"][correct[rows]]
                entry[name] = {
                    **{k: float(h.mean()) for k, h in hit.items()},
                    "hit_interval": _wilson(int(hit["hit"].sum()), int(rows.sum())),
                    "hit_if_correct": float(right.mean()) if right.size else None,
                }
            rates[task.name][run.data["classes"][label]] = entry
    return {"tolerance_pixels": tolerance, "method": method, "rates": rates}


def _all_maps(
    run: TrainedRun, task: Task, images: np.ndarray, classes: np.ndarray, method: str
) -> dict[str, np.ndarray]:
    parts = []
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        parts.append(
            grad_cam(
                run.model, run.variables, images[rows], task.name, classes[rows], method=method
            )
        )
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _correct(run: TrainedRun, task: Task, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    predict = run.predictor()
    parts = [
        np.asarray(predict(jnp.asarray(images[s : s + BATCH]))[task.name])
        for s in range(0, len(images), BATCH)
    ]
    return np.concatenate(parts).argmax(axis=1) == classes


def _wilson(successes: int, count: int) -> list[float]:
    from scipy.stats import binomtest  # slow to import

    interval = binomtest(successes, count).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def _table(document: dict[str, Any]) -> Table:
    tolerance = document["tolerance_pixels"]
    table = Table(
        title=f"Pointing game, {document['method']}: hit rate within {tolerance} px (on the lesion)"
        f"\n{PHANTOM_NOTE}"
    )
    rates = document["rates"]
    first = next(iter(next(iter(rates.values())).values()))
    maps = [k for k in first if k not in ("count", "correct")]
    for column in ("task", "class", "count", "correct", *maps):
        table.add_column(column.replace("_", " "), justify="left" if column == "task" else "right")
    for task, classes in rates.items():
        for name, entry in classes.items():
            cells = [f"{entry[m]['hit']:.2f} ({entry[m]['hit_exact']:.2f})" for m in maps]
            table.add_row(task, name, str(entry["count"]), f"{entry['correct']:.2f}", *cells)
    return table


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = cli.Parser(
        "pointing",
        description="How often a map's highest point lies on the lesion of a phantom.",
    )
    cli.add_workdir(parser, of="a finished run on phantoms")
    cli.add_split(parser, ["validation", "test"])
    cli.add_limit(parser, 1000)
    parser.add_argument(
        "--tolerance", type=cli.number(0), help="pixels; default: 3%% of the longer side"
    )
    cli.add_choice(parser, "--method", METHODS, "of the class maps")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    args = make_parser().parse_args(argv)
    run = load_trained(args.workdir)
    if not run.data["phantom"]:
        raise Mistake(
            f"--workdir={args.workdir} was trained on {run.data['dataset']}; only phantoms come "
            "with the place of their lesions."
        )
    dataset = open_dataset(run)
    source = split_of(dataset, args.split)
    asked = provenance.ask(provenance.trained_on(run.workdir), dataset, args.split)
    document = pointing_game(
        run, source, limit=args.limit, tolerance=args.tolerance, method=args.method
    )
    document = {
        "note": PHANTOM_NOTE, "split": args.split, "phantoms": args.limit,
        "provenance": [asked.document()], **document,
    }  # fmt: skip
    suffix = "" if args.method == METHODS[0] else f"_{args.method}"
    output = results_dir(run.workdir) / f"pointing{suffix}.json"
    write_json(output, document)
    print_table(_table(document))
    print(f"results: {output}")
