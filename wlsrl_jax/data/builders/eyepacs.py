"""EyePACS: the Kaggle 2015 Diabetic Retinopathy Detection training set, two eyes a patient."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wlsrl_jax.data.builders.common import (
    DatasetSpec,
    Problem,
    Record,
    by_stem,
    list_images,
    match_rows,
    parse_grade,
    read_table,
)
from wlsrl_jax.tasks import DR_GRADES

TABLE = "trainLabels.csv"


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads ``train/PATIENT_left.jpeg`` and ``trainLabels.csv`` with image and level."""
    rows = read_table(source / TABLE, ["image", "level"])
    images, problems = list_images(source / "train", source)
    files, twice = by_stem(images, source)

    def make(row: Mapping[str, str], path: Path) -> Record | str:
        if path.stem.rsplit("_", 1)[-1] not in ("left", "right"):
            return "the name is not PATIENT_left or PATIENT_right, so the patient is unknown"
        grade = parse_grade(row["level"], DR_GRADES)
        if isinstance(grade, str):
            return grade
        return Record(
            path.relative_to(source).as_posix(), path.stem, grade, path.stem.rsplit("_", 1)[0]
        )

    records, more = match_rows(rows, files, key="image", table=TABLE, source=source, make=make)
    return records, problems + twice + more


SPEC = DatasetSpec(
    name="eyepacs",
    modality="fundus",
    classes=DR_GRADES,
    normal="0",
    scan=scan,
    size=(192, 192),
    homepage="https://www.kaggle.com/c/diabetic-retinopathy-detection",
    license="competition rules; not to be passed on",
    citation="Kaggle and EyePACS, Diabetic Retinopathy Detection, 2015.",
)
