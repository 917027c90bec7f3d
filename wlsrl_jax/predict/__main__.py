"""Probabilities of image files, by a finished run or the model that comes with the package.

    wlsrl predict IMAGE...
    wlsrl predict --workdir=RUN --output=FILE.csv IMAGE...

An image is a file, a folder, a pattern, or a CSV list with a column "path" (see
``data/images/listing.py``). The output has the columns "path" and ``TASK/CLASS``; killed half-way,
the same command goes on (``table.py``); without ``--output`` it goes to standard output. Images are
made ready exactly as prepared data are.
"""

from __future__ import annotations

import argparse
import collections
import functools
import hashlib
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from rich.progress import Progress

from wlsrl_jax import cli
from wlsrl_jax.cli import console as make_console
from wlsrl_jax.data.batches import filled_up
from wlsrl_jax.data.images.limits import BadImageError
from wlsrl_jax.data.images.listing import Item, find_images
from wlsrl_jax.data.images.set_range import add_flag, range_line
from wlsrl_jax.evaluate.calibration import scale
from wlsrl_jax.evaluate.predictions import probability_columns
from wlsrl_jax.evaluate.temperatures import temperatures
from wlsrl_jax.explain.class_maps import grad_cam
from wlsrl_jax.explain.overlay import enlarged_overlay
from wlsrl_jax.files import Mistake, writing
from wlsrl_jax.predict.table import PredictionFile
from wlsrl_jax.runs.input import (
    InputSpec,
    ModelInput,
    add_quality_flag,
    input_spec,
    read_input,
)
from wlsrl_jax.runs.open import TrainedRun, open_run
from wlsrl_jax.runs.shipped import DEFAULT
from wlsrl_jax.runtime.stop import EXIT_PREEMPTED
from wlsrl_jax.runtime.threads import ordered_map

EXIT_SOME_BAD = 1
"""Exit status where some images have no row, and their reasons are in ``FILE.errors.csv``."""

_LOG_SECONDS = 30  # between lines of progress where there is no terminal


def _read(spec: InputSpec, quality_check: str, item: Item) -> tuple[Item, ModelInput | str]:
    """An image and its input, or why there is none."""
    try:
        return item, read_input(item, spec, quality_check)
    except BadImageError as error:
        return item, str(error)


def predict_images(
    run: TrainedRun,
    items: Iterable[Item],
    file: PredictionFile,
    *,
    batch_size: int = 32,
    threads: int | None = None,
    modality_check: str = "refuse",
    quality_check: str = "refuse",
    calibrated: Mapping[str, float] | None = None,
    spec: InputSpec | None = None,
    on_batch: Callable[[list[Item], np.ndarray, dict[str, np.ndarray]], None] = lambda *_: None,
    report: Callable[[int, str], None] = lambda count, message: None,
) -> None:
    """Predicts images and adds their rows, or the reasons why they have none.

    Args:
      run: the model.
      items: the images, none of which has a row yet.
      file: open output.
      batch_size: images at a time; the last batch is filled up, so one shape is compiled.
      threads: that read; the number of processors by default.
      modality_check: "refuse" pictures that look like the other modality, "warn", or "off".
      quality_check: the same for pictures that cannot be graded (``data/images/quality.py``).
      calibrated: task -> temperature, or None for raw probabilities.
      spec: how images are made ready; as those of the run, if not given.
      on_batch: gets the images of a batch, uint8 ``[B, H, W, C]``, filled up, and task -> the
        class that its rows will show, ``[B]``, before they are added.
      report: gets (images dealt with, a message or "").
    """
    spec, predict = spec or input_spec(run), run.predictor()
    ready: list[tuple[Item, np.ndarray]] = []

    def flush() -> None:
        if not ready:
            return
        filled = filled_up(np.stack([image for _, image in ready]), batch_size)
        output = predict(jnp.asarray(filled))
        rows, shown = [], {}
        for task in run.tasks:
            shown[task.name] = np.asarray(output[task.name]).argmax(axis=1)
            p = np.asarray(output[task.name])[: len(ready)]
            rows.append(scale(p, calibrated[task.name]) if calibrated else p)
        on_batch([item for item, _ in ready], filled, shown)
        file.add([item.name for item, _ in ready], np.concatenate(rows, axis=1).tolist())
        report(len(ready), "")
        ready.clear()

    read = functools.partial(_read, spec, quality_check)
    for item, found in ordered_map(read, items, threads, ahead=2 * batch_size + 1):
        if isinstance(found, str):
            reason = found
        elif found.warning and modality_check == "refuse":
            reason = f"refused: {found.warning} (--modality_check=warn predicts it all the same)"
        else:
            if found.warning and modality_check == "warn":
                report(0, f"warning: {item.name}: {found.warning}")
            if found.flaw:
                report(0, f"warning: {item.name}: {found.flaw}")
            ready.append((item, found.image))
            if len(ready) == batch_size:
                flush()
            continue
        file.bad(item.name, reason)
        report(1, f"{item.name}: {reason}")
    flush()


