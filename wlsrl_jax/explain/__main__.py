"""Overlays of images and how faithful they are.

python -m wlsrl_jax.explain --workdir=RUN --output=DIR IMAGES...
python -m wlsrl_jax.explain --workdir=RUN --output=DIR --split=test --limit=20
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image
from rich.progress import track

from wlsrl_jax import cli
from wlsrl_jax.cli import Table, print_table, run_command
from wlsrl_jax.data.augment import resize
from wlsrl_jax.data.images.decode import BadImageError
from wlsrl_jax.data.images.listing import find_images
from wlsrl_jax.explain.class_maps import METHODS, grad_cam
from wlsrl_jax.explain.faithfulness import centred_gaussian, deletion_insertion, random_maps
from wlsrl_jax.explain.integrated_gradients import integrated_gradients, to_heat
from wlsrl_jax.explain.overlay import overlay, upscale
from wlsrl_jax.files import Mistake, some, write_json, writing
from wlsrl_jax.runs.input import input_spec, read_input
from wlsrl_jax.runs.open import TrainedRun, introduction, load_trained
from wlsrl_jax.runs.open_data import open_split
from wlsrl_jax.runs.shipped import DEFAULT
from wlsrl_jax.train.log import PHANTOM_NOTE

BATCH = 8
REFERENCES = ("random", "centred_gaussian")


def explain_batch(
    run: TrainedRun, images: np.ndarray, task: str, *, method: str = METHODS[0], first: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]], np.ndarray]:
    """Maps of the predicted class and their scores.

    Args:
      run: the run.
      images: uint8 ``[B, H, W, C]`` of the model's input size.
      task: whose head.
      method: of ``grad_cam``.
      first: number of the first image, the seed of its random map.

    Returns:
      (map name -> ``[B, H, W]``, map or reference -> "deletion" and "insertion" -> ``[B]``,
      completeness error of the integrated gradients ``[B]``).
    """
    maps = grad_cam(run.model, run.variables, images, task, method=method)
    attributions, error = integrated_gradients(run.model, run.variables, images, task)
    maps["integrated_gradients"] = to_heat(attributions)
    count, height, width = images.shape[:3]
    references = {
        "random": np.concatenate([random_maps(1, height, width, first + i) for i in range(count)]),
        "centred_gaussian": np.repeat(centred_gaussian(height, width)[None], count, 0),
    }
    scores = {
        name: {
            k: v
            for k, v in deletion_insertion(run.model, run.variables, images, heat, task).items()
            if not k.endswith("curve")
        }
        for name, heat in {**maps, **references}.items()
    }
    return maps, scores, error


def read_images(paths: Sequence[str], run: TrainedRun) -> list[tuple[str, np.ndarray]]:
    """Reads the images that a command line means, as ``predict`` does.

    Returns:
      (file name without suffix, uint8 ``[H, W, C]`` of the model's input size) of each.

    Raises:
      Mistake: naming every file that cannot be read.
    """
    spec, found, bad = input_spec(run), [], []
    for item in find_images(paths).items:
        try:
            if item.problem:
                raise BadImageError(item.problem)
            image = read_input(Path(item.path), spec, item.frame).image
            found.append((Path(item.name).stem, image))
        except BadImageError as error:
            bad.append(f"{item.name}: {error}")
    if bad:
        raise Mistake("\n".join(["these files cannot be used:", *some(bad)]))
    return found


def _from_split(run: TrainedRun, args: argparse.Namespace) -> list[tuple[str, np.ndarray]]:
    source = open_split(run, args.split, args.data_dir or "")
    height, width, _ = run.image_shape
    found = []
    for index in range(min(args.limit, len(source))):
        example = source[index]
        found.append((example["id"], resize(example["image"], height, width)))
    return found


def _write(path: Path, image: np.ndarray) -> None:
    shown = image[..., 0] if image.shape[2] == 1 else image
    with writing(path):
        Image.fromarray(shown).save(path)


def explain(
    run: TrainedRun,
    named: Sequence[tuple[str, np.ndarray]],
    output: Path,
    *,
    method: str = METHODS[0],
    alpha: float = 0.45,
) -> dict[str, Any]:
    """Writes the overlays of every image and task, and ``faithfulness.json``.

    Args:
      run: the run.
      named: (name, uint8 ``[H, W, C]`` of the model's input size) of each image.
      output: folder; files are ``NUMBER-NAME.png`` and ``NUMBER-NAME.TASK.MAP.png``.
      method: of ``grad_cam``.
      alpha: opacity of the overlays.

    Returns:
      The content of ``faithfulness.json``.
    """
    output.mkdir(parents=True, exist_ok=True)
    predict = run.predictor()
    rows: list[dict[str, Any]] = []
    # Always whole batches, so that everything is compiled once.
    for start in track(range(0, len(named), BATCH), description="explaining"):
        part = named[start : start + BATCH]
        images = np.stack([part[min(i, len(part) - 1)][1] for i in range(BATCH)])
        stems = [
            f"{start + i:04d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:80]}"
            for i, (name, _) in enumerate(part)
        ]
        for stem, image in zip(stems, images, strict=False):
            _write(output / f"{stem}.png", upscale(image))
        probabilities = predict(jnp.asarray(images))
        for task in run.tasks:
            maps, scores, error = explain_batch(run, images, task.name, method=method, first=start)
            chances = np.asarray(probabilities[task.name])
            for i, stem in enumerate(stems):
                for name, heat in maps.items():
                    drawn = overlay(upscale(images[i]), np.clip(upscale(heat[i]), 0, 1), alpha)
                    _write(output / f"{stem}.{task.name}.{name}.png", drawn)
                rows.append(
                    {
                        "image": stem,
                        "task": task.name,
                        "class": task.classes[chances[i].argmax()],
                        "probability": float(chances[i].max()),
                        "completeness_error": float(error[i]),
                        **{
                            name: {k: float(v[i]) for k, v in values.items()}
                            for name, values in scores.items()
                        },
                    }
                )
    document = {
        "dataset": run.data["dataset"],
        "note": PHANTOM_NOTE if run.data["phantom"] else "",
        "method": method,
        "mean": {
            task.name: _means([r for r in rows if r["task"] == task.name]) for task in run.tasks
        },
        "images": rows,
    }
    write_json(output / "faithfulness.json", document)
    return document


def _means(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = [name for name, value in rows[0].items() if isinstance(value, dict)]
    return {
        name: {k: float(np.mean([r[name][k] for r in rows])) for k in ("deletion", "insertion")}
        for name in names
    }


def _table(document: dict[str, Any]) -> Table:
    count = len({row["image"] for row in document["images"]})
    title = f"Faithfulness of the maps of the predicted class, mean of {count} images"
    table = Table(title="\n".join(filter(None, [title, document["note"]])))
    for column in ("task", "map", "deletion (low is good)", "insertion (high is good)"):
        table.add_column(column, justify="left" if column in ("task", "map") else "right")
    for task, means in document["mean"].items():
        for name, values in means.items():
            table.add_row(
                task,
                name.replace("_", " "),
                f"{values['deletion']:.3f}",
                f"{values['insertion']:.3f}",
            )
    return table


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = cli.Parser(
        prog="python -m wlsrl_jax.explain",
        description="Which pixels speak for the predicted class: overlays, and their faithfulness.",
    )
    parser.add_argument(
        "images", nargs="*", type=cli.path_text, help="files, folders, patterns, CSVs"
    )
    parser.add_argument(
        "--workdir", type=cli.path, default=DEFAULT, help="of a finished run; default: %(default)s"
    )
    parser.add_argument(
        "--output", type=cli.output_folder, required=True, help="folder for the overlays"
    )
    parser.add_argument(
        "--split", choices=["train", "validation", "test"], help="of the run's data"
    )
    parser.add_argument("--limit", type=cli.number(1), default=20, help="images of the split")
    parser.add_argument("--data_dir", type=cli.path_text, help="of prepared data, if it has moved")
    parser.add_argument("--method", choices=METHODS, default=METHODS[0])
    parser.add_argument("--alpha", type=float, default=0.45, help="opacity of the overlays")
    return parser


def _main(argv: Sequence[str] | None) -> None:
    args = make_parser().parse_args(argv)
    if bool(args.images) == bool(args.split):
        raise Mistake("give either image files or --split.")
    if not 0.0 <= args.alpha <= 1.0:
        raise Mistake(f"--alpha={args.alpha} must be in 0..1.")
    run = load_trained(args.workdir)
    if line := introduction(run):
        print(line, file=sys.stderr, flush=True)
    named = _from_split(run, args) if args.split else read_images(args.images, run)
    document = explain(run, named, args.output, method=args.method, alpha=args.alpha)
    print_table(_table(document))
    print(f"overlays and faithfulness.json: {args.output}")


if __name__ == "__main__":
    run_command(_main)
