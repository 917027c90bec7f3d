"""Command line: a downloaded data set -> audited, split, pre-sized ArrayRecord.

python -m wlsrl_jax.data.prepare --dataset=octdl --source=DIR [--data_dir=DIR]
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from rich.console import Console
from rich.progress import track
from rich.table import Table

import wlsrl_jax
from wlsrl_jax.data.builders import all_specs
from wlsrl_jax.data.builders.common import DatasetSpec, Problem, Record, count_notes
from wlsrl_jax.data.builders.folder import FolderOptions, add_flags, take_flags
from wlsrl_jax.data.images import BadImageError, decode, presize, read_file
from wlsrl_jax.data.prepared import MANIFEST, dataset_dir
from wlsrl_jax.data.source import open_dataset
from wlsrl_jax.data.splits import (
    DEFAULT_FRACTIONS,
    SPLITS,
    Item,
    assign_groups,
    missing_classes,
    split_groups,
    stay_where_they_were,
)
from wlsrl_jax.data.tfds_builder import PreparedBuilder
from wlsrl_jax.workdir import read_json, write_json


class PrepareError(ValueError):
    """The source cannot be prepared; the message says what to do."""


def _ordered_map(function: Callable[..., Any], values: Sequence[Any]) -> Iterator[Any]:
    """Maps in threads (decoding releases the interpreter lock), a bounded number ahead."""
    workers = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting: collections.deque[Any] = collections.deque()
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) >= 8 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _inspect(source: Path, modality: str, record: Record) -> tuple[str, int, str]:
    """(SHA-256, bytes, why the image is bad or "") of a file."""
    try:
        data = read_file(source / record.path)
        decode(data, 1 if modality == "oct" else 3)
    except BadImageError as error:
        return "", 0, str(error)
    return hashlib.sha256(data).hexdigest(), len(data), ""


def collect(spec: DatasetSpec, source: Path) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Scans and reads a source folder.

    Args:
      spec: the data set.
      source: its folder.

    Returns:
      (one dict a good image: record, sha256, bytes; problems), both sorted by name.

    Raises:
      PrepareError: if the folder is not of the published layout.
    """
    if not source.is_dir():
        raise PrepareError(f"--source={source} is not a directory.")
    if not any(source.iterdir()):
        raise PrepareError(f"--source={source} is empty; unpack the download there first.")
    try:
        records, problems = spec.scan(source)
    except ValueError as error:
        raise PrepareError(
            f"{error}\n({spec.name}: {' '.join((spec.scan.__doc__ or '').split())})"
        ) from None
    records = sorted(records, key=lambda r: r.id)
    inspect = functools.partial(_inspect, source, spec.modality)
    found = track(
        _ordered_map(inspect, records),
        "reading",
        total=len(records),
        disable=not sys.stderr.isatty(),
        console=Console(stderr=True),
    )
    images, names = [], set()
    for record, (digest, size, reason) in zip(records, found, strict=True):
        if not reason and record.id in names:
            reason = f"a second image with the id {record.id}; rename or delete one"
        if reason:
            problems.append(Problem(record.path, reason))
        else:
            names.add(record.id)
            images.append({"record": record, "sha256": digest, "bytes": size})
    return images, sorted(problems, key=lambda p: p.path)


def _read_previous(path: str) -> dict[str, str]:
    try:
        manifest = json.loads(Path(path).read_text(encoding="utf-8"))
        return {image["id"]: image["split"] for image in manifest["images"]}
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise PrepareError(f"--previous={path} is not a manifest ({error}).") from None


