"""Anybody's own data set: class folders, or a table that names the images.

Class folders: ``CLASS/x.png``, or ``train/CLASS/x.png`` and so on. With ``--table``, a row an
image; its path is looked up among the images of the source, so that no cell can lead out of it.
Classes are compared in normal form: ``Normal`` and ``NORMAL`` are one.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from wlsrl_jax import cli
from wlsrl_jax.data.images.decode import is_image_name
from wlsrl_jax.data.published import layout
from wlsrl_jax.data.published.common import (
    DatasetSpec,
    Problem,
    Record,
    list_images,
    note,
    parse_grade,
)
from wlsrl_jax.data.published.own_table import FolderOptions as FolderOptions
from wlsrl_jax.data.published.own_table import OwnRow, table_rows
from wlsrl_jax.data.text.names import (
    UNWRITABLE,
    class_key,
    cleaned,
    is_missing,
    is_writable,
    known_by,
    one_spelling,
    shown,
    split_names,
)
from wlsrl_jax.files import Mistake
from wlsrl_jax.tasks import DR_GRADES, MODALITIES

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


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of ``--dataset=folder``."""

    def names(flag: str) -> Callable[[str], tuple[str, ...]]:
        return lambda text: cli.checked(lambda: split_names(text, flag))

    group = parser.add_argument_group("--dataset=folder, a data set of your own")
    group.add_argument("--modality", choices=list(MODALITIES), help="of the images")
    group.add_argument("--name", help="to store and train it under; default: folder")
    group.add_argument(
        "--table", type=cli.path_text, help="CSV or .xlsx with an image per row; else class folders"
    )
    group.add_argument("--path_column", help="of the table; default: path")
    group.add_argument(
        "--label_column", help="of the table, DR grades 0-4 for fundus; default: label"
    )
    group.add_argument(
        "--patient_column",
        help="keeps a patient in one split; default: patient, patient_id and the like, or none",
    )
    group.add_argument("--eye_column", help="left, right, OD or OS")
    group.add_argument("--split_column", help="your own division: train, val or test")
    group.add_argument("--normal", help="the healthy class")
    group.add_argument(
        "--classes",
        type=names("--classes"),
        help="A,B,C: names in the order of the labels; one with a comma in double quotes",
    )
    group.add_argument(
        "--attributes", type=names("--attributes"), help="sex,age: other columns to keep"
    )


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
        known = " or ".join(f"--modality={name}" for name in MODALITIES)
        raise Mistake(f"--dataset=folder needs {known}.")
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
      Mistake: if classes or the healthy one cannot be told, a label that must be a grade is none,
        or a column is missing.
    """
    _check_name(options.name, taken)
    for column in options.attributes:
        if _PERSONAL.search(column.lower().replace("_", " ").strip()):
            raise Mistake(f"--attributes={column}: names and birth dates must not be kept.")
    rows, _ = _rows(options, source)
    spelling, _ = one_spelling((row.label for row in rows if row.label), class_key)
    found = sorted(map(cleaned, set(spelling.values())), key=_by_number)
    if not found:
        raise Mistake(_nothing_found(options, source, rows) + _links(source))
    modality = MODALITIES[options.modality]
    if modality.graded:
        classes, normal = _grades(options, found), DR_GRADES[0]
    else:
        classes = options.classes or tuple(found)
        normal = _healthy(options.normal, classes)
    if len(classes) < 2:
        raise Mistake(
            f"{source} has one class, {classes[0]}; there must be two at least.{_links(source)}"
        )
    if normal not in classes:
        raise Mistake(
            f"Say which class is healthy with --normal=CLASS; there are {', '.join(classes)}."
        )
    scan = functools.partial(_scan, options, classes)
    functools.update_wrapper(scan, _scan)
    return DatasetSpec(
        name=options.name,
        modality=modality.name,
        classes=classes,
        normal=normal,
        scan=scan,
        size=modality.size,
        homepage="",
        license="your own",
        citation="",
    )


def _healthy(wanted: str, classes: Sequence[str]) -> str:
    """The healthy class, as it is asked for or by its name; "" if there is none."""
    if wanted:
        return known_by(classes).get(class_key(wanted), "")
    found = [c for c in classes if class_key(c) in NORMAL_NAMES]
    if len(found) > 1:
        raise Mistake(
            f"{' and '.join(found)} both sound healthy; say which is with --normal=CLASS."
        )
    return found[0] if found else ""


def _nothing_found(options: FolderOptions, source: Path, rows: Sequence[OwnRow]) -> str:
    """Why a source has no image of a class."""
    if not options.table:
        why = rows[0] if rows else None
        return f"{source} has no image in a folder of its class; or give --table=FILE." + (
            f" For instance, {shown(why.path)}: {why.reason}." if why else ""
        )
    reasons = collections.Counter(row.reason for row in rows)
    first = {row.reason: shown(row.path) for row in reversed(rows)}
    text = "; ".join(
        f"{count} times: {reason}, such as {first[reason]}"
        for reason, count in reasons.most_common(3)
    )
    return f"No row of --table={options.table} can be used. {text or 'It has no row'}."


def _links(source: Path) -> str:
    names = ", ".join(p.name for p in layout.linked_folders(source)[:4])
    return f" Links to folders are not followed; copy the folders: {names}." if names else ""


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


def _rows(options: FolderOptions, source: Path) -> tuple[list[OwnRow], list[str]]:
    """The images with their labels, and sentences on how they were understood."""
    rows, notes = table_rows(options, source) if options.table else (_class_folder_rows(source), [])
    return [
        r if is_writable(r.path) else OwnRow(shown(r.path), "", reason=r.reason or UNWRITABLE)
        for r in rows
    ], notes


def _class_folder_rows(source: Path) -> list[OwnRow]:
    tops = layout.folders(source)
    splits = {p: layout.SPLITS[n] for p in tops if (n := layout.plain(p.name)) in layout.SPLITS}
    rows: list[OwnRow] = []
    for folder in tops:
        if splits and folder not in splits:
            where = folder.relative_to(source).as_posix()
            rows.append(
                OwnRow(where, "", reason="beside train/val/test folders; move it elsewhere")
            )
    for top, official in splits.items() or [(source, "")]:
        for folder in layout.folders(top):
            if layout.folders(folder) and not any(is_image_name(p) for p in folder.iterdir()):
                raise Mistake(
                    f"{folder} holds folders and no image. Class folders hold images; above them "
                    "may only be train/, val/ and test/."
                )
            images, odd = list_images(folder, source)
            rows += [OwnRow(p.path, "", reason=p.reason) for p in odd]
            if is_missing(folder.name):
                reason = f"the folder {folder.name!r} says that the class is missing; rename it"
                rows += [
                    OwnRow(p.relative_to(source).as_posix(), "", reason=reason) for p in images
                ]
                continue
            rows += [
                OwnRow(p.relative_to(source).as_posix(), folder.name, official=official)
                for p in images
            ]
    loose = [p for top in {source, *splits} for p in sorted(top.iterdir()) if is_image_name(p)]
    reason = "not in a folder of its class; move it into one, or use --table"
    return rows + [OwnRow(p.relative_to(source).as_posix(), "", reason=reason) for p in loose]


def _scan(
    options: FolderOptions, classes: tuple[str, ...], source: Path
) -> tuple[list[Record], list[Problem]]:
    """Reads class folders, with train/ val/ test/ above them or not, or the rows of --table."""
    records: list[Record] = []
    rows, notes = _rows(options, source)
    problems = [note(text) for text in notes]
    known = known_by(classes)
    graded = MODALITIES[options.modality].graded
    if not graded:
        labels = (row.label for row in rows if row.label)
        _, joined = one_spelling(labels, class_key)
        problems += [note(f"one class in several spellings: {text}.") for text in joined]
    for row in rows:
        if row.reason:
            problems.append(Problem(row.path, row.reason))
            continue
        label = _grade(row.label) if graded else known.get(class_key(row.label))
        if label in classes:
            identity = row.path.rsplit(".", 1)[0]
            place = classes.index(label)
            records.append(
                Record(row.path, identity, place, row.patient, row.official, row.attributes)
            )
        elif not graded:  # --classes leaves the others out
            reason = f"class {row.label} is not in --classes"
            problems.append(Problem(row.path, reason, by_rule=True))
        else:
            problems.append(Problem(row.path, f"label {row.label!r} is no DR grade 0-4"))
    return records, problems
