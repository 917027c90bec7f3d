"""The images of a source folder: which there are, what they hold, how they look."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from rich.progress import track

from wlsrl_jax.cli import console as make_console
from wlsrl_jax.data.audit.look import Fingerprint, fingerprint
from wlsrl_jax.data.images.decode import open_image, read_file, to_array
from wlsrl_jax.data.images.frames import count_images, may_hold_several
from wlsrl_jax.data.images.limits import BadImageError
from wlsrl_jax.data.images.read_image import FLAG, Extent, PixelRange, Wide, decide_range
from wlsrl_jax.data.images.set_range import parse_flag, range_line, range_mistakes
from wlsrl_jax.data.published import layout
from wlsrl_jax.data.published.common import DatasetSpec, Problem, Record, note, take_notes
from wlsrl_jax.data.text import names
from wlsrl_jax.files import Mistake
from wlsrl_jax.runtime.threads import ordered_map


@dataclasses.dataclass(frozen=True)
class SourceImage:
    """One good image of a source folder.

    Attributes:
      record: its row, label and patient.
      sha256: of the file (``digest``).
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
        """The patient; the file of a page, or the image itself, where the set names none."""
        if self.record.patient is not None:
            return self.record.patient
        return self.record.id.rpartition("#")[0] if self.record.frame else self.record.id


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file to be read, perhaps on another machine.

    Attributes:
      path: relative to the source folder.
      sha256: of the content as it was before (``digest``); "" if it was not read yet.
      frame: number from 1 in a file of several pages or frames, or 0.
    """

    path: str
    sha256: str = ""
    frame: int = 0


def digest(data: bytes, frame: int) -> str:
    """SHA-256 of an image: of its file, and of the page where there are several."""
    found = hashlib.sha256(data)
    if frame:
        found.update(b"#%d" % frame)
    return found.hexdigest()


class Mapper(Protocol):
    """A way to map the files of a source: in threads, or on other machines."""

    def __call__(
        self, function: Callable[[Any], Any], files: Sequence[SourceFile], /
    ) -> Iterator[Any]:
        """Yields the results in the order of the files."""


def progress(values: Iterable[Any], text: str, total: int) -> Iterable[Any]:
    """Shows a bar on the terminal while values are gone through; nothing in a log."""
    quiet = not sys.stderr.isatty()
    return track(values, text, total=total, disable=quiet, console=make_console(stderr=True))


def _inspect(
    source: Path, modality: str, pixel_range: PixelRange | None, file: SourceFile
) -> tuple[str, int, Fingerprint] | Extent | str:
    """(SHA-256, bytes, look) of a file, what its range is decided from, or why it is bad."""
    try:
        data = read_file(source / file.path)
        opened = open_image(data, file.frame)
        if isinstance(opened, Wide) and opened.extent and pixel_range is None:
            return opened.extent
        image = to_array(opened, 3, pixel_range)
    except BadImageError as error:
        return str(error)
    return digest(data, file.frame), len(data), fingerprint(image, modality)


def _unfollowed(source: Path, records: Sequence[Record]) -> list[Problem]:
    """The links to folders that no scan went into."""
    linked = {p.relative_to(source).as_posix() for p in layout.linked_folders(source)}
    if linked:
        places = {r.path.rpartition("/")[0] for r in records}
        linked -= {str(p) for place in places for p in [place, *PurePosixPath(place).parents]}
    reason = "a link to a folder, which is not followed; copy the folder"
    return [Problem(path, reason) for path in sorted(linked)]


def _pages(record: Record, source: Path) -> list[Record]:
    """A record for each page of a file of several, with the label of the file."""
    path = source / record.path
    if not may_hold_several(path) or not path.is_file():
        return [record]
    try:
        count = count_images(path)
    except BadImageError:  # told where it is read
        return [record]
    if count == 1:
        return [record]
    numbers = range(1, count + 1)
    return [dataclasses.replace(record, id=f"{record.id}#{n}", frame=n) for n in numbers]


@dataclasses.dataclass(frozen=True)
class Collected:
    """What a source folder holds.

    Attributes:
      images: the good ones, sorted by name.
      problems: what cannot be used, sorted by name.
      pixel_range: of wide pixels of which the files do not say it; None where there are none.
      notes: what else the user must know.
    """

    images: list[SourceImage]
    problems: list[Problem]
    pixel_range: PixelRange | None
    notes: list[str]


def _named(
    records: Sequence[Record], problems: Sequence[Problem], leading_zeros: str
) -> tuple[list[Record], list[Problem]]:
    """Records whose names can be used, each patient in one spelling."""
    good: list[Record] = []
    found = [dataclasses.replace(p, path=names.shown(p.path)) for p in problems]
    for record in records:
        if not names.is_writable(record.path):
            found.append(Problem(names.shown(record.path), names.UNWRITABLE))
        elif record.patient is not None and names.is_no_patient(record.patient):
            reason = f"patient {record.patient!r}: the image could be in train and test at once"
            found.append(Problem(record.path, reason))
        else:
            good.append(record)
    patients = [r.patient for r in good if r.patient is not None]
    spelling, joined = names.one_patient_each(patients, leading_zeros)
    if joined:
        text = "; ".join(joined[:10]) + ("; ..." if len(joined) > 10 else "")
        found.append(note(f"{len(joined)} patients in several spellings are joined: {text}."))
    good = [dataclasses.replace(r, patient=spelling.get(r.patient or "", r.patient)) for r in good]
    return good, found


def collect(
    spec: DatasetSpec,
    source: Path,
    mapper: Mapper = ordered_map,
    leading_zeros: str = "ask",
    *,
    pixel_bits: str = "",
) -> Collected:
    """Scans and reads a source folder.

    Args:
      spec: the data set.
      source: its folder.
      mapper: that reads; threads, one a core, if not given.
      leading_zeros: of patients, see ``names.one_patient_each``.
      pixel_bits: range of wide pixels of which the files do not say it, as ``--pixel_bits``; ""
        decides it from all of them.

    Returns:
      What is there.

    Raises:
      Mistake: if the folder is not of the published layout, patients cannot be told apart, or the
        range cannot be told.
    """
    given = parse_flag(pixel_bits)
    if not any(source.iterdir()):
        raise Mistake(f"--source={source} is empty; unpack the download there first.")
    try:
        records, problems = spec.scan(source)
    except Mistake as error:
        raise Mistake(
            f"{error}\n({spec.name}: {' '.join((spec.scan.__doc__ or '').split())})"
        ) from None
    known = {p.path for p in problems}
    problems = [*problems, *(p for p in _unfollowed(source, records) if p.path not in known)]
    records, problems = _named(records, problems, leading_zeros)
    notes, problems = take_notes(problems)
    records = [page for r in sorted(records, key=lambda r: r.id) for page in _pages(r, source)]
    found, pixel_range = _look(spec, source, records, mapper, given)
    images, ids = [], set()
    for record, facts in zip(records, found, strict=True):
        place = f"{record.path}#{record.frame}" if record.frame else record.path
        if isinstance(facts, str):
            problems.append(Problem(place, facts))
        elif record.id in ids:
            reason = f"a second image with the id {record.id}; rename or delete one"
            problems.append(Problem(place, reason))
        else:
            ids.add(record.id)
            images.append(SourceImage(record, *facts))
    notes += [range_line(pixel_range)] if pixel_range else []
    if given and not pixel_range:
        notes.append(f"{FLAG}={pixel_bits} was not needed: every file says its own range.")
    if hidden := layout.hidden_images(source):
        example = hidden[0].relative_to(source).as_posix()
        notes.append(f"{len(hidden)} hidden images are passed over, such as {example}.")
    several = [r for r in records if r.frame]
    if several:
        notes.append(
            f"{len({r.path for r in several})} files of several pages or frames hold "
            f"{len(several)} images; each has the label of its file, and they stay together."
        )
    return Collected(images, sorted(problems, key=lambda p: p.path), pixel_range, notes)


def _look(
    spec: DatasetSpec,
    source: Path,
    records: Sequence[Record],
    mapper: Mapper,
    given: PixelRange | None,
) -> tuple[list[tuple[str, int, Fingerprint] | str], PixelRange | None]:
    """Reads the files once, and those of wide pixels again when the range of the set is known."""

    def read(files: Sequence[SourceFile], pixel_range: PixelRange | None) -> list[Any]:
        inspect = functools.partial(_inspect, source, spec.modality, pixel_range)
        return list(progress(mapper(inspect, files), "reading", len(files)))

    files = [SourceFile(r.path, frame=r.frame) for r in records]
    found = read(files, None)
    open_ones = [k for k, facts in enumerate(found) if isinstance(facts, Extent)]
    if not open_ones:
        return found, None
    with range_mistakes():
        pixel_range = given or decide_range(found[k] for k in open_ones)
    for k, facts in zip(open_ones, read([files[k] for k in open_ones], pixel_range), strict=True):
        found[k] = facts
    return found, pixel_range