def divide(
    spec: DatasetSpec,
    images: list[dict[str, Any]],
    *,
    mode: str,
    seed: int,
    previous: Mapping[str, str],
    allow_missing: bool,
) -> tuple[list[dict[str, Any]], list[Problem], dict[str, Any]]:
    """Puts every image into a group and a split.

    Args:
      spec: the data set.
      images: from ``collect``.
      mode: "grouped", or "official" for the publisher's test set.
      seed: of the division.
      previous: image -> split of an earlier division that must stay.
      allow_missing: go on although a split lacks a class.

    Returns:
      (images with "group" and "split", images left out, audit for the manifest).

    Raises:
      PrepareError: if a split would lack a class, or there is no official split.
    """
    items = [
        Item(i["record"].id, i["record"].label, i["record"].patient, i["sha256"]) for i in images
    ]
    groups = assign_groups(items)
    fixed, torn = stay_where_they_were([i.id for i in items], groups, previous)
    left_out = [
        Problem(i["record"].path, "left out: it would join groups of different splits")
        for i in images
        if i["record"].id in set(torn)
    ]
    labels = [i.label for i in items]
    if mode == "official":
        if not any(i["record"].official for i in images):
            raise PrepareError(f"{spec.name} has no official split; use --split=grouped.")
        test = {i["record"].id for i in images if i["record"].official == "test"}
        rest = [k for k, item in enumerate(items) if item.id not in test]
        share = DEFAULT_FRACTIONS["validation"] / (1.0 - DEFAULT_FRACTIONS["test"])
        inner = split_groups(
            [labels[k] for k in rest],
            [groups[k] for k in rest],
            fractions={"train": 1.0 - share, "validation": share},
            seed=seed,
            fixed=fixed,
        )
        known = [item.id for item in items if item.id in previous]
        moved = [name for name in known if (previous[name] == "test") != (name in test)]
        if moved:
            raise PrepareError(
                f"--previous and --split=official disagree on the test set: {len(moved)} images, "
                f"such as {moved[0]}. Use one of them."
            )
        drawn = ["test" if item.id in test else inner[groups[k]] for k, item in enumerate(items)]
    else:
        result = split_groups(labels, groups, seed=seed, fixed=fixed)
        drawn = [result[g] for g in groups]
    where = [previous.get(item.id, split) for item, split in zip(items, drawn, strict=True)]
    kept = [
        {**image, "group": group, "split": split}
        for image, group, split in zip(images, groups, where, strict=True)
        if image["record"].id not in set(torn)
    ]
    lacking = missing_classes(
        [i["record"].label for i in kept], [i["split"] for i in kept], spec.classes
    )
    if lacking and not allow_missing:
        text = "\n".join(f"  class {c} is missing in {', '.join(s)}" for c, s in lacking.items())
        raise PrepareError(
            f"Not every class is in every split:\n{text}\nAdd images of at least three patients "
            "of each class, or go on with --allow_missing_classes."
        )
    return kept, left_out, {**audit(kept), "missing_classes": lacking}


