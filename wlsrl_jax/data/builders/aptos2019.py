"""APTOS 2019 Blindness Detection training set; it names no patients."""

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

TABLE = "train.csv"


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads ``train_images/ID.png`` and ``train.csv`` with id_code and diagnosis."""
    rows = read_table(source / TABLE, ["id_code", "diagnosis"])
    images, problems = list_images(source / "train_images", source)
    files, twice = by_stem(images, source)

    def make(row: Mapping[str, str], path: Path) -> Record | str:
        grade = parse_grade(row["diagnosis"], DR_GRADES)
        if isinstance(grade, str):
            return grade
        return Record(path.relative_to(source).as_posix(), path.stem, grade, None)

    records, more = match_rows(rows, files, key="id_code", table=TABLE, source=source, make=make)
    return records, problems + twice + more


SPEC = DatasetSpec(
    name="aptos2019",
    modality="fundus",
    classes=DR_GRADES,
    normal="0",
    scan=scan,
    size=(192, 192),
    homepage="https://www.kaggle.com/c/aptos2019-blindness-detection",
    license="competition rules; not to be passed on",
    citation="Asia Pacific Tele-Ophthalmology Society, APTOS 2019 Blindness Detection, Kaggle.",
)
