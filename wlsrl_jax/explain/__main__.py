"""Overlays of images and how faithful they are.

wlsrl explain --workdir=RUN --output=DIR IMAGE...
wlsrl explain --workdir=RUN --output=DIR --split=test --limit=20
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
from wlsrl_jax.cli import Table, print_table
from wlsrl_jax.data.batches import filled_up
from wlsrl_jax.data.images.limits import BadImageError
from wlsrl_jax.data.images.listing import find_images
from wlsrl_jax.data.images.pixels import resize
from wlsrl_jax.data.images.set_range import add_flag, range_line
from wlsrl_jax.explain.class_maps import METHODS, grad_cam
from wlsrl_jax.explain.faithfulness import centred_gaussian, deletion_insertion, random_maps
from wlsrl_jax.explain.integrated_gradients import integrated_gradients, to_heat
from wlsrl_jax.explain.overlay import enlarged_overlay, upscale
from wlsrl_jax.files import Mistake, some, write_json, writing
from wlsrl_jax.runs import provenance
from wlsrl_jax.runs.input import QUALITY_CHECKS, add_quality_flag, input_spec, read_input
from wlsrl_jax.runs.open import TrainedRun, open_run
from wlsrl_jax.runs.open_data import open_dataset, split_of
from wlsrl_jax.runs.shipped import DEFAULT

BATCH = 8
REFERENCES = ("random", "centred_gaussian")


def explain_batch(
    run: TrainedRun, images: np.ndarray, task: str, classes: np.ndarray, *,
    method: str = METHODS[0], first: int = 0,
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]], np.ndarray]:  # fmt: skip
    """Maps of a class and their scores.

    Args:
      run: the run.
      images: uint8 ``[B, H, W, C]`` of the model's input size.
      task: whose head.
      classes: ``[B]`` index of the class of each image, the one that is shown.
      method: of ``grad_cam``.
      first: number of the first image, the seed of its random map.

    Returns:
      (map name -> ``[B, H, W]``, map or reference -> "deletion" and "insertion" -> ``[B]``,
      completeness error of the integrated gradients ``[B]``).
    """
    maps = grad_cam(run.model, run.variables, images, task, classes, method=method)
    attributions, error = integrated_gradients(run.model, run.variables, images, task, classes)
    maps["integrated_gradients"] = to_heat(attributions)
    count, height, width = images.shape[:3]
    references = {
        "random": np.concatenate([random_maps(1, height, width, first + i) for i in range(count)]),
        "centred_gaussian": np.repeat(centred_gaussian(height, width)[None], count, 0),
    }
    scores = {
        name: {
            k: v
            for k, v in deletion_insertion(
                run.model, run.variables, images, heat, task, classes
            ).items()
            if not k.endswith("curve")
        }
        for name, heat in {**maps, **references}.items()
    }
    return maps, scores, error


def read_images(
    paths: Sequence[str],
    run: TrainedRun,
    pixel_bits: str = "",
    quality_check: str = QUALITY_CHECKS[0],
) -> list[tuple[str, np.ndarray]]:
    """Reads the images that a command line means, as ``predict`` does.

    Args:
      paths: of the command line.
      run: the run.
      pixel_bits: value of ``--pixel_bits``.
      quality_check: of ``read_input``; a warning is printed.

    Returns:
      (file name without suffix, with the frame where there are several; uint8 ``[H, W, C]`` of
      the model's input size) of each.

    Raises:
      Mistake: naming every file that cannot be read.
    """
    listed, found, bad = find_images(paths), [], []
    for line in listed.sentences():
        print(line, file=sys.stderr)
    spec = input_spec(run).for_images(listed.items, pixel_bits)
    if spec.pixel_range:
        print(range_line(spec.pixel_range), file=sys.stderr)
    for item in listed.items:
        try:
            made = read_input(item, spec, quality_check)
            for reason in filter(None, (made.warning, made.flaw)):
                print(f"warning: {item.name}: {reason}", file=sys.stderr)
            found.append((item.stem, made.image))
        except BadImageError as error:
            bad.append(f"{item.name}: {error}")
    if bad:
        raise Mistake("\n".join(["these files cannot be used:", *some(bad)]))
    return found


def _from_split(
    run: TrainedRun, args: argparse.Namespace
) -> tuple[list[tuple[str, np.ndarray]], provenance.Overlap]:
    dataset = open_dataset(run, args.data_dir or "")
    source = split_of(dataset, args.split)
    height, width, _ = run.image_shape
    found = []
    for index in range(min(args.limit, len(source))):
        example = source[index]
        found.append((example["id"], resize(example["image"], height, width)))
    seen = provenance.trained_on(run.workdir, args.data_dir or "")
    return found, provenance.ask(seen, dataset, args.split, [name for name, _ in found])


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
    asked: Sequence[provenance.Overlap] = (),
) -> dict[str, Any]:
    """Writes the overlays of every image and task, and ``faithfulness.json``.

    Args:
      run: the run.
      named: (name, uint8 ``[H, W, C]`` of the model's input size) of each image.
      output: folder; files are ``NUMBER-NAME.png`` and ``NUMBER-NAME.TASK.MAP.png``.
      method: of ``grad_cam``.
      alpha: opacity of the overlays.
      asked: whether the images were trained on, where that is known.

    Returns:
      The content of ``faithfulness.json``.
    """
    output.mkdir(parents=True, exist_ok=True)
    predict = run.predictor()
    rows: list[dict[str, Any]] = []
    # Always whole batches, so that everything is compiled once.
    for start in track(range(0, len(named), BATCH), description="explaining"):
        part = named[start : start + BATCH]
        images = filled_up(np.stack([image for _, image in part]), BATCH)
        stems = [
            f"{start + i:04d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:80]}"
            for i, (name, _) in enumerate(part)
        ]
        for stem, image in zip(stems, images, strict=False):
            _write(output / f"{stem}.png", upscale(image))
        probabilities = predict(jnp.asarray(images))
        for task in run.tasks:
            chances = np.asarray(probabilities[task.name])
            shown = chances.argmax(axis=1)
            maps, scores, error = explain_batch(
                run, images, task.name, shown, method=method, first=start
            )
            for i, stem in enumerate(stems):
                for name, heat in maps.items():
                    drawn = enlarged_overlay(images[i], heat[i], alpha)
                    _write(output / f"{stem}.{task.name}.{name}.png", drawn)
                rows.append(
                    {
                        "image": stem,
                        "task": task.name,
                        "class": task.classes[shown[i]],
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
        "note": run.note,
        "method": method,
        "provenance": [found.document() for found in asked],
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
        "explain",
        description="Which pixels speak for the predicted class: overlays, and their faithfulness.",
    )
    cli.add_images(parser, "*")
    cli.add_workdir(parser, DEFAULT)
    parser.add_argument(
        "--output", type=cli.output_folder, required=True, help="folder for the overlays"
    )
    cli.add_split(parser, default=None, of="the run's data, instead of images")
    cli.add_limit(parser, 20)
    cli.add_data_dir(parser)
    cli.add_choice(parser, "--method", METHODS, "of the class maps")
    parser.add_argument(
        "--alpha", type=float, default=0.45, help="opacity of the overlays; default: %(default)s"
    )
    add_flag(parser)
    add_quality_flag(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    args = make_parser().parse_args(argv)
    if bool(args.images) == bool(args.split):
        raise Mistake("give either image files or --split.")
    if not 0.0 <= args.alpha <= 1.0:
        raise Mistake(f"--alpha={args.alpha} must be in 0..1.")
    run = open_run(args.workdir)
    asked: list[provenance.Overlap] = []
    if args.split:
        named, found = _from_split(run, args)
        asked.append(found)
    else:
        named = read_images(args.images, run, args.pixel_bits, args.quality_check)
    document = explain(run, named, args.output, method=args.method, alpha=args.alpha, asked=asked)
    print_table(_table(document))
    for line in provenance.said(document["provenance"]):
        print(line)
    print(f"overlays and faithfulness.json: {args.output}")


if __name__ == "__main__":
    cli.run_command(main)
