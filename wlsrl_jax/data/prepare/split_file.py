"""Lists of which image is in which split: written beside prepared data, read to keep a division."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from wlsrl_jax.data.prepare.groups import SPLITS
from wlsrl_jax.data.prepare.inspect import SourceImage
from wlsrl_jax.data.tables import read_rows
from wlsrl_jax.files import Mistake

NAME = "splits.csv"
_OTHER_NAMES = {"training": "train", "val": "validation", "valid": "validation",
                "dev": "validation", "testing": "test"}  # fmt: skip


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
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns(folds))
    writer.writerows([i.record.id, i.split, *i.folds] for i in images)
    return text.getvalue().encode()


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
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            return {i["id"]: (i["split"], *i.get("folds", ())) for i in manifest["images"]}
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise Mistake(f"--split_file={path} is not a manifest ({error}).") from None
    rows = read_rows(path)
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
    found: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        cells = [row[p].strip() if p < len(row) else "" for p in places]
        name, where = cells[0], [_OTHER_NAMES.get(c.lower(), c.lower()) for c in cells[1:]]
        unknown = [c for c in where if c not in SPLITS]
        if not name or unknown:
            raise Mistake(
                f"--split_file={path} line {number} ({name or 'no id'}): "
                f"{unknown[0] if unknown else ''!r} is not one of {', '.join(SPLITS)}."
            )
        if name in found:
            raise Mistake(f"--split_file={path} line {number}: a second row for {name}.")
        found[name] = tuple(where)
    return found


def absent(previous: Mapping[str, tuple[str, ...]], images: Sequence[SourceImage]) -> list[str]:
    """Ids of a split file that the source does not have."""
    return sorted(previous.keys() - {i.record.id for i in images})
