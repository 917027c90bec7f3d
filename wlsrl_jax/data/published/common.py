"""What every data set shares: its description, and joining folders with label tables."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from wlsrl_jax.data.images.decode import is_image_name
from wlsrl_jax.data.published import archives
from wlsrl_jax.data.text.matching import both_sides, join_names
from wlsrl_jax.data.text.names import is_missing
from wlsrl_jax.data.text.tables import read_table
from wlsrl_jax.files import Mistake
from wlsrl_jax.tasks import DR_GRADES

_IGNORED = ("thumbs.db", "desktop.ini")
EYES = {
    **dict.fromkeys(("od", "r", "right", "right eye"), "right"),
    **dict.fromkeys(("os", "l", "left", "left eye"), "left"),
}
"""How tables spell an eye, in lower case -> "left" or "right"."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One image of a source folder.

    Attributes:
      path: relative to the source folder, with forward slashes.
      id: unique name.
      label: class index.
      patient: patient id, or None where the set has none.
      official: the publisher's split, or "".
      attributes: what subgroups can be made of, such as eye, sex, age, year or camera; never
        names or birth dates.
      frame: number from 1 in a file of several pages or frames, or 0; scans leave it 0.
    """

    path: str
    id: str
    label: int
    patient: str | None
    official: str = ""
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    frame: int = 0


@dataclasses.dataclass(frozen=True)
class Problem:
    """A file or row that is not used, and why.

    Attributes:
      path: of the file, or the row.
      reason: what is wrong with it.
      by_rule: left out on purpose, such as an image that its graders call ungradable: it is
        listed, and no error.
      is_note: nothing is left out; a sentence on how the source was understood.
    """

    path: str
    reason: str
    by_rule: bool = False
    is_note: bool = False


def note(text: str) -> Problem:
    """A sentence for whoever reads what was found, such as which spellings were joined."""
    return Problem("", text, is_note=True)


def take_notes(problems: Sequence[Problem]) -> tuple[list[str], list[Problem]]:
    """Separates the sentences from what is left out."""
    return [p.reason for p in problems if p.is_note], [p for p in problems if not p.is_note]


Scan = Callable[[Path], tuple[list[Record], list[Problem]]]


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """A data set as its publisher lays it out.

    Attributes:
      name: on the command line.
      modality: a name in ``tasks.MODALITIES``.
      classes: names, in the order of the labels.
      normal: the healthy one.
      scan: reads the layout: source folder -> (records, problems).
      size: (height, width) of the prepared images, pixels.
      homepage: where it is published.
      license: of the original.
      citation: of the paper or competition.
      published: version -> class (or "all") -> images that the publisher counts; "all"
        includes what is left out by rule.
      open: (source, scratch folder) -> context whose value is the folder that ``scan`` reads.
    """

    name: str
    modality: str
    classes: tuple[str, ...]
    normal: str
    scan: Scan
    size: tuple[int, int]
    homepage: str
    license: str
    citation: str
    published: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict, hash=False)
    open: Callable[[Path, Path], contextlib.AbstractContextManager[Path]] = archives.opened


def known_attributes(**values: str | None) -> dict[str, str]:
    """Attributes of an image, without those that are empty.

    >>> known_attributes(eye="OD", sex="", age="61")
    {'eye': 'right', 'age': '61'}
    """
    found = {n: value.strip() for n, value in values.items() if value and not is_missing(value)}
    if "eye" in found:
        found["eye"] = EYES.get(found["eye"].lower(), found["eye"])
    return found


def count_notes(
    spec: DatasetSpec, records: Sequence[Record], problems: Sequence[Problem]
) -> list[str]:
    """Compares what was found with what the publisher counts.

    Args:
      spec: the data set.
      records: of the scan.
      problems: of the scan.

    Returns:
      A sentence where they differ; people use subsets, so that is no error.
    """
    found = {
        name: sum(r.label == label for r in records) for label, name in enumerate(spec.classes)
    }
    found["all"] = len(records) + sum(p.by_rule for p in problems)
    wanted = spec.published.values()
    if not wanted or any(all(found[c] == n for c, n in version.items()) for version in wanted):
        return []
    texts = [
        f"{version}: " + ", ".join(f"{c} {n:,}" for c, n in counts.items())
        for version, counts in spec.published.items()
    ]
    have = ", ".join(f"{c} {n:,}" for c, n in found.items())
    return [f"{spec.name} here: {have}; as published, {'; '.join(texts)}."]


def list_images(folder: Path, source: Path) -> tuple[list[Path], list[Problem]]:
    """Lists the images directly in a folder, by name; anything else in it is a problem.

    Links are followed as long as they stay in the source folder.

    Raises:
      Mistake: if the folder is missing or has no image.
    """
    if not folder.is_dir():
        raise Mistake(f"{folder} is missing; check --source.")
    files = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    root = source.resolve()
    if not folder.resolve().is_relative_to(root):
        raise Mistake(f"{folder} is a link that leaves --source; copy the folder.")
    outside = {p for p in files if p.is_symlink() and not p.resolve().is_relative_to(root)}
    images = [p for p in files if p not in outside and p.is_file() and is_image_name(p)]
    problems = [
        Problem(
            p.relative_to(source).as_posix(),
            "a link that leaves --source; copy the file"
            if p in outside
            else "not an image file; move it elsewhere",
        )
        for p in files
        if p not in set(images) and p.name.lower() not in _IGNORED
    ]
    if not images and not outside:
        raise Mistake(f"{folder} has no image; check that the download is complete.")
    return images, problems


def _by_stem(
    images: Iterable[Path], source: Path, lower: bool
) -> tuple[dict[str, Path], list[Problem]]:
    """Images by file name without suffix; a name that stands twice is a problem."""
    files: dict[str, Path] = {}
    problems: list[Problem] = []
    for path in images:
        name = path.stem.lower() if lower else path.stem
        if name in files:
            other = files[name].relative_to(source).as_posix()
            reason = f"the same name as {other}; rename or delete one"
            problems.append(Problem(path.relative_to(source).as_posix(), reason))
        else:
            files[name] = path
    return files, problems


def match_rows(
    rows: Sequence[Mapping[str, str]],
    images: Iterable[Path],
    *,
    key: str,
    table: str,
    source: Path,
    make: Callable[[Mapping[str, str], Path], Record | Problem | str],
    lower: bool = False,
) -> tuple[list[Record], list[Problem]]:
    """Joins the rows of a label table with the images of a folder, by name without suffix.

    Args:
      rows: of the table.
      images: their paths.
      key: column that names the file, with or without suffix.
      table: name of the table, for messages.
      source: source folder.
      make: (row, path) -> the record, why there is none, or a problem (for one by rule).
      lower: whether the column has the names in lower case.

    Returns:
      (records, problems): a row without a file, a file without a row, a name that
      stands twice, and whatever ``make`` refuses are problems.

    Raises:
      Mistake: if no row belongs to a file.
    """
    records: list[Record] = []
    files, problems = _by_stem(images, source, lower)

    def exact(name: str) -> str:
        return name if name in files else Path(name).stem

    listed = [row[key] for row in rows]
    claimed = {stem for name in listed if (stem := exact(name)) in files}
    joined = join_names(
        [name for name in listed if exact(name) not in claimed],
        sorted(files.keys() - claimed),
        listed,
        list(files),
    )
    problems += [note(text) for text in joined.sentences(f"rows of {table}")]
    used: set[str] = set()
    unmatched = []
    for number, row in enumerate(rows, start=2):
        name = row[key]
        stem = joined.found.get(name) or exact(name)
        line = f"{table} line {getattr(row, 'line', number)}"
        where = f"{line} ({name or 'empty'})"
        if stem not in files:
            problems.append(Problem(where, "there is no such image; add it or delete the row"))
            unmatched.append(name)
            continue
        path = files[stem].relative_to(source).as_posix()
        if stem in used:
            problems.append(Problem(where, f"a second row for {path}; keep one"))
            continue
        used.add(stem)
        made = make(row, files[stem])
        if isinstance(made, str):
            problems.append(Problem(f"{path} ({line})", made))
        elif isinstance(made, Problem):
            problems.append(made)
        else:
            records.append(made)
    without_row = sorted(files.keys() - used)
    for stem in without_row:
        path = files[stem].relative_to(source).as_posix()
        problems.append(Problem(path, f"no row in {table}; add it or move the image elsewhere"))
    if unmatched or without_row:
        text = both_sides(
            f"rows of {table}", unmatched, "images", without_row, (len(rows), len(files))
        )
        if not used and rows and files:
            raise Mistake(f"No row of {table} belongs to an image: {text}")
        problems.append(note(text))
    return records, problems


def parse_grade(text: str, classes: Sequence[str]) -> int | str:
    """Reads a class index from a table cell; a string is the reason why it is none."""
    try:
        value = float(text)
    except ValueError:
        return f"label {text!r} is not a number"
    if value not in range(len(classes)):
        return f"label {text} is not one of {', '.join(classes)}"
    return int(value)


def scan_grades(
    source: Path,
    *,
    table: str,
    folder: str,
    key: str,
    grade: str,
    patient: Callable[[str], str | None],
    attributes: Callable[[Mapping[str, str], str], Mapping[str, str]] = lambda row, stem: {},
    optional: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
    official: str = "",
    prefix: str = "",
) -> tuple[list[Record], list[Problem]]:
    """Reads one folder of photographs and a table of their grades, Kaggle's usual layout.

    Args:
      source: source folder.
      table: name of the CSV file.
      folder: name of the folder of images.
      key: column that names the file.
      grade: column of the grade, 0 to 4.
      patient: file name without suffix -> patient id, or None where there is none; raises
        ``Mistake`` with the reason for a name that should have one and has not.
      attributes: (row, file name without suffix) -> attributes of the image.
      optional: columns for ``attributes`` that may be missing.
      aliases: see ``read_table``.
      official: the publisher's split.
      prefix: of the ids, where file names repeat between folders.

    Returns:
      (records, problems).

    Raises:
      Mistake: if the folder, the table or a column is missing.
    """
    rows = read_table(source / table, [key, grade], optional, aliases)
    images, problems = list_images(source / folder, source)

    def make(row: Mapping[str, str], path: Path) -> Record | str:
        value = parse_grade(row[grade], DR_GRADES)
        if isinstance(value, str):
            return value
        try:
            person = patient(path.stem)
        except Mistake as error:
            return str(error)
        return Record(
            path.relative_to(source).as_posix(),
            prefix + path.stem,
            value,
            person,
            official,
            attributes(row, path.stem),
        )

    records, more = match_rows(rows, images, key=key, table=table, source=source, make=make)
    return records, problems + more
