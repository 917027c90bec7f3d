"""OCTDL: OCT B-scans of seven classes, with patient ids.

Layout: ``OCTDL.zip`` and ``OCTDL_labels.csv`` of data.mendeley.com/datasets/sncdhf53xc.
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
    list_images,
    match_rows,
)
from wlsrl_jax.data.text.names import class_key, known_by
from wlsrl_jax.data.text.tables import read_table

CLASSES = ("AMD", "DME", "ERM", "NO", "RAO", "RVO", "VID")
TABLE = "OCTDL_labels.csv"
ATTRIBUTES = ("eye", "sex", "year", "subcategory", "condition")


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads one folder a class, and the table of labels and patients."""
    here = source / TABLE
    if not here.is_file():  # in the folder itself, else above or below the class folders
        root = layout.find_root(source, layout.has_file(TABLE), TABLE)
        here = layout.find_file(root, TABLE) or here
    rows = read_table(here, ["file_name", "disease", "patient_id"], ATTRIBUTES)
    fits = layout.has_children([name.lower() for name in ("AMD", "DME", "RVO")])
    root = source if (source / CLASSES[0]).is_dir() else layout.find_root(source, fits, "AMD/")
    images: list[Path] = []
    problems: list[Problem] = []
    for name in CLASSES:
        found, odd = list_images(root / name, source)
        images += found
        problems += odd
    known = known_by(CLASSES)

    def make(row: Mapping[str, str], path: Path) -> Record | str:
        disease, folder = known.get(class_key(row["disease"])), path.parent.name
        if disease is None:
            return f"disease {row['disease']!r} is not one of {', '.join(CLASSES)}"
        if disease != folder:
            return f"the table says {disease}, the folder {folder}; correct one"
        if not row["patient_id"]:
            return "no patient_id; without it the image could be in train and test at once"
        return Record(
            path.relative_to(source).as_posix(),
            path.stem,
            CLASSES.index(disease),
            row["patient_id"],
            attributes=known_attributes(**{name: row[name] for name in ATTRIBUTES}),
        )

    records, more = match_rows(rows, images, key="file_name", table=TABLE, source=source, make=make)
    return records, problems + more


SPEC = DatasetSpec(
    name="octdl",
    modality="oct",
    classes=CLASSES,
    normal="NO",
    scan=scan,
    size=(128, 256),
    homepage="https://doi.org/10.17632/sncdhf53xc",
    license="CC BY 4.0",
    citation="Kulyabin et al., OCTDL: Optical Coherence Tomography Dataset for Image-Based Deep "
    "Learning Methods, Scientific Data 11:365, 2024, doi 10.1038/s41597-024-03182-7.",
    published={
        "all": {"AMD": 1231, "DME": 147, "ERM": 155, "NO": 332, "RAO": 22, "RVO": 101, "VID": 76}
    },
)
