"""What every data set shares: its description, and reading folders and label tables."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from wlsrl_jax.data.images import is_image_name
from wlsrl_jax.tasks import DR_GRADES

_IGNORED = ("thumbs.db", "desktop.ini")
MAX_TABLE_BYTES = 512 * 2**20


@dataclasses.dataclass(frozen=True)
class Record:
    """One image of a source folder.

    Attributes:
      path: relative to the source folder, with forward slashes.
      id: unique name.
      label: class index.
      patient: patient id, or None where the set has none.
      official: the publisher's split, or "".
    """

    path: str
    id: str
    label: int
    patient: str | None
    official: str = ""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A file or row that cannot be used, and why."""

    path: str
    reason: str


Scan = Callable[[Path], tuple[list[Record], list[Problem]]]


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """A data set as its publisher lays it out.

    Attributes:
      name: on the command line.
      modality: "oct" or "fundus".
      classes: names, in the order of the labels.
      normal: the healthy one.
      scan: reads the layout: source folder -> (records, problems).
      size: (height, width) of the prepared images, pixels.
      homepage: where it is published.
      license: of the original.
      citation: of the paper or competition.
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


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Reads a CSV file with a header.

    Args:
      path: the file; a byte order mark and spaces around cells are forgiven.
      columns: that must be there.

    Returns:
      A dict a row.

    Raises:
      ValueError: if the file or a column is missing, naming both.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; it is the table with the columns "
            f"{', '.join(columns)}. Check --source."
        )
    if path.stat().st_size > MAX_TABLE_BYTES:
        raise ValueError(f"{path} is larger than {MAX_TABLE_BYTES:,} bytes: no table of labels.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            found = [name.strip() for name in reader.fieldnames or []]
            missing = [name for name in columns if name not in found]
            if missing:
                raise ValueError(
                    f"{path} has no column {', '.join(missing)}; it has: "
                    f"{', '.join(found) or 'nothing'}. Rename the column or fetch the original."
                )
            reader.fieldnames = found
            return [
                {k: (row.get(k) or "").strip() for k in columns}
                for row in reader
                if any(v for v in row.values())
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a readable CSV file ({error}).") from None


def list_images(folder: Path, source: Path) -> tuple[list[Path], list[Problem]]:
    """Lists the images directly in a folder, by name; anything else in it is a problem.

    Links are followed as long as they stay in the source folder.

    Raises:
      ValueError: if the folder is missing or has no image.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing; check --source.")
    files = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    root = source.resolve()
    if not folder.resolve().is_relative_to(root):
        raise ValueError(f"{folder} is a link that leaves --source; copy the folder.")
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
        raise ValueError(f"{folder} has no image; check that the download is complete.")
    return images, problems


def by_stem(images: Iterable[Path], source: Path) -> tuple[dict[str, Path], list[Problem]]:
    """Images by file name without suffix; a name that stands twice is a problem."""
    files: dict[str, Path] = {}
    problems: list[Problem] = []
    for path in images:
        if path.stem in files:
            other = files[path.stem].relative_to(source).as_posix()
            reason = f"the same name as {other}; rename or delete one"
            problems.append(Problem(path.relative_to(source).as_posix(), reason))
        else:
            files[path.stem] = path
    return files, problems


def match_rows(
    rows: Sequence[Mapping[str, str]],
    files: Mapping[str, Path],
    *,
    key: str,
    table: str,
    source: Path,
    make: Callable[[Mapping[str, str], Path], Record | str],
) -> tuple[list[Record], list[Problem]]:
    """Joins the rows of a label table with the files of a folder.

    Args:
      rows: of the table.
      files: file name without suffix -> path.
      key: column that names the file, with or without suffix.
      table: name of the table, for messages.
      source: source folder.
      make: (row, path) -> the record, or why there is none.

    Returns:
      (records, problems): a row without a file, a file without a row, a name that
      stands twice, and whatever ``make`` refuses are problems.
    """
    records: list[Record] = []
    problems: list[Problem] = []
    used: set[str] = set()
    for number, row in enumerate(rows, start=2):
        name = row[key]
        stem = name if name in files else Path(name).stem
        where = f"{table} line {number} ({name or 'empty'})"
        if stem not in files:
            problems.append(Problem(where, "there is no such image; add it or delete the row"))
            continue
        path = files[stem].relative_to(source).as_posix()
        if stem in used:
            problems.append(Problem(where, f"a second row for {path}; keep one"))
            continue
        used.add(stem)
        made = make(row, files[stem])
        if isinstance(made, str):
            problems.append(Problem(f"{path} ({table} line {number})", made))
        else:
            records.append(made)
    for stem in sorted(files.keys() - used):
        path = files[stem].relative_to(source).as_posix()
        problems.append(Problem(path, f"no row in {table}; add it or move the image elsewhere"))
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
) -> tuple[list[Record], list[Problem]]:
    """Reads one folder of photographs and a table of their grades, Kaggle's usual layout.

    Args:
      source: source folder.
      table: name of the CSV file.
      folder: name of the folder of images.
      key: column that names the file.
      grade: column of the grade, 0 to 4.
      patient: file name without suffix -> patient id, or None where there is none; raises
        ``ValueError`` with the reason for a name that should have one and has not.

    Returns:
      (records, problems).

    Raises:
      ValueError: if the folder, the table or a column is missing.
    """
    rows = read_table(source / table, [key, grade])
    images, problems = list_images(source / folder, source)
    files, twice = by_stem(images, source)

    def make(row: Mapping[str, str], path: Path) -> Record | str:
        value = parse_grade(row[grade], DR_GRADES)
        if isinstance(value, str):
            return value
        try:
            person = patient(path.stem)
        except ValueError as error:
            return str(error)
        return Record(path.relative_to(source).as_posix(), path.stem, value, person)

    records, more = match_rows(rows, files, key=key, table=table, source=source, make=make)
    return records, problems + twice + more
