"""A downloaded data set -> audited, split, pre-sized ArrayRecord.

wlsrl prepare --dataset=octdl --source=DIR [--data_dir=DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wlsrl_jax import cli
from wlsrl_jax.cli import Table
from wlsrl_jax.cli import console as make_console
from wlsrl_jax.data.audit.findings import audit, sentences
from wlsrl_jax.data.audit.inspect import Mapper, SourceImage, collect
from wlsrl_jax.data.audit.near_duplicates import find_pairs, reindexed
from wlsrl_jax.data.images.pixels import STEPS
from wlsrl_jax.data.images.set_range import add_flag
from wlsrl_jax.data.images.steps import check_steps, parse_steps
from wlsrl_jax.data.prepare.divide import Division, choose_mode, divide
from wlsrl_jax.data.prepare.groups import SPLITS
from wlsrl_jax.data.prepare.place import MANIFEST, dataset_dir
from wlsrl_jax.data.prepare.split_file import follow, read_split_file
from wlsrl_jax.data.prepare.write import is_prepared, make_manifest, write_prepared
from wlsrl_jax.data.published.common import DatasetSpec, Problem, count_notes
from wlsrl_jax.data.published.folder import FolderOptions
from wlsrl_jax.data.published.opening import add_source_flags, open_dataset, take_source_flags
from wlsrl_jax.files import Mistake, some
from wlsrl_jax.runtime.lock import hold
from wlsrl_jax.runtime.threads import ordered_map

NEAR_DUPLICATES = ("group", "report", "off")


def prepare(
    name: str,
    source: Path,
    data_dir: str | None = None,
    *,
    options: FolderOptions | None = None,
    beam_runner: str = "",
    beam_options: str = "",
    **flags: Any,
) -> Path:
    """Prepares a data set; see the command line's help for the arguments.

    Args:
      name: of the data set.
      source: its folder, or an archive of it.
      data_dir: where to write.
      options: of ``name="folder"``, a data set of one's own.
      beam_runner: of a cluster that reads and resizes; "" does it in threads. What is written
        does not depend on it.
      beam_options: of that runner, as on a command line.
      **flags: of ``prepare_opened``.

    Returns:
      Path of the manifest.

    Raises:
      Mistake: with every problem listed.
    """
    target = dataset_dir(options.name if options else name, data_dir).absolute()
    scratch = target.parent.parent / f".{target.parent.name}.unpacked"
    staging = target.parent.parent / f".{target.parent.name}.beam"
    if beam_options and not beam_runner:
        raise Mistake("--beam_options are those of a runner: give --beam_runner as well.")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone(target))
        if beam_runner:
            from wlsrl_jax.data.prepare.beam_map import beam_mapper  # needs optional packages

            flags["mapper"] = stack.enter_context(beam_mapper(beam_runner, beam_options, staging))
            source = source.absolute()  # workers may run in another directory
        spec, folder = stack.enter_context(open_dataset(name, source, scratch, options))
        return prepare_opened(spec, folder, data_dir, options=options, **flags)


def prepare_opened(
    spec: DatasetSpec,
    source: Path,
    data_dir: str | None = None,
    *,
    options: FolderOptions | None = None,
    size: tuple[int, int] | None = None,
    preprocess: Sequence[str] = (),
    pixel_bits: str = "",
    split: str = "",
    seed: int = 0,
    folds: int = 0,
    repeats: int = 0,
    on_bad_file: str = "fail",
    near_duplicates: str = "group",
    split_file: str | None = None,
    allow_absent_ids: bool = False,
    leading_zeros: str = "ask",
    allow_missing_classes: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    mapper: Mapper | None = None,
    console: cli.Console | None = None,
) -> Path:
    """Prepares a folder as its data set describes it; see ``prepare``.

    ``mapper`` reads and resizes the images; threads, if it is not given.

    Returns:
      Path of the manifest.

    Raises:
      Mistake: with every problem listed.
    """
    console = console or make_console()
    size = size or spec.size
    mapper = mapper or functools.partial(ordered_map, workers=workers)
    steps = check_steps(preprocess, spec.modality)
    _check_flags(folds, repeats, near_duplicates)
    target = dataset_dir(spec.name, data_dir)
    previous = read_split_file(Path(split_file)) if split_file else {}
    source_images = collect(spec, source, mapper, leading_zeros, pixel_bits=pixel_bits)
    found, problems = source_images.images, source_images.problems
    pixel_range = source_images.pixel_range
    _refuse_bad(problems, on_bad_file, source_images.notes)
    if not found:
        raise Mistake(f"--source={source} holds no usable image.")
    split, said = choose_mode(split, found, is_own=options is not None, columns=folds or repeats)
    how = Division(split, seed, folds, repeats, allow_missing_classes)
    # A page more is no image more than the publisher counts.
    counted = [i.record for i in found if i.record.frame <= 1]
    notes = [*source_images.notes, *said, *count_notes(spec, counted, problems)]
    if previous:
        previous, more = follow(previous, found, allow_absent_ids)
        notes += more
    settings = {
        "size": list(size),
        "split": split,
        "seed": seed,
        "folds": folds,
        "repeats": repeats,
        "on_bad_file": on_bad_file,
        "near_duplicates": near_duplicates,
        "split_file": bool(split_file),
        "allow_missing_classes": allow_missing_classes,
        **({"allow_absent_ids": True} if allow_absent_ids else {}),
        **({"leading_zeros": leading_zeros} if leading_zeros != "ask" else {}),
        **({"preprocess": list(steps)} if steps else {}),
        **({"pixel_bits": pixel_bits} if pixel_bits else {}),
        **({"folder": dataclasses.asdict(options)} if options else {}),
    }
    pairs = None if near_duplicates == "off" else find_pairs(found, spec.modality, workers)
    images, left_out, lacking = divide(
        spec,
        found,
        how,
        pairs=pairs if pairs and near_duplicates == "group" else (),
        previous=previous,
    )
    rank = {s: k for k, s in enumerate(SPLITS)}
    images.sort(key=lambda i: (rank[i.split], i.record.id))
    if pairs is not None:
        pairs = reindexed(pairs, found, images)
    findings = {**audit(images, pairs, spec.modality), "missing_classes": lacking}
    problems = [*problems, *left_out]
    manifest = make_manifest(spec, images, problems, settings, findings, notes, pixel_range)
    done = is_prepared(target, manifest, overwrite)
    if not done:
        write_prepared(
            spec,
            source,
            images,
            size,
            manifest,
            target,
            steps=steps,
            pixel_range=pixel_range,
            mapper=mapper,
        )
    console.print(table(spec, images))
    for line in sentences(findings):
        console.print(line, soft_wrap=True)
    skipped = (f"skipped {problem.path}: {problem.reason}" for problem in problems)
    for line in some(skipped, rest=f"; all of them are in {target / MANIFEST}"):
        console.print(line)
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True)
    before_or_now = "prepared already, from the same files" if done else "prepared"
    console.print(f"{before_or_now}: {target}", soft_wrap=True)
    return target / MANIFEST


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Prepares one data set at a time: another command waits, and finds it done."""
    folder, name = target.parent.parent, target.parent.name
    made = [f for f in (folder, *folder.parents) if not f.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Mistake(f"--data_dir={folder} cannot be made ({error.strerror}).") from None

    def tell() -> None:
        print(f"waiting: another command prepares {name} in {folder}", file=sys.stderr, flush=True)

    try:
        with hold(folder / f".{name}.lock", waiting=tell, remove=True):
            yield
    finally:
        with contextlib.suppress(OSError):  # what something was put into stays
            for empty in made:
                empty.rmdir()


def _refuse_bad(problems: Sequence[Problem], on_bad_file: str, notes: Sequence[str] = ()) -> None:
    """Ends at files that cannot be used, unless they are to be skipped.

    ``notes`` stand above the list, for they may say why.

    Raises:
      Mistake: with every one of them listed.
    """
    bad = [p for p in problems if not p.by_rule]
    if bad and on_bad_file == "fail":
        raise Mistake(
            f"{len(bad)} files or rows cannot be used:\n"
            + "".join(f"  {text}\n" for text in notes)
            + "\n".join(some(f"  {p.path}: {p.reason}" for p in bad))
            + "\nCorrect them, or go on without them with --on_bad_file=skip."
        )


def _check_flags(folds: int, repeats: int, near_duplicates: str) -> None:
    if near_duplicates not in NEAR_DUPLICATES:
        raise Mistake(f"--near_duplicates={near_duplicates}: use {', '.join(NEAR_DUPLICATES)}.")
    if folds and repeats:
        raise Mistake("--folds and --repeats are two ways to the same: give one of them.")
    if folds < 0 or folds == 1 or repeats < 0:
        raise Mistake("--folds must be 2 or more, --repeats 1 or more; 0 for none.")


def table(spec: DatasetSpec, images: Sequence[SourceImage]) -> Table:
    """Split x class table of images, with patients (or images where there are no ids)."""
    out = Table(title=f"{spec.name}: images (groups)")
    out.add_column("class")
    for split in (*SPLITS, "all"):
        out.add_column(split, justify="right")

    def cell(split: str, label: int | None) -> str:
        mine = [i for i in images if split in (i.split, "all") and label in (i.record.label, None)]
        return f"{len(mine)} ({len({i.group for i in mine})})"

    for label, name in enumerate(spec.classes):
        out.add_row(name, *(cell(s, label) for s in (*SPLITS, "all")))
    out.add_row("all", *(cell(s, None) for s in (*SPLITS, "all")))
    return out


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(v) for v in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 128x256") from None
    if min(height, width) < 16:
        raise argparse.ArgumentTypeError("sides must be at least 16 pixels")
    return height, width


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = cli.Parser(
        "prepare",
        description="Validates, audits, splits and pre-sizes a downloaded data set.",
    )
    add = parser.add_argument
    add_source_flags(parser)
    cli.add_data_dir(parser, "TFDS_DATA_DIR, then that of TFDS")
    add(
        "--size",
        type=_size,
        help="HEIGHTxWIDTH of the prepared images, pixels; default: the data set's",
    )
    add(
        "--preprocess",
        type=parse_steps,
        default=(),
        metavar="NAME,...",
        help=f"steps before the resize, in this order, of {', '.join(STEPS)}",
    )
    add_flag(parser)
    add(
        "--split",
        choices=["grouped", "official"],
        default="",
        help="draw a division by patient, or take the published test set; default: your own "
        "division (--split_column, train/val/test folders) where there is one, else grouped",
    )
    add(
        "--seed",
        type=cli.number(0),
        default=0,
        help="of the division into splits; default: %(default)s",
    )
    add(
        "--folds",
        type=cli.number(0),
        default=0,
        help="of a cross-validation; train with --config.data.fold",
    )
    add(
        "--repeats",
        type=cli.number(0),
        default=0,
        help="of a repeated hold-out; --config.data.fold as well",
    )
    cli.add_choice(parser, "--on_bad_file", ["fail", "skip"], "at images that cannot be used")
    cli.add_choice(
        parser, "--near_duplicates", NEAR_DUPLICATES,
        "near-identical images of different patients: into one group, only told, not looked for",
    )  # fmt: skip
    add(
        "--split_file",
        type=cli.path_text,
        help="CSV with the columns id and split, or an earlier manifest.json: its images keep "
        "their splits",
    )
    add("--allow_absent_ids", action="store_true", help="go on although listed images are absent")
    add("--allow_missing_classes", action="store_true", help="go on although a split lacks a class")
    add("--overwrite", action="store_true", help="replace an earlier preparation")
    cluster = parser.add_argument_group("a cluster that reads and resizes, with Apache Beam")
    cluster.add_argument(
        "--beam_runner",
        default="",
        help="such as FlinkRunner; DirectRunner is this machine; workers must see --source and "
        "--data_dir",
    )
    cluster.add_argument(
        "--beam_options",
        default="",
        help="of the runner: '--flink_master=HOST:PORT --parallelism=8'",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    flags = vars(make_parser().parse_args(argv))
    name, source, options = take_source_flags(flags)
    prepare(name, source, flags.pop("data_dir"), options=options, **flags)


if __name__ == "__main__":
    cli.run_command(main)
