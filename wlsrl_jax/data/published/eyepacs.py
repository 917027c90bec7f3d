"""EyePACS: the Kaggle 2015 Diabetic Retinopathy Detection set, two eyes a patient.

Layout: ``train/`` and ``trainLabels.csv``; where they are, also ``test/`` and
``retinopathy_solution.csv``, which Kaggle published after the competition.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wlsrl_jax.data.published.common import (
    DatasetSpec,
    Problem,
    Record,
    known_attributes,
    scan_grades,
)
from wlsrl_jax.files import Mistake
from wlsrl_jax.tasks import DR_GRADES

SOLUTION = "retinopathy_solution.csv"


def _patient(stem: str) -> str:
    person, _, eye = stem.rpartition("_")
    if not person or eye not in ("left", "right"):
        raise Mistake("the name is not PATIENT_left or PATIENT_right, so the patient is unknown")
    return person


def _attributes(row: Mapping[str, str], stem: str) -> dict[str, str]:
    return known_attributes(eye=stem.rpartition("_")[2])


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads ``train/PATIENT_left.jpeg`` and ``trainLabels.csv`` with image and level."""
    parts = [("trainLabels.csv", "train", "")]
    if (source / SOLUTION).exists() and (source / "test").exists():
        parts = [("trainLabels.csv", "train", "train"), (SOLUTION, "test", "test")]
    records: list[Record] = []
    problems: list[Problem] = []
    for table, folder, official in parts:
        found, odd = scan_grades(
            source,
            table=table,
            folder=folder,
            key="image",
            grade="level",
            patient=_patient,
            attributes=_attributes,
            official=official,
        )
        records += found
        problems += odd
    return records, problems


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
    published={
        "train": {"0": 25810, "1": 2443, "2": 5292, "3": 873, "4": 708},
        "train and test": {"all": 88702},
    },
)