def audit(images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts byte-identical images and groups that stand in several splits.

    Args:
      images: with "record", "sha256", "group" and "split".

    Returns:
      Counts, for the manifest.
    """
    same: dict[str, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for image in images:
        same[image["sha256"]].append(image)
    sets = [v for v in same.values() if len(v) > 1]

    def differ(key: Callable[[Mapping[str, Any]], Any]) -> int:
        return sum(len({key(i) for i in s}) > 1 for s in sets)

    across: dict[str, set[str]] = collections.defaultdict(set)
    for image in images:
        across[image["group"]].add(image["split"])
    return {
        "identical_sets": len(sets),
        "identical_sets_across_patients": differ(lambda i: i["record"].patient or i["record"].id),
        "identical_sets_across_classes": differ(lambda i: i["record"].label),
        "groups_in_several_splits": sorted(g for g, s in across.items() if len(s) > 1),
        "has_patient_ids": all(i["record"].patient is not None for i in images),
    }


def _write(
    spec: DatasetSpec,
    source: Path,
    images: Sequence[Mapping[str, Any]],
    size: tuple[int, int],
    data_dir: Path,
) -> None:
    def load(image: Mapping[str, Any]) -> bytes:
        path = source / image["record"].path
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != image["sha256"]:
            raise PrepareError(f"{path} changed while it was being prepared; start again.")
        return presize(data, spec.modality, *size)

    def examples(split: str) -> Iterator[dict[str, Any]]:
        mine = [i for i in images if i["split"] == split]
        for image, png in zip(mine, _ordered_map(load, mine), strict=True):
            yield {
                "image": png,
                "label": image["record"].label,
                "id": image["record"].id,
                "group": image["group"],
            }

    present = [s for s in SPLITS if any(i["split"] == s for i in images)]
    tfds.disable_progress_bar()  # its bars write over each other in a log
    builder = PreparedBuilder(
        spec=spec,
        size=size,
        splits={s: functools.partial(examples, s) for s in present},
        data_dir=str(data_dir),
        file_format="array_record",
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it announces downloads
        builder.download_and_prepare(file_format="array_record")


def table(spec: DatasetSpec, images: Sequence[Mapping[str, Any]]) -> Table:
    """Split x class table of images, with patients (or images where there are no ids)."""
    out = Table(title=f"{spec.name}: images (groups)")
    out.add_column("class")
    for split in (*SPLITS, "all"):
        out.add_column(split, justify="right")

    def cell(split: str, label: int | None) -> str:
        mine = [
            i for i in images if split in (i["split"], "all") and label in (i["record"].label, None)
        ]
        return f"{len(mine)} ({len({i['group'] for i in mine})})"

    for label, name in enumerate(spec.classes):
        out.add_row(name, *(cell(s, label) for s in (*SPLITS, "all")))
    out.add_row("all", *(cell(s, None) for s in (*SPLITS, "all")))
    return out


def prepare(
    name: str,
    source: Path,
    data_dir: str | None = None,
    *,
    options: FolderOptions | None = None,
    **flags: Any,
) -> Path:
    """Prepares a data set; see the command line's help for the arguments.

    Args:
      name: of the data set.
      source: its folder, or an archive of it.
      data_dir: where to write.
      options: of ``name="folder"``, a data set of one's own.
      **flags: of ``prepare_opened``.

    Returns:
      Path of the manifest.

    Raises:
      PrepareError: with every problem listed.
    """
    target = dataset_dir(options.name if options else name, data_dir)
    scratch = target.parent.parent / f".{target.parent.name}.unpacked"
    try:
        with open_dataset(name, source, scratch, options) as (spec, folder):
            return prepare_opened(spec, folder, data_dir, options=options, **flags)
    except PrepareError:
        raise
    except ValueError as error:
        raise PrepareError(str(error)) from None


def prepare_opened(
    spec: DatasetSpec,
    source: Path,
    data_dir: str | None = None,
    *,
    options: FolderOptions | None = None,
    size: tuple[int, int] | None = None,
    split: str = "grouped",
    seed: int = 0,
    on_bad_file: str = "fail",
    previous: str = "",
    allow_missing_classes: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Path:
    """Prepares a folder as its data set describes it; see ``prepare``.

    Returns:
      Path of the manifest.

    Raises:
      PrepareError: with every problem listed.
    """
    console = console or Console()
    size = size or spec.size
    target = dataset_dir(spec.name, data_dir)
    before = _read_previous(previous) if previous else {}
    settings = {
        "size": list(size),
        "split": split,
        "seed": seed,
        "on_bad_file": on_bad_file,
        "previous": bool(previous),
        "allow_missing_classes": allow_missing_classes,
        **({"folder": dataclasses.asdict(options)} if options else {}),
    }
    images, problems = collect(spec, source)
    bad = [p for p in problems if not p.by_rule]
    if bad and on_bad_file == "fail":
        raise PrepareError(
            f"{len(bad)} files or rows cannot be used:\n"
            + "\n".join(f"  {p.path}: {p.reason}" for p in bad)
            + "\nCorrect them, or go on without them with --on_bad_file=skip."
        )
    if not images:
        raise PrepareError(f"--source={source} holds no usable image.")
    notes = count_notes(spec, [i["record"] for i in images], problems)
    images, left_out, findings = divide(
        spec, images, mode=split, seed=seed, previous=before, allow_missing=allow_missing_classes
    )
    rank = {s: k for k, s in enumerate(SPLITS)}
    images.sort(key=lambda i: (rank[i["split"]], i["record"].id))
    manifest = _manifest(spec, images, [*problems, *left_out], settings, findings)
    manifest["notes"] = notes
    done = _is_same(target, manifest, overwrite)
    if not done:
        _write_all(target, manifest, functools.partial(_write, spec, source, images, size))
    console.print(table(spec, images))
    _report(console, findings, [*problems, *left_out])
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True, markup=False, highlight=False)
    before_or_now = "prepared already, from the same files" if done else "prepared"
    console.print(f"{before_or_now}: {target}", soft_wrap=True, highlight=False)
    return target / MANIFEST


def _write_all(target: Path, manifest: Mapping[str, Any], write: Callable[[Path], None]) -> None:
    """Writes beside the target, then takes its place: what was there stays until then."""
    staging = target.parent.parent / f".{target.parent.name}.preparing"
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    try:
        write(staging)
        written = staging / target.parent.name / target.name
        write_json(written / MANIFEST, manifest)
        if target.exists():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(written, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _manifest(
    spec: DatasetSpec,
    images: Iterable[Mapping[str, Any]],
    skipped: Iterable[Problem],
    settings: Mapping[str, Any],
    findings: Mapping[str, Any],
) -> dict[str, Any]:
    entries = [
        {
            "id": i["record"].id,
            "path": i["record"].path,
            "class": spec.classes[i["record"].label],
            "patient": i["record"].patient,
            "group": i["group"],
            "split": i["split"],
            "bytes": i["bytes"],
            "sha256": i["sha256"],
            "attributes": dict(i["record"].attributes),
        }
        for i in images
    ]
    counts = collections.Counter(e["split"] for e in entries)
    return {
        "dataset": spec.name,
        "modality": spec.modality,
        "classes": spec.classes,
        "normal": spec.normal,
        "homepage": spec.homepage,
        "license": spec.license,
        "citation": spec.citation,
        "prepared_with": f"wlsrl_jax {wlsrl_jax.__version__}",
        "settings": settings,
        "splits": {s: counts[s] for s in SPLITS if counts[s]},
        "audit": findings,
        "skipped": [{"path": p.path, "reason": p.reason} for p in skipped],
        "images": entries,
    }


def _is_same(target: Path, manifest: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether this very preparation exists; another one is only given up on request."""
    if overwrite or not (target / MANIFEST).exists():
        return False
    if read_json(target / MANIFEST) == json.loads(json.dumps(manifest)):
        return True
    raise PrepareError(
        f"{target} is prepared already, from other files or with other settings; --overwrite "
        "replaces it, another --data_dir keeps both."
    )


def _report(console: Console, findings: Mapping[str, Any], skipped: Sequence[Problem]) -> None:
    if findings["identical_sets"]:
        console.print(
            f"byte-identical images: {findings['identical_sets']} sets, "
            f"{findings['identical_sets_across_patients']} of them under several patient ids, "
            f"{findings['identical_sets_across_classes']} under several classes; each set is in "
            "one group"
        )
    if not findings["has_patient_ids"]:
        console.print(
            "This set names no patients: that no patient is in two splits cannot be "
            "verified, only that no identical image is."
        )
    crossing = findings["groups_in_several_splits"]
    if crossing:
        console.print(
            f"WARNING: {len(crossing)} groups (patients) are in several splits: "
            f"{', '.join(crossing[:10])}{', ...' if len(crossing) > 10 else ''}"
        )
    for problem in skipped:
        console.print(f"skipped {problem.path}: {problem.reason}", markup=False)


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(v) for v in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 128x256") from None
    if min(height, width) < 16:
        raise argparse.ArgumentTypeError("sides must be at least 16 pixels")
    return height, width


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m wlsrl_jax.data.prepare",
        description="Validates, splits and pre-sizes a downloaded data set.",
    )
    parser.add_argument(
        "--dataset", required=True, help=", ".join([*sorted(all_specs()), "folder (your own)"])
    )
    parser.add_argument(
        "--source", required=True, type=Path, help="folder as published, or an archive of it"
    )
    parser.add_argument("--data_dir", help="where to write; default TFDS_DATA_DIR, then TFDS's")
    parser.add_argument("--size", type=_size, help="HEIGHTxWIDTH of the prepared images, pixels")
    parser.add_argument("--split", choices=["grouped", "official"], default="grouped")
    parser.add_argument("--seed", type=int, default=0, help="of the division into splits")
    parser.add_argument("--on_bad_file", choices=["fail", "skip"], default="fail")
    parser.add_argument(
        "--previous",
        default="",
        help="manifest of an earlier preparation whose images keep their splits",
    )
    parser.add_argument(
        "--allow_missing_classes", action="store_true", help="go on although a split lacks a class"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier preparation")
    add_flags(parser)
    flags = vars(parser.parse_args(argv))
    try:
        name, source = flags.pop("dataset"), flags.pop("source")
        options = take_flags(flags, name)
        prepare(name, source, flags.pop("data_dir"), options=options, **flags)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
