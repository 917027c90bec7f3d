"""Messidor-2: 1,748 fundus photographs in pairs, with adjudicated grades.

Layout: the images of adcis.net/en/third-party/messidor2 in ``IMAGES/`` with its pairs
``messidor-2.csv`` (left;right), and ``messidor_data.csv`` of Kaggle's
google-brain/messidor2-dr-grades (Krause et al. 2018). Kaggle's preprocessed copy names the
columns id_code and diagnosis; that is read too. Without the file of pairs no patients are
known.
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
    parse_grade,
)
from wlsrl_jax.data.text.tables import read_rows, read_table
from wlsrl_jax.tasks import DR_GRADES

TABLE = "messidor_data.csv"
PAIRS = "messidor-2.csv"
_ALIASES = {"id_code": "image_id", "diagnosis": "adjudicated_dr_grade"}
_FOLDERS = ("images", "preprocess")


def _image_folder(root: Path) -> Path:
    folders = [root, *layout.folders(root)]
    folders += [inner for folder in folders[1:] for inner in layout.folders(folder)]
    for folder in folders:
        for name in _FOLDERS:
            if name in layout.children(folder):
                return layout.children(folder)[name]
    return root / "IMAGES"


def _pairs(root: Path) -> dict[str, tuple[str, str]]:
    """File name without suffix, lower case -> (examination, eye)."""
    path = layout.find_file(root, PAIRS)
    if path is None:
        return {}
    found: dict[str, tuple[str, str]] = {}
    for cells in read_rows(path):
        names = [Path(cell.strip()).stem.lower() for cell in cells if cell.strip()]
        if len(names) == 2 and names[0] not in ("left", "right"):
            for name, eye in zip(names, ("left", "right"), strict=True):
                found[name] = (names[0], eye)
    return found


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads ``IMAGES/``, ``messidor_data.csv`` (grades) and ``messidor-2.csv`` (pairs)."""
    root = layout.find_root(source, layout.has_file(TABLE), f"{TABLE} (from Kaggle)")
    rows = read_table(
        layout.find_file(root, TABLE) or root / TABLE,
        ["image_id", "adjudicated_dr_grade", "adjudicated_gradable"],
        ["adjudicated_dme"],
        _ALIASES,
    )
    images, problems = list_images(_image_folder(root), source)
    for row in rows:
        row["image_id"] = Path(row["image_id"]).stem.lower()
    pairs = _pairs(root)

    def make(row: Mapping[str, str], path: Path) -> Record | Problem | str:
        relative = path.relative_to(source).as_posix()
        if row["adjudicated_gradable"] in ("0", "0.0"):
            return Problem(relative, "ungradable, say its graders", by_rule=True)
        value = parse_grade(row["adjudicated_dr_grade"], DR_GRADES)
        if isinstance(value, str):
            return value
        examination, eye = pairs.get(path.stem.lower(), (None, None))
        if pairs and examination is None:
            return f"not in {PAIRS}, so the patient is unknown"
        attributes = known_attributes(eye=eye, dme=row["adjudicated_dme"])
        return Record(relative, path.stem, value, examination, attributes=attributes)

    records, more = match_rows(
        rows, images, key="image_id", table=TABLE, source=source, make=make, lower=True
    )
    return records, problems + more


SPEC = DatasetSpec(
    name="messidor2",
    modality="fundus",
    classes=DR_GRADES,
    normal="0",
    scan=scan,
    size=(192, 192),
    homepage="https://www.adcis.net/en/third-party/messidor2/",
    license="Messidor-2 licence: research and education, not to be passed on",
    citation="Decenciere et al., Feedback on a publicly distributed image database: the Messidor "
    "database, Image Analysis and Stereology 33(3), 2014; Abramoff et al., JAMA Ophthalmology "
    "131(3), 2013; grades: Krause et al., Ophthalmology 125(8), 2018.",
    published={
        "all": {"0": 1017, "1": 270, "2": 347, "3": 75, "4": 35, "all": 1748},
        "gradable alone": {"0": 1017, "1": 270, "2": 347, "3": 75, "4": 35, "all": 1744},
    },
)
