"""Anybody's own data set: class folders, or a table that names the images.

Class folders: ``CLASS/x.png``, or ``train/CLASS/x.png`` and so on. With ``--table``, a row an
image; its path is looked up among the images of the source, so that no cell can lead out of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from wlsrl_jax import cli
from wlsrl_jax.data.images.decode import is_image_name
from wlsrl_jax.data.published import layout
from wlsrl_jax.data.published.common import (
    DatasetSpec,
    Problem,
    Record,
    known_attributes,
    list_images,
    parse_grade,
    read_table,
)
from wlsrl_jax.files import Mistake
from wlsrl_jax.tasks import DR_GRADES

SIZES = {"oct": (128, 256), "fundus": (192, 192)}
NORMAL_NAMES = ("normal", "no", "healthy", "norm", "control")
GRADE_NAMES = {
    **dict.fromkeys(("no dr", "nodr", "normal", "no apparent retinopathy", "healthy"), "0"),
    **dict.fromkeys(("mild", "mild dr", "mild npdr"), "1"),
    **dict.fromkeys(("moderate", "moderate dr", "moderate npdr"), "2"),
    **dict.fromkeys(("severe", "severe dr", "severe npdr"), "3"),
    **dict.fromkeys(("proliferative", "proliferative dr", "proliferate dr", "pdr"), "4"),
}
"""Usual names of the grades of the international severity scale."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_PERSONAL = re.compile(r"birth|\bdob\b|surname|first ?name|last ?name|patient ?name|^name$")


@dataclasses.dataclass(frozen=True)
class FolderOptions:
    """What the command line says about a data set of one's own.

    Attributes:
      modality: "oct" or "fundus".
      name: under which it is stored and trained on.
      table: file with a row an image, in the source or anywhere; "" is class folders.
      path_column: of the table, the image.
      label_column: the class or grade.
      patient_column: the patient; "" has none.
      eye_column: "left", "right", "OD", "OS" ...; "" has none.
      split_column: "train", "val", "test" ...; "" has none.
      normal: the healthy class; "" finds it by its name.
      classes: names in the order of the labels; empty takes those that are there.
      attributes: other columns to keep.
    """

    modality: str
    name: str = "folder"
    table: str = ""
    path_column: str = "path"
    label_column: str = "label"
    patient_column: str = ""
    eye_column: str = ""
    split_column: str = ""
    normal: str = ""
    classes: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of ``--dataset=folder``."""

    def names(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())

    group = parser.add_argument_group("--dataset=folder, a data set of your own")
    group.add_argument("--modality", choices=list(SIZES), help="of the images")
    group.add_argument("--name", help="to store and train it under; default folder")
    group.add_argument(
        "--table", type=cli.path_text, help="CSV or .xlsx with a row an image; else class folders"
    )
    group.add_argument("--path_column", help="of the table; default path")
    group.add_argument("--label_column", help="default label; DR grades 0-4 for fundus")
    group.add_argument("--patient_column", help="keeps a patient in one split")
    group.add_argument("--eye_column", help="left, right, OD or OS")
    group.add_argument("--split_column", help="train, val or test, for --split=official")
    group.add_argument("--normal", help="the healthy class")
    group.add_argument("--classes", type=names, help="A,B,C: names in the order of the labels")
    group.add_argument("--attributes", type=names, help="sex,age: other columns to keep")


def take_flags(flags: dict[str, object], dataset: str) -> FolderOptions | None:
    """Takes the flags of ``add_flags`` out of the others.

    Args:
      flags: all flags by name; those of the folder are removed.
      dataset: value of ``--dataset``.

    Returns:
      The options, or None for another data set.

    Raises:
      Mistake: for flags that do not go together.
    """
    fields = [f.name for f in dataclasses.fields(FolderOptions)]
    given = {n: v for n in fields if (v := flags.pop(n, None)) is not None}
    if dataset != "folder":
        if given:
            raise Mistake(f"--{next(iter(given))} goes with --dataset=folder alone.")
        return None
    if "modality" not in given:
        raise Mistake("--dataset=folder needs --modality=oct or --modality=fundus.")
    columns = [n for n in given if n.endswith("_column") or n == "attributes"]
    if columns and "table" not in given:
        raise Mistake(f"--{columns[0]} names a column of a table; give --table=FILE.csv.")
    return FolderOptions(**given)  # type: ignore[arg-type]


def is_dataset_name(name: str) -> bool:
    """Whether a data set of one's own may have this name."""
    return _NAME.fullmatch(name) is not None


