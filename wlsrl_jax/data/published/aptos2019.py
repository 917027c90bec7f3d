"""APTOS 2019 Blindness Detection training set; it names no patients."""

from __future__ import annotations

from pathlib import Path

from wlsrl_jax.data.published.common import DatasetSpec, Problem, Record, scan_grades
from wlsrl_jax.tasks import DR_GRADES


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads ``train_images/ID.png`` and ``train.csv`` with id_code and diagnosis."""
    return scan_grades(
        source,
        table="train.csv",
        folder="train_images",
        key="id_code",
        grade="diagnosis",
        patient=lambda stem: None,
    )


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
    published={"all": {"0": 1805, "1": 370, "2": 999, "3": 193, "4": 295}},
)
