"""IDRiD, part B: 516 fundus photographs with grades; it names no patients.

Layout: ``B. Disease Grading`` as on IEEE DataPort (Porwal et al. 2018):
``1. Original Images/a. Training Set/IDRiD_001.jpg``, ``2. Groundtruths/a. IDRiD_Disease
Grading_Training Labels.csv``. Copies with dashes and underscores for spaces are read too.
The two parts use the same file names for different images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wlsrl_jax.data.published import layout
from wlsrl_jax.data.published.common import (
    DatasetSpec,
    Problem,
    Record,
    known_attributes,
    scan_grades,
)
from wlsrl_jax.files import Mistake
from wlsrl_jax.tasks import DR_GRADES

_NEEDED = ("original images", "groundtruths")
_PARTS = {"train": ("training set", "training labels"), "test": ("testing set", "testing labels")}


def _table(folder: Path, ending: str) -> Path | None:
    for path in sorted(folder.iterdir()):
        name = layout.plain(path.stem)
        if path.suffix.lower() == ".csv" and name.endswith(f"disease grading {ending}"):
            return path
    return None


def _fits(folder: Path) -> bool:
    names = layout.children(folder)  # the other parts have folders of the same names
    return set(_NEEDED) <= names.keys() and bool(_table(names["groundtruths"], "training labels"))


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads ``1. Original Images`` and ``2. Groundtruths`` of ``B. Disease Grading``."""
    what = "'B. Disease Grading' with '1. Original Images' and '2. Groundtruths'"
    root = layout.find_root(source, _fits, what)
    images, truths = (layout.children(root)[name] for name in _NEEDED)
    records: list[Record] = []
    problems: list[Problem] = []

    def attributes(row: Mapping[str, str], stem: str) -> dict[str, str]:
        return known_attributes(dme_risk=row["Risk of macular edema"])

    for official, (folder, ending) in _PARTS.items():
        table = _table(truths, ending)
        if folder not in layout.children(images) or table is None:
            raise Mistake(f"{root} has no {folder}, or no table of {ending}.")
        found, odd = scan_grades(
            source,
            table=table.relative_to(source).as_posix(),
            folder=layout.children(images)[folder].relative_to(source).as_posix(),
            key="Image name",
            grade="Retinopathy grade",
            patient=lambda stem: None,
            attributes=attributes,
            optional=["Risk of macular edema"],
            official=official,
            prefix=f"{official}/",
        )
        records += found
        problems += odd
    return records, problems


SPEC = DatasetSpec(
    name="idrid",
    modality="fundus",
    classes=DR_GRADES,
    normal="0",
    scan=scan,
    size=(192, 192),
    homepage="https://ieee-dataport.org/open-access/indian-diabetic-retinopathy-image-dataset-idrid",
    license="CC BY 4.0",
    citation="Porwal et al., Indian Diabetic Retinopathy Image Dataset (IDRiD), Data 3(3):25, "
    "2018, doi 10.3390/data3030025.",
    published={"all": {"0": 168, "1": 25, "2": 168, "3": 93, "4": 62}},
)