def _check_name(name: str, taken: Sequence[str]) -> None:
    if not is_dataset_name(name):
        raise Mistake(
            f"--name={name!r} must be lower-case letters, digits and underscores, a letter first."
        )
    if name in (*taken, "phantom"):
        raise Mistake(f"--name={name} is a data set with a builder of its own; take another.")


def make_spec(options: FolderOptions, source: Path, taken: Sequence[str]) -> DatasetSpec:
    """Describes a data set of one's own.

    Args:
      options: of the command line.
      source: its folder.
      taken: names that other data sets have.

    Returns:
      The description; its ``scan`` reads the folder.

    Raises:
      Mistake: if classes or the healthy one cannot be told, a fundus label is no grade, or
        a column is missing.
    """
    _check_name(options.name, taken)
    for column in options.attributes:
        if _PERSONAL.search(column.lower().replace("_", " ").strip()):
            raise Mistake(f"--attributes={column}: names and birth dates must not be kept.")
    rows = _rows(options, source)
    found = sorted({row.label for row in rows if row.label}, key=_by_number)
    if not found:
        raise Mistake(f"{source} has no image in a folder of its class; or give --table=FILE.")
    if options.modality == "fundus":
        classes, normal = _grades(options, found), "0"
    else:
        classes = options.classes or tuple(found)
        normal = options.normal or next((c for c in classes if c.lower() in NORMAL_NAMES), "")
    if len(classes) < 2:
        raise Mistake(f"{source} has one class, {classes[0]}; there must be two at least.")
    if normal not in classes:
        raise Mistake(
            f"Say which class is healthy with --normal=CLASS; there are {', '.join(classes)}."
        )
    scan = functools.partial(_scan, options, classes)
    functools.update_wrapper(scan, _scan)
    return DatasetSpec(
        name=options.name,
        modality=options.modality,
        classes=classes,
        normal=normal,
        scan=scan,
        size=SIZES[options.modality],
        homepage="",
        license="your own",
        citation="",
    )


