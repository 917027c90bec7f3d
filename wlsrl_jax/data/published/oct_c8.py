"""Retinal OCT-C8: 24,000 B-scans of eight classes, put together from other sets.

Layout: Kaggle's obulisainaren/retinal-oct-c8,
``RetinalOCT_Dataset/RetinalOCT_Dataset/train/AMD/amd_train_1001.jpg``. Many of its images
come from OCT2017 and other sets, and it names no patients: do not join it with them, and do
not test on one what was trained on the other.
"""

from __future__ import annotations

from pathlib import Path

from wlsrl_jax.data.published import layout
from wlsrl_jax.data.published.common import DatasetSpec, Problem, Record, list_images

CLASSES = ("AMD", "CNV", "CSR", "DME", "DR", "DRUSEN", "MH", "NORMAL")


def _fits(folder: Path) -> bool:
    return layout.has_children(tuple(layout.FOLDERS))(folder)


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads ``train/ val/ test/``, each with ``AMD CNV CSR DME DR DRUSEN MH NORMAL``."""
    root = layout.find_root(source, _fits, "train/, val/ and test/")
    records: list[Record] = []
    problems: list[Problem] = []
    for folder, official in layout.FOLDERS.items():
        for label, name in enumerate(CLASSES):
            images, odd = list_images(root / folder / name, source)
            problems += odd
            for path in images:
                relative = path.relative_to(source).as_posix()
                identity = path.relative_to(root).with_suffix("").as_posix()
                records.append(Record(relative, identity, label, None, official))
    return records, problems


SPEC = DatasetSpec(
    name="oct_c8",
    modality="oct",
    classes=CLASSES,
    normal="NORMAL",
    scan=scan,
    size=(128, 256),
    homepage="https://www.kaggle.com/datasets/obulisainaren/retinal-oct-c8",
    license="CC BY-NC-SA 4.0",
    citation="Subramanian et al., Classification of Retinal OCT Images Using Deep Learning, "
    "International Conference on Computer Communication and Informatics (ICCCI), 2022, doi "
    "10.1109/ICCCI54379.2022.9740985.",
    published={"all": {**dict.fromkeys(CLASSES, 3000), "all": 24000}},
)
