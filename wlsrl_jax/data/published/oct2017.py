"""OCT2017: the OCT part of Kermany et al., four classes.

Layouts: ``OCT2017.tar.gz`` of version 2 (``OCT2017/train``, ``test``), ``ZhangLabData.zip``
of version 3 and ``CellData.zip`` (``CellData/OCT/train``, ``test``) on
data.mendeley.com/datasets/rscbjbr9sj, and Kaggle's paultimothymooney/kermany2018, with a
``val`` folder, a space after ``OCT2017`` and a second copy deeper down.
"""

from __future__ import annotations

from pathlib import Path

from wlsrl_jax.data.published import layout
from wlsrl_jax.data.published.common import DatasetSpec, Problem, Record, list_images
from wlsrl_jax.data.text.names import class_key

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")
_NEEDED = ("train", "test")


def _fits(folder: Path) -> bool:
    if not layout.has_children(_NEEDED)(folder):
        return False  # version 3 has chest X-rays beside, with train and test folders too
    names = layout.children(folder / "train")
    return not names or bool(names.keys() & {"cnv", "dme", "drusen"})


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads ``train/ val/ test/`` with the four class folders; names are CLASS-PATIENT-NUMBER."""
    root = layout.find_root(source, _fits, "train/ and test/ with CNV/ DME/ DRUSEN/ NORMAL/")
    records: list[Record] = []
    problems: list[Problem] = []
    for folder, official in layout.FOLDERS.items():
        if folder == "val" and not (root / folder).exists():
            continue  # only Kaggle's copy has one
        for label, name in enumerate(CLASSES):
            images, odd = list_images(root / folder / name, source)
            problems += odd
            for path in images:
                relative = path.relative_to(source)
                parts = path.stem.split("-")
                if len(parts) != 3 or not all(parts):
                    reason = "the name is not CLASS-PATIENT-NUMBER, so the patient is unknown"
                    problems.append(Problem(relative.as_posix(), reason))
                elif class_key(parts[0]) != class_key(name):
                    reason = f"the name says {parts[0]}, the folder {name}; correct one"
                    problems.append(Problem(relative.as_posix(), reason))
                else:
                    identity = path.relative_to(root).with_suffix("").as_posix()
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
    published={
        "version 2, Kaggle": {"all": 84484},
        "version 3": {"CNV": 37455, "DME": 11598, "DRUSEN": 8866, "NORMAL": 51390, "all": 109309},
    },
)
