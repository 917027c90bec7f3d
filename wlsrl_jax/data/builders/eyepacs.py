"""EyePACS: the Kaggle 2015 Diabetic Retinopathy Detection training set, two eyes a patient."""

from __future__ import annotations

from pathlib import Path

from wlsrl_jax.data.builders.common import DatasetSpec, Problem, Record, scan_grades
from wlsrl_jax.tasks import DR_GRADES


def _patient(stem: str) -> str:
    person, _, eye = stem.rpartition("_")
    if not person or eye not in ("left", "right"):
        raise ValueError("the name is not PATIENT_left or PATIENT_right, so the patient is unknown")
    return person


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads ``train/PATIENT_left.jpeg`` and ``trainLabels.csv`` with image and level."""
    return scan_grades(
        source,
        table="trainLabels.csv",
        folder="train",
        key="image",
        grade="level",
        patient=_patient,
    )


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