def _by_number(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return float("inf"), text


def _grade(label: str) -> str | None:
    """The DR grade that a label means, or None."""
    value = parse_grade(label, DR_GRADES)
    if isinstance(value, int):
        return DR_GRADES[value]
    return GRADE_NAMES.get(layout.plain(label))


def _grades(options: FolderOptions, found: Sequence[str]) -> tuple[str, ...]:
    if options.classes or options.normal not in ("", "0"):
        raise Mistake("Fundus classes are the DR grades 0-4: leave --classes and --normal out.")
    if not any(_grade(label) for label in found):
        raise Mistake(
            f"Fundus labels must be DR grades 0-4 (or {', '.join(sorted(GRADE_NAMES))}); found "
            f"{', '.join(found[:8])}. Rename the folders, or map the labels in the table."
        )
    return DR_GRADES


@dataclasses.dataclass(frozen=True)
class _Row:
    """An image before its class is known to be one; ``reason`` says why it cannot be used."""

    path: str
    label: str
    patient: str | None = None
    official: str = ""
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reason: str = ""


def _rows(options: FolderOptions, source: Path) -> list[_Row]:
    return _table_rows(options, source) if options.table else _class_folder_rows(source)


def _class_folder_rows(source: Path) -> list[_Row]:
    names = layout.children(source)
    splits = {folder: layout.SPLITS[n] for n, folder in names.items() if n in layout.SPLITS}
    rows: list[_Row] = []
    for folder in layout.folders(source):
        if splits and folder not in splits:
            where = folder.relative_to(source).as_posix()
            rows.append(_Row(where, "", reason="beside train/val/test folders; move it elsewhere"))
    for top, official in splits.items() or [(source, "")]:
        for folder in layout.folders(top):
            if layout.folders(folder) and not any(is_image_name(p) for p in folder.iterdir()):
                raise Mistake(
                    f"{folder} holds folders and no image. Class folders hold images; above them "
                    "may only be train/, val/ and test/."
                )
            images, odd = list_images(folder, source)
            rows += [_Row(p.path, "", reason=p.reason) for p in odd]
            rows += [
                _Row(p.relative_to(source).as_posix(), folder.name, official=official)
                for p in images
            ]
    loose = [p for top in {source, *splits} for p in sorted(top.iterdir()) if is_image_name(p)]
    reason = "not in a folder of its class; move it into one, or use --table"
    return rows + [_Row(p.relative_to(source).as_posix(), "", reason=reason) for p in loose]


class _Index:
    """The images below a folder, by path, by name and by name without suffix."""

    def __init__(self, source: Path) -> None:
        self.paths: dict[str, str] = {}
        self.names: dict[str, list[str]] = {}
        self.outside: set[str] = set()
        root = source.resolve()
        for here, folders, files in os.walk(source):  # does not follow links to folders
            folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
            for file in sorted(files):
                path = Path(here, file)
                if not is_image_name(path):
                    continue
                relative = path.relative_to(source).as_posix()
                if path.is_symlink() and not path.resolve().is_relative_to(root):
                    self.outside.add(relative)
                self.paths[relative] = relative
                for key in {file, path.stem, relative.rsplit(".", 1)[0]}:
                    self.names.setdefault(key, []).append(relative)

    def find(self, cell: str) -> tuple[str, str]:
        """(Relative path of the image, or "" and why not)."""
        wanted = str(PurePosixPath(cell.replace("\\", "/")))
        while wanted.startswith("./"):
            wanted = wanted[2:]
        found = [wanted] if wanted in self.paths else self.names.get(wanted, [])
        if len(found) > 1:
            return "", f"{len(found)} images have this name, such as {found[0]} and {found[1]}"
        if not found:
            return "", "there is no such image in --source; add it or delete the row"
        if found[0] in self.outside:
            return "", "a link that leaves --source; copy the file"
        return found[0], ""


def _table_rows(options: FolderOptions, source: Path) -> list[_Row]:
    inside = source / options.table
    table = inside if inside.is_file() else Path(options.table)
    optional = (options.patient_column, options.eye_column, options.split_column)
    needed = [options.path_column, options.label_column, *filter(None, optional)]
    found = read_table(table, [*dict.fromkeys((*needed, *options.attributes))])
    index, rows, used = _Index(source), [], {}
    for number, row in enumerate(found, start=2):
        cell = row[options.path_column]
        where = f"{table.name} line {number} ({cell or 'empty'})"
        path, reason = index.find(cell) if cell else ("", "no path")
        if path in used and not reason:
            reason = f"a second row for {path}; keep one"
        patient = row[options.patient_column] if options.patient_column else None
        if patient == "" and not reason:
            reason = f"no {options.patient_column}: the image could be in train and test at once"
        split = row[options.split_column] if options.split_column else ""
        official = layout.SPLITS.get(layout.plain(split), "") if split else ""
        if split and not official and not reason:
            reason = f"split {split!r} is not one of train, val, test"
        label = row[options.label_column]
        if not label and not reason:
            reason = f"no {options.label_column}"
        if path:
            used[path] = where
        eye = row[options.eye_column] if options.eye_column else None
        others = {name: row[name] for name in options.attributes}
        attributes = known_attributes(**{**others, **({"eye": eye} if eye else {})})
        if reason:
            rows.append(_Row(where, "", reason=reason))
        else:
            rows.append(_Row(path, label, patient, official, attributes))
    reason = f"no row in {table.name}; add it or move the image elsewhere"
    return rows + [_Row(p, "", reason=reason) for p in sorted(index.paths.keys() - used.keys())]


def _scan(
    options: FolderOptions, classes: tuple[str, ...], source: Path
) -> tuple[list[Record], list[Problem]]:
    """Reads class folders, with train/ val/ test/ above them or not, or the rows of --table."""
    records: list[Record] = []
    problems: list[Problem] = []
    for row in _rows(options, source):
        if row.reason:
            problems.append(Problem(row.path, row.reason))
            continue
        label = _grade(row.label) if options.modality == "fundus" else row.label
        if label in classes:
            identity = row.path.rsplit(".", 1)[0]
            place = classes.index(label)
            records.append(
                Record(row.path, identity, place, row.patient, row.official, row.attributes)
            )
        elif options.modality == "oct":  # --classes leaves the others out
            reason = f"class {row.label} is not in --classes"
            problems.append(Problem(row.path, reason, by_rule=True))
        else:
            problems.append(Problem(row.path, f"label {row.label!r} is no DR grade 0-4"))
    return records, problems
