"""DDR, grading part: 13,673 fundus photographs of 9,598 patients; it names no patients.

Layout: ``DR_grading/`` of github.com/nkicsl/DDR-dataset: ``train/ valid/ test/`` with images
and ``train.txt``, ``valid.txt``, ``test.txt`` with lines "007-0004-000.jpg 0". Grade 5 is
ungradable. Whether the first numbers of a name are a patient is not published, so they are
not taken for one; other names are times, as 20170323093305605.jpg. Kaggle's
mariaherrerot/ddrdataset has ``DR_grading.csv`` (id_code, diagnosis; 12,522 rows) and one folder
of images instead, of which 007-7447-601.jpg and 007-7449-601.jpg have no row.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wlsrl_jax.data.published import layout
from wlsrl_jax.data.published.common import (
    DatasetSpec,
    Problem,
    Record,
    list_images,
    match_rows,
    parse_grade,
)
from wlsrl_jax.data.text.tables import read_lines, read_table
from wlsrl_jax.files import Mistake
from wlsrl_jax.tasks import DR_GRADES

PARTS = ("train", "valid", "test")
TABLE = "DR_grading.csv"


def _fits(folder: Path) -> bool:
    return layout.find_file(folder, "train.txt") is not None or (
        layout.find_file(folder, TABLE) is not None
    )


def _read_list(path: Path) -> list[dict[str, str]]:
    rows = []
    for line in read_lines(path):
        name, _, grade = line.strip().rpartition(" ")
        rows.append({"name": name.strip() or line.strip(), "grade": grade if name else ""})
    return rows


def _part(
    source: Path, folder: Path, rows: list[dict[str, str]], table: str, official: str
) -> tuple[list[Record], list[Problem]]:
    images, problems = list_images(folder, source)

    def make(row: Mapping[str, str], path: Path) -> Record | Problem | str:
        relative = path.relative_to(source).as_posix()
        if row["grade"] == "5":
            return Problem(relative, "grade 5, ungradable", by_rule=True)
        value = parse_grade(row["grade"], DR_GRADES)
        if isinstance(value, str):
            return value
        return Record(relative, path.stem, value, None, official)

    records, more = match_rows(rows, images, key="name", table=table, source=source, make=make)
    return records, problems + more


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads ``DR_grading/`` with ``train/ valid/ test/`` and ``train.txt`` and so on."""
    root = layout.find_root(source, _fits, "train.txt (in DR_grading/)")
    table = layout.find_file(root, TABLE)
    if table is not None:
        rows = read_table(table, ["id_code", "diagnosis"])
        renamed = [{"name": r["id_code"], "grade": r["diagnosis"]} for r in rows]
        folder = root
        while "dr grading" in layout.children(folder):
            folder = layout.children(folder)["dr grading"]
        return _part(source, folder, renamed, TABLE, "")
    records: list[Record] = []
    problems: list[Problem] = []
    for name in PARTS:
        listing = layout.find_file(root, f"{name}.txt")
        if listing is None:
            raise Mistake(f"{root}/{name}.txt is missing; it has lines 'NAME GRADE'.")
        folder = layout.children(root).get(name, root / name)
        found, odd = _part(source, folder, _read_list(listing), listing.name, layout.SPLITS[name])
        records += found
        problems += odd
    return records, problems


SPEC = DatasetSpec(
    name="ddr",
    modality="fundus",
    classes=DR_GRADES,
    normal="0",
    scan=scan,
    size=(192, 192),
    homepage="https://github.com/nkicsl/DDR-dataset",
    license="MIT (LICENSE of its repository); whether that covers the images is not said",
    citation="Li et al., Diagnostic assessment of deep learning algorithms for diabetic "
    "retinopathy screening, Information Sciences 501, 2019, doi 10.1016/j.ins.2019.06.011.",
    published={"all": {"all": 13673}, "gradable alone, Kaggle": {"all": 12522}},
)
