"""Writing a prepared data set: ArrayRecord through TFDS, its manifest and its split file."""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from wlsrl_jax.data.audit.inspect import (
    Mapper,
    SourceFile,
    SourceImage,
    digest,
    progress,
)
from wlsrl_jax.data.images.decode import presize
from wlsrl_jax.data.images.limits import BadImageError
from wlsrl_jax.data.images.read_image import PixelRange
from wlsrl_jax.data.prepare import split_file
from wlsrl_jax.data.prepare.groups import SPLITS
from wlsrl_jax.data.prepare.place import LOOKS, MANIFEST
from wlsrl_jax.data.prepare.tfds_builder import PreparedBuilder
from wlsrl_jax.data.published.common import DatasetSpec, Problem
from wlsrl_jax.files import Mistake, read_json, write_json, write_whole, writing
from wlsrl_jax.runtime.threads import ordered_map
from wlsrl_jax.runtime.version import VERSION
from wlsrl_jax.tasks import MODALITIES

_SHARD = 2**28  # bytes of a file before compression; TFDS holds one file in memory


def make_manifest(
    spec: DatasetSpec,
    images: Iterable[SourceImage],
    skipped: Iterable[Problem],
    settings: Mapping[str, Any],
    findings: Mapping[str, Any],
    notes: Sequence[str],
    pixel_range: PixelRange | None = None,
) -> dict[str, Any]:
    """What a preparation was made of: its settings, every source file, the audit.

    Args:
      spec: the data set.
      images: divided, in the order of the records.
      skipped: files and rows that are not in it.
      settings: of the preparation.
      findings: of the audit.
      notes: remarks for the reader.
      pixel_range: of wide pixels, if there are any of which the files do not say it.

    Returns:
      The content of ``manifest.json``.
    """
    entries = [
        {
            "id": i.record.id,
            "path": i.record.path,
            **({"frame": i.record.frame} if i.record.frame else {}),
            "class": spec.classes[i.record.label],
            "patient": i.record.patient,
            "group": i.group,
            "split": i.split,
            **({"folds": list(i.folds)} if i.folds else {}),
            "bytes": i.bytes,
            "sha256": i.sha256,
            "attributes": dict(i.record.attributes),
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
        "prepared_with": f"wlsrl_jax {VERSION}",
        "settings": settings,
        **({"pixel_bits": str(pixel_range)} if pixel_range else {}),
        "splits": {s: counts[s] for s in SPLITS if counts[s]},
        "audit": findings,
        "skipped": [{"path": p.path, "reason": p.reason} for p in skipped],
        "images": entries,
        "notes": list(notes),
    }


def is_prepared(target: Path, manifest: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether this very preparation exists; another one is only given up on request.

    Raises:
      Mistake: if another one does, and ``overwrite`` is not set.
    """
    if overwrite or not (target / MANIFEST).exists():
        return False
    if read_json(target / MANIFEST, remedy="prepare it again with --overwrite") == json.loads(
        json.dumps(manifest)
    ):
        return True
    raise Mistake(
        f"{target} is prepared already, from other files or with other settings; --overwrite "
        "replaces it, another --data_dir keeps both."
    )


def write_prepared(
    spec: DatasetSpec,
    source: Path,
    images: Sequence[SourceImage],
    size: tuple[int, int],
    manifest: Mapping[str, Any],
    target: Path,
    *,
    steps: Sequence[str] = (),
    pixel_range: PixelRange | None = None,
    mapper: Mapper = ordered_map,
) -> None:
    """Writes beside the target, then takes its place: what was there stays until then.

    Args:
      spec: the data set.
      source: its folder.
      images: divided, in the order of the records.
      size: (height, width) of the prepared images, pixels.
      manifest: of the preparation.
      target: directory of the prepared data set.
      steps: of ``pixels.STEPS``, applied to every image.
      pixel_range: of wide pixels, if there are any of which the files do not say it.
      mapper: that resizes; threads, one a core, if not given. The bytes do not depend on it.

    Raises:
      Mistake: if a file changed since it was read.
    """
    staging = target.parent.parent / f".{target.parent.name}.preparing"
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    try:
        with writing(target):
            _write_records(spec, source, images, size, steps, pixel_range, staging, mapper)
            written = staging / target.parent.name / target.name
            folds = len(images[0].folds)
            (written / split_file.NAME).write_bytes(split_file.write_split_file(images, folds))
            write_whole(written / LOOKS, _looks(images))
            write_json(written / MANIFEST, manifest)
        if target.exists():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(written, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _looks(images: Sequence[SourceImage]) -> bytes:
    """The perceptual hashes of all images as a ``.npy``, for comparing with other sets."""
    file = io.BytesIO()
    np.save(file, np.packbits(np.stack([i.look.bits for i in images]), axis=1))
    return file.getvalue()


def load_source(
    source: Path,
    file: SourceFile,
    modality: str,
    size: tuple[int, int],
    steps: Sequence[str] = (),
    pixel_range: PixelRange | None = None,
) -> bytes:
    """Reads a source file and makes it ready.

    Args:
      source: folder.
      file: in it.
      modality: a name in ``tasks.MODALITIES``.
      size: (height, width) of the result, pixels.
      steps: of ``pixels.STEPS``.
      pixel_range: of wide pixels of which the file does not say it.

    Returns:
      A PNG file.

    Raises:
      Mistake: if it changed since it was read, or cannot be encoded.
    """
    path = source / file.path
    data = path.read_bytes()
    if digest(data, file.frame) != file.sha256:
        raise Mistake(f"{path} changed while it was being prepared; start again.")
    try:
        return presize(data, modality, *size, steps, file.frame, pixel_range)
    except BadImageError as error:
        raise Mistake(f"{path}: {error}") from None


def shards(count: int, pixels: int) -> list[int]:
    """Divides images among files, evenly; it depends on nothing but their number and size.

    Args:
      count: of the images.
      pixels: of one, times its channels.

    Returns:
      Images in each file.
    """
    number = max(1, -(-count * pixels // _SHARD))
    return [count * (k + 1) // number - count * k // number for k in range(number)]


def _write_records(
    spec: DatasetSpec,
    source: Path,
    images: Sequence[SourceImage],
    size: tuple[int, int],
    steps: Sequence[str],
    pixel_range: PixelRange | None,
    data_dir: Path,
    mapper: Mapper,
) -> None:
    load = functools.partial(
        load_source,
        source,
        modality=spec.modality,
        size=size,
        steps=steps,
        pixel_range=pixel_range,
    )
    files = [SourceFile(i.record.path, i.sha256, i.record.frame) for i in images]
    # One map for all splits, for a cluster takes minutes to start; TFDS writes them in turn.
    ready = zip(images, progress(mapper(load, files), "writing", len(files)), strict=True)

    def examples(split: str, count: int) -> Iterator[dict[str, Any]]:
        for image, png in itertools.islice(ready, count):
            if image.split != split:
                raise RuntimeError(f"{image.record.id} of {image.split} is among those of {split}.")
            yield {
                "image": png,
                "label": image.record.label,
                "id": image.record.id,
                "group": image.group,
            }

    counts = collections.Counter(i.split for i in images)
    pixels = size[0] * size[1] * MODALITIES[spec.modality].channels
    tfds.disable_progress_bar()  # its bars write over each other in a log
    builder = PreparedBuilder(
        spec=spec,
        size=size,
        splits={
            s: [functools.partial(examples, s, n) for n in shards(counts[s], pixels)]
            for s in SPLITS
            if counts[s]
        },
        data_dir=str(data_dir),
        file_format="array_record",
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it announces downloads
        builder.download_and_prepare(file_format="array_record")
