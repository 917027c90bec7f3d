"""DeepDRiD: 2,000 regular fundus photographs, two an eye, two eyes a patient.

Layout: github.com/deepdrdoc/DeepDRiD, ``regular_fundus_images/regular-fundus-training/``
with ``Images/1/1_l1.jpg`` and ``regular-fundus-training.csv``, the same for validation, and
``Online-Challenge1&2-Evaluation/`` with ``Challenge1_labels.xlsx`` (image_id, DR_Levels), its
test set. The label is the grade of the eye: one of left_eye_DR_Level and right_eye_DR_Level is
filled. In training, some names of patients 56, 77, 164 and 167 (``56_r3``) say the other eye
than these columns, which count. Grade 5 is ungradable; nothing in the two CSV files has it. The
column image_path names folders that do not exist and is not used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from wlsrl_jax.data.published import layout
from wlsrl_jax.data.published.common import (
    DatasetSpec,
    Problem,
    Record,
    known_attributes,
    list_images,
    match_rows,
    parse_grade,
)
from wlsrl_jax.data.text.tables import Row, read_table
from wlsrl_jax.tasks import DR_GRADES

_NAME = re.compile(r"(\d+)_([lr])\d+", re.IGNORECASE)
_PARTS = {
    "regular fundus training": ("train", "regular-fundus-training.csv"),
    "regular fundus validation": ("validation", "regular-fundus-validation.csv"),
    "online challenge1 2 evaluation": ("test", "Challenge1_labels"),
}


def _fits(folder: Path) -> bool:
    return "regular fundus training" in layout.children(folder)


def _images(folder: Path, source: Path) -> tuple[list[Path], list[Problem]]:
    pictures = layout.children(folder).get("images", folder / "Images")
    patients = layout.folders(pictures) if pictures.is_dir() else []
    images: list[Path] = []
    problems: list[Problem] = []
    for inner in patients or [pictures]:
        found, odd = list_images(inner, source)
        images += found
        problems += odd
    return images, problems


def _graded_eye(row: Mapping[str, str]) -> str:
    """The eye whose grade a row has; where that is not one, the eye of the file name."""
    graded = [eye for eye in ("left", "right") if row[f"{eye}_eye_DR_Level"]]
    if len(graded) == 1:
        return graded[0]
    return "left" if re.search(r"_l\d", row["image_id"], re.IGNORECASE) else "right"


def _rows(folder: Path, official: str, table: str) -> tuple[Path, list[Row]]:
    if official != "test":
        path = layout.find_file(folder, table) or folder / table
        levels = ["left_eye_DR_Level", "right_eye_DR_Level"]
        rows = read_table(path, ["image_id", *levels], ["Overall quality"])
        for row in rows:
            row["eye"] = _graded_eye(row)
            row["DR_Levels"] = row[f"{row['eye']}_eye_DR_Level"]
        return path, rows
    path = layout.find_file(folder, f"{table}.csv") or folder / f"{table}.xlsx"
    return path, read_table(path, ["image_id", "DR_Levels"], ["Overall quality"])


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads ``regular_fundus_images``: training, validation and, where it is, evaluation."""
    root = layout.find_root(source, _fits, "regular-fundus-training/ (in regular_fundus_images/)")
    records: list[Record] = []
    problems: list[Problem] = []
    parts = {k: v for k, v in layout.children(root).items() if k in _PARTS}
    for name, folder in parts.items():
        official, table = _PARTS[name]
        path, rows = _rows(folder, official, table)
        images, odd = _images(folder, source)

        def make(
            row: Mapping[str, str], path: Path, official: str = official
        ) -> Record | Problem | str:
            relative = path.relative_to(source).as_posix()
            match = _NAME.fullmatch(path.stem)
            if match is None:
                return "the name is not PATIENT_l1 or PATIENT_r1, so the patient is unknown"
            if row["DR_Levels"] in ("5", "5.0"):
                return Problem(relative, "grade 5, ungradable", by_rule=True)
            value = parse_grade(row["DR_Levels"], DR_GRADES)
            if isinstance(value, str):
                return value
            eye = row.get("eye", match[2])
            attributes = known_attributes(eye=eye, quality=row["Overall quality"])
            return Record(relative, path.stem, value, match[1], official, attributes)

        found, more = match_rows(
            rows, images, key="image_id", table=path.name, source=source, make=make
        )
        records += found
        problems += odd + more
    return records, problems


SPEC = DatasetSpec(
    name="deepdrid",
    modality="fundus",
    classes=DR_GRADES,
    normal="0",
    scan=scan,
    size=(192, 192),
    homepage="https://github.com/deepdrdoc/DeepDRiD",
    license="CC BY-SA 4.0; see its page",
    citation="Liu et al., DeepDRiD: Diabetic Retinopathy - Grading and Image Quality Estimation "
    "Challenge, Patterns 3(6), 2022, doi 10.1016/j.patter.2022.100512.",
    published={"with evaluation": {"all": 2000}, "without": {"all": 1600}},
)
