"""OCT2017: the OCT part of Kermany et al., four classes, folder as published."""

from __future__ import annotations

from pathlib import Path

from wlsrl_jax.data.builders.common import DatasetSpec, Problem, Record, list_images

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")
FOLDERS = {"train": "train", "val": "validation", "test": "test"}


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads ``train/ val/ test/`` with the four class folders; names are CLASS-PATIENT-NUMBER."""
    records: list[Record] = []
    problems: list[Problem] = []
    for folder, official in FOLDERS.items():
        if folder == "val" and not (source / folder).exists():
            continue  # the first published version has none
        for label, name in enumerate(CLASSES):
            images, odd = list_images(source / folder / name, source)
            problems += odd
            for path in images:
                relative = path.relative_to(source)
                parts = path.stem.split("-")
                if len(parts) != 3 or not all(parts):
                    reason = "the name is not CLASS-PATIENT-NUMBER, so the patient is unknown"
                    problems.append(Problem(relative.as_posix(), reason))
                elif parts[0] != name:
                    reason = f"the name says {parts[0]}, the folder {name}; correct one"
                    problems.append(Problem(relative.as_posix(), reason))
                else:
                    identity = relative.with_suffix("").as_posix()
                    records.append(Record(relative.as_posix(), identity, label, parts[1], official))
    return records, problems


SPEC = DatasetSpec(
    name="oct2017",
    modality="oct",
    classes=CLASSES,
    normal="NORMAL",
    scan=scan,
    size=(128, 256),
    homepage="https://doi.org/10.17632/rscbjbr9sj",
    license="CC BY 4.0",
    citation="Kermany et al., Identifying Medical Diagnoses and Treatable Diseases by Image-Based "
    "Deep Learning, Cell 172(5), 2018, doi 10.1016/j.cell.2018.02.010.",
)
