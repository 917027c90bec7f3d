"""The table of a data set of one's own: every row with its image among those of the source."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from wlsrl_jax.data.images.decode import is_image_name
from wlsrl_jax.data.published import layout
from wlsrl_jax.data.published.columns import division_not_followed, find_patients
from wlsrl_jax.data.published.common import known_attributes
from wlsrl_jax.data.text.matching import both_sides, join_names
from wlsrl_jax.data.text.names import is_no_patient, shown
from wlsrl_jax.data.text.tables import read_cells, select
from wlsrl_jax.files import Mistake

_NO_IMAGE = "there is no such image in --source; add it or delete the row"
_LINK = "a link that leaves --source; copy the file"


@dataclasses.dataclass(frozen=True)
class FolderOptions:
    """What the command line says about a data set of one's own.

    Attributes:
      modality: a name in ``tasks.MODALITIES``.
      name: under which it is stored and trained on.
      table: file with a row an image, in the source or anywhere; "" is class folders.
      path_column: of the table, the image.
      label_column: the class or grade.
      patient_column: the patient; "" takes a column of a usual name, "none" has none.
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


@dataclasses.dataclass(frozen=True)
class OwnRow:
    """An image before its class is known to be one; ``reason`` says why it cannot be used."""

    path: str
    label: str
    patient: str | None = None
    official: str = ""
    attributes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reason: str = ""


class ImageIndex:
    """The images below a folder, by path, by name and by name without suffix."""

    def __init__(self, source: Path) -> None:
        self.paths: dict[str, str] = {}
        self.names: dict[str, list[str]] = {}
        self.outside: set[str] = set()
        self.named_links: set[str] = set()
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
            return "", _NO_IMAGE
        if found[0] in self.outside:
            self.named_links.add(found[0])
            return "", _LINK
        return found[0], ""

    def find_loosely(self, lookups: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
        """Finds what differs in spelling, suffix or folder, among the images that nothing has."""
        claimed = {path for path, _ in lookups.values()}
        free = sorted(self.paths.keys() - claimed - self.outside)
        missed = [cell for cell, (_, reason) in lookups.items() if reason == _NO_IMAGE]
        self._joined = join_names(missed, free, list(lookups), list(self.paths))
        return {cell: (path, "") for cell, path in self._joined.found.items()}

    def notes(self, what: str) -> list[str]:
        """Says what ``find_loosely`` took."""
        return self._joined.sentences(what)

    def on_links(self) -> str:
        """Says how many of the images cannot be read because they are links."""
        return (
            f" {len(self.outside)} of the images are links that leave --source; copy the files."
            if self.outside
            else ""
        )


def table_rows(options: FolderOptions, source: Path) -> tuple[list[OwnRow], list[str]]:
    """Reads the rows of --table, each with its image; and every image without a row.

    Returns:
      (rows, sentences on how they were understood).

    Raises:
      Mistake: if the table cannot be read, lacks a column, or no row belongs to an image.
    """
    inside = source / options.table
    table = inside if inside.is_file() else Path(options.table)
    if not table.is_file():
        raise Mistake(f"--table={options.table} is missing, in {source} and here.")
    cells = read_cells(table)
    used_for = (options.path_column, options.label_column, options.eye_column)
    patient_column, notes = find_patients(
        options.patient_column, table, cells, (*used_for, options.split_column)
    )
    if not options.split_column:
        notes += division_not_followed(table, cells)
    optional = (patient_column, options.eye_column, options.split_column)
    needed = [options.path_column, options.label_column, *filter(None, optional)]
    found = select(table, cells, [*dict.fromkeys((*needed, *options.attributes))])
    index, used = ImageIndex(source), set[str]()
    lookups = {cell: index.find(cell) for row in found if (cell := row[options.path_column])}
    lookups |= index.find_loosely(lookups)
    notes += index.notes(f"rows of {table.name}")
    rows = []
    for row in found:
        cell = row[options.path_column]
        where = f"{table.name} line {row.line} ({shown(cell) or 'empty'})"
        path, reason = lookups[cell] if cell else ("", "no path")
        if path in used and not reason:
            reason = f"a second row for {path}; keep one"
        patient = row[patient_column] if patient_column else None
        if patient is not None and is_no_patient(patient) and not reason:
            reason = f"no {patient_column}: the image could be in train and test at once"
        official = layout.SPLITS.get(layout.plain(row.get(options.split_column, "")), "")
        if options.split_column and not official and not reason:
            split = row[options.split_column]
            reason = f"split {split!r} is not one of train, val, test" if split else "no split"
        label = row[options.label_column]
        if not label and not reason:
            reason = f"no {options.label_column}"
        if path:
            used.add(path)
        eye = row[options.eye_column] if options.eye_column else None
        others = {name: row[name] for name in options.attributes}
        attributes = known_attributes(**{**others, **({"eye": eye} if eye else {})})
        if reason:
            rows.append(OwnRow(where, "", reason=reason))
        else:
            rows.append(OwnRow(path, label, patient, official, attributes))
    without = sorted(index.paths.keys() - used - index.outside)
    unmatched = [cell for cell, (_, reason) in lookups.items() if reason == _NO_IMAGE]
    text = ""
    if unmatched or without:
        counts = (len(lookups), len(index.paths))
        text = both_sides(f"rows of {table.name}", unmatched, "images", without, counts)
    if not used and found:
        raise Mistake(
            f"No row of --table={options.table} belongs to an image that can be read."
            + (f" {text} Is --path_column={options.path_column} right?" if text else "")
            + index.on_links()
        )
    reason = f"no row in {table.name}; add it or move the image elsewhere"
    rows += [OwnRow(p, "", reason=reason) for p in without]
    rows += [OwnRow(p, "", reason=_LINK) for p in sorted(index.outside - index.named_links)]
    return rows, notes + [text] * bool(text)
