"""The images of a source folder: which there are, what they hold, how they look."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.progress import track

from wlsrl_jax.cli import console as make_console
from wlsrl_jax.data.audit.look import Fingerprint, fingerprint
from wlsrl_jax.data.images.decode import BadImageError, decode, read_file
from wlsrl_jax.data.published.common import DatasetSpec, Problem, Record
from wlsrl_jax.files import Mistake, some


@dataclasses.dataclass(frozen=True)
class SourceImage:
    """One good image of a source folder.

    Attributes:
      record: its row, label and patient.
      sha256: of the file.
      bytes: of the file.
      look: what the audit compares.
      group: what may never be split; "" before the division.
      split: "train", "validation" or "test"; "" before the division.
      folds: its split in every fold of a cross-validation.
    """

    record: Record
    sha256: str
    bytes: int
    look: Fingerprint
    group: str = ""
    split: str = ""
    folds: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """The patient, or the image itself where the set names none."""
        return self.record.id if self.record.patient is None else self.record.patient


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file to be read, perhaps on another machine.

    Attributes:
      path: relative to the source folder.
      sha256: of the content as it was before; "" if it was not read yet.
    """

    path: str
    sha256: str = ""


class Mapper(Protocol):
    """A way to map the files of a source: in threads, or on other machines."""

    def __call__(
        self, function: Callable[[Any], Any], files: Sequence[SourceFile], /
    ) -> Iterator[Any]:
        """Yields the results in the order of the files."""


def ordered_map(
    function: Callable[..., Any], values: Iterable[Any], workers: int | None = None
) -> Iterator[Any]:
    """Maps in threads (decoding releases the interpreter lock), a bounded number ahead.

    Args:
      function: of one value.
      values: what to map.
      workers: threads; None is one a core.

    Yields:
      The results, in the order of the values.
    """
    workers = workers or os.cpu_count() or 1
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        waiting: collections.deque[Any] = collections.deque()
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) >= 8 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error nobody waits for the others


def progress(values: Iterable[Any], text: str, total: int) -> Iterable[Any]:
    """Shows a bar on the terminal while values are gone through; nothing in a log."""
    quiet = not sys.stderr.isatty()
    return track(values, text, total=total, disable=quiet, console=make_console(stderr=True))


def _inspect(source: Path, modality: str, file: SourceFile) -> tuple[str, int, Fingerprint] | str:
    """(SHA-256, bytes, look) of a file, or why it is bad."""
    try:
        data = read_file(source / file.path)
        image = decode(data, 3)
    except BadImageError as error:
        return str(error)
    return hashlib.sha256(data).hexdigest(), len(data), fingerprint(image, modality)


def collect(
    spec: DatasetSpec, source: Path, mapper: Mapper = ordered_map
) -> tuple[list[SourceImage], list[Problem]]:
    """Scans and reads a source folder.

    Args:
      spec: the data set.
      source: its folder.
      mapper: that reads; threads, one a core, if not given.

    Returns:
      (good images, problems), both sorted by name.

    Raises:
      Mistake: if the folder is not of the published layout.
    """
    if not any(source.iterdir()):
        raise Mistake(f"--source={source} is empty; unpack the download there first.")
    try:
        records, problems = spec.scan(source)
    except Mistake as error:
        raise Mistake(
            f"{error}\n({spec.name}: {' '.join((spec.scan.__doc__ or '').split())})"
        ) from None
    records = sorted(records, key=lambda r: r.id)
    inspect = functools.partial(_inspect, source, spec.modality)
    files = [SourceFile(r.path) for r in records]
    found = progress(mapper(inspect, files), "reading", len(files))
    images, names = [], set()
    for record, facts in zip(records, found, strict=True):
        if isinstance(facts, str):
            problems.append(Problem(record.path, facts))
        elif record.id in names:
            reason = f"a second image with the id {record.id}; rename or delete one"
            problems.append(Problem(record.path, reason))
        else:
            names.add(record.id)
            images.append(SourceImage(record, *facts))
    return images, sorted(problems, key=lambda p: p.path)


def refuse_bad(problems: Sequence[Problem], on_bad_file: str) -> None:
    """Ends at files that cannot be used, unless they are to be skipped.

    Raises:
      Mistake: with every one of them listed.
    """
    bad = [p for p in problems if not p.by_rule]
    if bad and on_bad_file == "fail":
        raise Mistake(
            f"{len(bad)} files or rows cannot be used:\n"
            + "\n".join(some(f"  {p.path}: {p.reason}" for p in bad))
            + "\nCorrect them, or go on without them with --on_bad_file=skip."
        )
