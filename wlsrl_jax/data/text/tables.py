"""Tables of text: CSV files and workbooks, read as people write them, written as programs need.

Every table and list that a command reads goes through here. What we write into a cell that a
spreadsheet would take for a formula begins with an apostrophe; reading takes it away again.
"""

from __future__ import annotations

import csv
import io
import os
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wlsrl_jax.data.text.names import is_missing, letters
from wlsrl_jax.files import Mistake, writing

MAX_TABLE_BYTES = 512 * 2**20
SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx")
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_HINT = re.compile(r"sep=([,;\t])\s*")  # a first line of Excel's


class Row(dict[str, str]):
    """The cells of a row by the name of their column.

    Attributes:
      line: its number in the file, the header being 1.
    """

    line: int = 0


def safe_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula; ``original_cell`` is its inverse.

    >>> safe_cell("=CNV"), safe_cell("'-x"), safe_cell("007")
    ("'=CNV", "''-x", '007')
    """
    return f"'{text}" if _FORMULA.match(text) else text


def original_cell(text: str) -> str:
    """What ``safe_cell`` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """CSV whose lines end in a line feed; strings are made safe, numbers are written as such."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(
        [safe_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows
    )
    return text.getvalue()


def float32_cell(value: float) -> str:
    """A number of single precision in as many digits as tell it from every other."""
    return f"{value:.9g}"


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Writes a CSV file row by row, by way of a temporary file, so that it is whole or absent.

    Args:
      path: of the file.
      rows: header first; cells are written as they are (``safe_cell``).
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with writing(path), temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    os.replace(temporary, path)


def read_table(
    path: Path,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> list[Row]:
    """Reads a table with a header.

    Args:
      path: a CSV file (commas, semicolons or tabs; a byte order mark, spaces around cells and
        another case in the header are forgiven) or an .xlsx workbook, of which the first
        sheet is read.
      columns: that must be there.
      optional: columns to read where they are there; else "".
      aliases: other name of a column -> its name.

    Returns:
      A dict a row that is not empty; a cell that says that its value is missing ("NA", "nan",
      "-" ...) is "".

    Raises:
      Mistake: if the file or a column is missing, naming both, or a column stands twice.
    """
    if not path.is_file():
        raise Mistake(
            f"{path} is missing; it is the table with the columns "
            f"{', '.join(columns)}. Check --source."
        )
    return select(path, read_cells(path), columns, optional, aliases)


def read_cells(path: Path) -> list[list[str]]:
    """The cells of a CSV file or of a workbook's first sheet; the header is the first row.

    Raises:
      Mistake: if it cannot be read.
    """
    return read_xlsx(path) if path.suffix.lower() == ".xlsx" else read_rows(path)


def select(
    path: Path,
    cells: Sequence[Sequence[str]],
    columns: Sequence[str],
    optional: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> list[Row]:
    """Columns of a table that was read; see ``read_table``."""
    header = [name.strip() for name in (cells[0] if cells else [])]
    known = {k.lower(): v for k, v in (aliases or {}).items()}
    lower = [known.get(name.lower(), name).lower() for name in header]
    place: dict[str, int] = {}
    for column in (*columns, *optional):
        found = [k for k, name in enumerate(lower) if name == column.lower()]
        found = found or [k for k, n in enumerate(lower) if n and letters(n) == letters(column)]
        if len(found) > 1:
            raise Mistake(f"{path} has the column {column} {len(found)} times; rename or drop one.")
        if found:
            place[column] = found[0]
    missing = [name for name in columns if name not in place]
    if missing:
        raise Mistake(
            f"{path} has no column {', '.join(missing)}; it has: "
            f"{', '.join(h for h in header if h) or 'nothing'}. Rename the column or fetch the "
            "original."
        )

    def cell(row: Sequence[str], column: str) -> str:
        text = row[place[column]] if column in place and place[column] < len(row) else ""
        text = original_cell(text.strip(" \u00a0\ufeff\v\f")).strip()
        return "" if is_missing(text) else text

    rows = []
    for number, row in enumerate(cells[1:], start=2):
        if any(text.strip() for text in row):
            rows.append(Row({c: cell(row, c) for c in (*columns, *optional)}))
            rows[-1].line = number
    return rows


def read_rows(path: Path) -> list[list[str]]:
    """Reads the cells of a CSV file, split at commas, semicolons or tabs.

    Raises:
      Mistake: if it is no text, or too large.
    """
    text = _read_text(path)
    first, _, rest = text.partition("\n")
    if hint := _HINT.fullmatch(first):
        delimiter, text = hint[1], rest
    else:
        delimiter = max(",;\t", key=first.count)  # the first of them where there is none
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise Mistake(f"{path} is not a readable CSV file ({error}).") from None


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a text file that are not blank.

    Raises:
      Mistake: if it is no text, or too large.
    """
    return [line for line in _read_text(path).splitlines() if line.strip()]


def _read_text(path: Path) -> str:
    if path.stat().st_size > MAX_TABLE_BYTES:
        raise Mistake(f"{path} is larger than {MAX_TABLE_BYTES:,} bytes: no table of labels.")
    content = path.read_bytes()
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # Excel's "Unicode text"
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise Mistake(f"{path} is not a readable CSV file ({error}); save it as UTF-8.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_xlsx(path: Path) -> list[list[str]]:
    """Reads the cells of the first sheet of a workbook as text.

    A whole number is written without ".0", and with the zeros in front that its format shows.

    Raises:
      Mistake: if openpyxl is not installed, or the file is no workbook.
    """
    try:
        import openpyxl
    except ModuleNotFoundError:
        raise Mistake(
            f"{path} is an Excel workbook; save it as CSV beside it, or run: "
            "pip install 'wlsrl_jax[excel]'"
        ) from None
    try:
        with zipfile.ZipFile(path) as parts:
            if sum(part.file_size for part in parts.infolist()) > MAX_TABLE_BYTES:
                raise Mistake(f"it unpacks to more than {MAX_TABLE_BYTES:,} bytes")
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        return [[_as_text(cell) for cell in row] for row in book.worksheets[0].iter_rows()]
    except Exception as error:  # openpyxl raises many kinds for damaged files
        raise Mistake(f"{path} is not a readable workbook ({error}).") from None


def _as_text(cell: Any) -> str:
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    zeros = getattr(cell, "number_format", "")
    shown = type(value) is int and value >= 0 and re.fullmatch("0+", zeros or "")
    return str(value).zfill(len(zeros)) if shown else str(value)
