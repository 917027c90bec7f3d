"""Columns of a table of one's own that nobody named, and what is to be said of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from wlsrl_jax.data.text.names import letters
from wlsrl_jax.data.text.tables import select
from wlsrl_jax.files import Mistake

PATIENTS = frozenset(
    "patient patientid patientno patientnr patientnum patientnumber patientcode patientidentifier "
    "subject subjectid subjectno subjectnumber subjectcode participant participantid person "
    "personid pid ptid mrn".split()
)
"""Letters and digits of the names of a column of patients, which is taken unasked."""
_DIVISIONS = ("split", "subset", "partition", "dataset")
NONE = "none"


def _header(cells: Sequence[Sequence[str]]) -> list[str]:
    return [name.strip() for name in (cells[0] if cells else [])]


def find_patients(
    asked: str, path: Path, cells: Sequence[Sequence[str]], used: Sequence[str]
) -> tuple[str, list[str]]:
    """Finds the column that names the patients.

    Args:
      asked: value of --patient_column; "" looks for one, "none" has none.
      path: of the table.
      cells: of the table.
      used: columns that are something else.

    Returns:
      (its name, or "" for none; sentences).

    Raises:
      Mistake: if there are several.
    """
    header = _header(cells)
    if asked and (asked.lower() != NONE or NONE in map(str.lower, header)):
        return asked, []
    others = {letters(name) for name in used}
    free = [h for h in header if letters(h) not in others]
    alike = [h for h in free if re.match("patient|subject|participant", letters(h))]
    named = [h for h in free if letters(h) in PATIENTS]
    named = [h for h in named if any(row[h] for row in select(path, cells, [h]))]
    if asked or not named:
        ignored = ", ".join(dict.fromkeys([*named, *alike]))
        text = f"the column {ignored} of {path.name} is not used; --patient_column=NAME takes one."
        return "", [text] if ignored else []
    if len(named) > 1:
        raise Mistake(
            f"{path} has the columns {' and '.join(named)}; say which names the patient with "
            f"--patient_column=NAME, or --patient_column={NONE}."
        )
    text = f"the column {named[0]} of {path.name} names the patients; --patient_column={NONE} not."
    return named[0], [text]


def division_not_followed(path: Path, cells: Sequence[Sequence[str]]) -> list[str]:
    """Says that a column that looks like a division is not followed."""
    found = [name for name in _header(cells) if letters(name) in _DIVISIONS]
    return [f"the column {n} of {path.name} is not followed; --split_column={n} is." for n in found]