def _overlays(run: TrainedRun, folder: Path, items: Sequence[Item]) -> Callable[..., None]:
    """Writes a picture an image and task: what speaks for the predicted class.

    A picture's name depends on the items alone, so that a run that goes on gives the same ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    variables = jax.device_put(run.variables)
    stems = collections.Counter(item.stem for item in items)

    def write(items: list[Item], images: np.ndarray, shown: dict[str, np.ndarray]) -> None:
        for task in run.tasks:
            heat = grad_cam(run.model, variables, images, task.name, shown[task.name])["fused"]
            for item, image, h in zip(items, images, heat, strict=False):
                drawn = enlarged_overlay(image, h)
                stem = item.stem
                if stems[stem] > 1:  # the same name in two folders
                    stem = f"{zlib.crc32(item.name.encode()):08x}-{stem}"
                path = folder / f"{stem}.{task.name}.png"
                temporary = path.with_name(f".{path.name}.tmp")
                with writing(path):
                    Image.fromarray(drawn).save(temporary, "PNG")
                    os.replace(temporary, path)

    return write


def _digest(run: TrainedRun) -> str:
    """SHA-256 of the weights, by name."""
    found = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(run.variables):
        found.update(jax.tree_util.keystr(path).encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = cli.Parser(
        "predict",
        description="Probabilities of image files, by a finished run. Research use only.",
    )
    cli.add_images(parser)
    cli.add_workdir(parser, DEFAULT)
    parser.add_argument(
        "--output", type=cli.output_file, help="FILE.csv or FILE.parquet; default: printed"
    )
    parser.add_argument(
        "--calibrated", action="store_true", help="temperature-scaled probabilities"
    )
    parser.add_argument(
        "--overlays", type=cli.output_folder, help="folder for pictures of what was looked at"
    )
    cli.add_batch_size(parser, 32)
    cli.add_choice(
        parser, "--on_bad_file", ["fail", "skip"],
        "exit status 1 or 0 where images have no row; all others have one either way",
    )  # fmt: skip
    cli.add_choice(
        parser, "--modality_check", ["refuse", "warn", "off"],
        "of pictures that look like the other kind of image",
    )  # fmt: skip
    add_flag(parser)
    add_quality_flag(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    args = make_parser().parse_args(argv)
    if args.output:
        return _predict(args, args.output)
    with tempfile.TemporaryDirectory(prefix="wlsrl_jax_predict_") as folder:
        output = Path(folder) / "predictions.csv"
        status = _predict(args, output)
        if output.exists():
            # As it is in a file, UTF-8, whatever the terminal can show: these are data.
            sys.stdout.flush()
            sys.stdout.buffer.write(output.read_bytes())
            sys.stdout.buffer.flush()
    return status


def _predict(args: argparse.Namespace, output: Path) -> int:
    run = open_run(args.workdir)
    listed = find_images(args.images)
    console = make_console(stderr=True)
    for line in listed.sentences():
        console.print(line)
    warm = temperatures(run) if args.calibrated else None
    spec = input_spec(run).for_images(listed.items, args.pixel_bits)
    if spec.pixel_range:
        console.print(range_line(spec.pixel_range), soft_wrap=True)
    identity = {
        "weights": _digest(run),
        "prepared_size": spec.prepared_size,
        **({"preprocess": spec.preprocess} if spec.preprocess else {}),
        **({"pixel_bits": str(spec.pixel_range)} if spec.pixel_range else {}),
        "temperatures": warm,
        "modality_check": args.modality_check,
        "quality_check": args.quality_check,
        "overlays": str(args.overlays) if args.overlays else None,
    }
    notes = {"note": run.note, "workdir": str(args.workdir)}
    with PredictionFile(output, probability_columns(run.tasks), identity, notes) as file:
        if changed := file.changed(listed.items):
            notice = (
                f"{len(changed)} images have changed since, such as {changed[0]}; predicted again"
            )
            console.print(notice, soft_wrap=True)
            file.redo(changed)
        todo = [item for item in listed.items if item.name not in file.done]
        if file.finished:
            if todo:
                raise Mistake(
                    f"{output} is complete and lacks {len(todo)} images of this command, such "
                    f"as {todo[0].name}; use another --output."
                )
            print(f"{output}: complete, {len(file.done) - file.bad_count} images")
            return _status(file, args)
        if file.done:
            console.print(f"resuming: {len(file.done)} images are done")
        draw = _overlays(run, args.overlays, listed.items) if args.overlays else lambda *_: None
        with Progress(console=console, disable=not sys.stderr.isatty()) as progress:
            bar = progress.add_task("predicting", total=len(todo))
            told = time.monotonic()

            def report(count: int, message: str) -> None:
                nonlocal told
                progress.advance(bar, count)
                if progress.disable and time.monotonic() - told > _LOG_SECONDS:
                    told, done = time.monotonic(), progress.tasks[bar]
                    left = done.time_remaining
                    print(
                        f"{done.completed:.0f} of {len(todo)} images"
                        + (f", ETA {left:.0f} s" if left is not None else ""),
                        file=sys.stderr,
                    )
                if message:
                    console.print(message, soft_wrap=True)

            try:
                predict_images(
                    run,
                    file.watch(todo),
                    file,
                    batch_size=args.batch_size,
                    modality_check=args.modality_check,
                    quality_check=args.quality_check,
                    calibrated=warm,
                    spec=spec,
                    on_batch=draw,
                    report=report,
                )
            except KeyboardInterrupt:
                goes_on = "; the same command resumes" if args.output else ""
                console.print(f"stopped after {len(file.done)} images{goes_on}")
                return EXIT_PREEMPTED
        if not file.done:
            raise Mistake(
                f"none of the {file.bad_count} images can be used"
                + (f"; see {file.errors_path}." if args.output else ".")
            )
        file.finish()
    if args.output:
        print("\n".join(filter(None, [run.note, f"{output}: {len(file.done)} images"])))
    elif run.note:
        print(run.note, file=sys.stderr)
    return _status(file, args)


def _status(file: PredictionFile, args: argparse.Namespace) -> int:
    if file.bad_count:
        where = f": {file.errors_path}" if args.output else ""
        print(f"{file.bad_count} images without a row{where}", file=sys.stderr)
    return EXIT_SOME_BAD if file.bad_count and args.on_bad_file == "fail" else 0


if __name__ == "__main__":
    cli.run_command(main)
