"""Lists of which image is in which split: written beside prepared data, read to keep a division."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from wlsrl_jax.data.audit.inspect import SourceImage
from wlsrl_jax.data.prepare.groups import SPLITS
from wlsrl_jax.data.prepare.manifest import parse_manifest
from wlsrl_jax.data.published import layout
from wlsrl_jax.data.text.matching import both_sides, join_names
from wlsrl_jax.data.text.tables import csv_text, original_cell, read_cells
from wlsrl_jax.files import Mistake

NAME = "splits.csv"


def columns(folds: int) -> list[str]:
    """Header of a split file: "id", "split", then "fold_0", ..."""
    return ["id", "split", *(f"fold_{k}" for k in range(folds))]


def write_split_file(images: Sequence[SourceImage], folds: int) -> bytes:
    """Makes a CSV file with a row an image.

    Args:
      images: divided.
      folds: of the cross-validation, or 0.

    Returns:
      Its content.
    """
    rows = ([i.record.id, i.split, *i.folds] for i in images)
    return csv_text([columns(folds), *rows]).encode()


def read_split_file(path: Path) -> dict[str, tuple[str, ...]]:
    """Reads a split file or the manifest of a preparation.

    Args:
      path: CSV with the columns "id" and "split" (train, validation or test; also val, valid,
        dev), and "fold_0", "fold_1", ... where it has folds; or a ``manifest.json``.

    Returns:
      Image -> (its split, its split in every fold).

    Raises:
      Mistake: names the file and the line.
    """
    if not path.is_file():
        raise Mistake(f"--split_file={path} is not a file.")
    if path.suffix.lower() == ".json":
        return _from_manifest(path)
    rows = read_cells(path)
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if not {"id", "split"} <= set(header):
        raise Mistake(
            f"--split_file={path} is neither a manifest.json nor a CSV file with the columns id "
            f"and split; it has: {', '.join(header) or 'nothing'}."
        )
    folds = sum(name.startswith("fold_") for name in header)
    places = [header.index(c) for c in columns(folds) if c in header]
    if len(places) < 2 + folds:
        raise Mistake(f"--split_file={path}: its folds are not fold_0 to fold_{folds - 1}.")
    # A blank in front of every id is of the form; others may be of an id, as we wrote it.
    ids = [row[places[0]] for row in rows[1:] if places[0] < len(row)]
    padded = all(text.startswith(" ") for text in ids)
    found: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        cells = [row[p] if p < len(row) else "" for p in places]
        name = original_cell(cells[0].strip() if padded else cells[0])
        where = [layout.SPLITS.get(c.strip().lower(), c.strip().lower()) for c in cells[1:]]
        unknown = [c for c in where if c not in SPLITS]
        if not name.strip() or unknown:  # "NA" may be an id, and is looked for as one
            raise Mistake(
                f"--split_file={path} line {number} ({name.strip() or 'no id'}): "
                f"{unknown[0] if unknown else ''!r} is not one of {', '.join(SPLITS)}."
            )
        if name in found:
            raise Mistake(f"--split_file={path} line {number}: a second row for {name}.")
        found[name] = tuple(where)
    return found


def _from_manifest(path: Path) -> dict[str, tuple[str, ...]]:
    remedy = "give the manifest.json of a preparation, or a CSV file"
    manifest = parse_manifest(path.read_bytes(), f"--split_file={path}", remedy=remedy)
    return {i["id"]: (i["split"], *i.get("folds", ())) for i in manifest["images"]}


def follow(
    previous: Mapping[str, tuple[str, ...]], images: Sequence[SourceImage], allow_absent: bool
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Finds the images of a split file in a source.

    Args:
      previous: id in the file -> its splits.
      images: of the source.
      allow_absent: whether the file may list images that the source does not have.

    Returns:
      (id in the source -> its splits, sentences on what was joined and what is absent or new).

    Raises:
      Mistake: if a listed image is absent, or all are.
    """
    here = [i.record.id for i in images]
    exact = previous.keys() & set(here)
    joined = join_names(
        [name for name in previous if name not in exact],
        [name for name in here if name not in exact],
        list(previous),
        here,
    )
    found = {joined.found.get(name, name): where for name, where in previous.items()}
    gone = [name for name in previous if name not in exact and name not in joined.found]
    new = [name for name in here if name not in found]
    notes = joined.sentences("ids of the split file")
    if not gone and not new:
        return found, notes
    text = both_sides("ids of the split file", gone, "images", new, (len(previous), len(here)))
    if gone and (len(gone) == len(previous) or not allow_absent):
        advice = (
            "Give the file of this set"
            if len(gone) == len(previous)
            else "Restore the ids (a spreadsheet takes zeros away), or pass the others by with "
            "--allow_absent_ids"
        )
        raise Mistake(f"--split_file: {text} {advice}.")
    return {name: found[name] for name in here if name in found}, [*notes, text]
