"""OCTID: 572 OCT B-scans of five classes from Sankara Nethralaya; it names no patients.

Layout: one zip or folder a class, as on borealisdata.ca/dataverse/OCTID (formerly
dataverse.scholarsportal.info): NORMAL, AMRD, CSR, DR, MH. The file names are numbers within
the class and say nothing of patients.
"""

from __future__ import annotations

from pathlib import Path

from wlsrl_jax.data.published import layout
from wlsrl_jax.data.published.common import DatasetSpec, Problem, Record, list_images

CLASSES = ("AMRD", "CSR", "DR", "MH", "NORMAL")
_NAMES = {**{c.lower(): c for c in CLASSES}, "amd": "AMRD", "armd": "AMRD", "no": "NORMAL"}


def _fits(folder: Path) -> bool:
    found = {_NAMES.get(name) for name in layout.children(folder)}
    return {"CSR", "MH", "NORMAL"} <= found


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads one folder (or zip) a class: ``NORMAL AMRD CSR DR MH``."""
    root = layout.find_root(source, _fits, "the class folders NORMAL/ AMRD/ CSR/ DR/ MH/")
    records: list[Record] = []
    problems: list[Problem] = []
    found = {_NAMES[k]: v for k, v in layout.children(root).items() if k in _NAMES}
    for label, name in enumerate(CLASSES):
        folder = found.get(name, root / name)
        inner = layout.folders(folder) if folder.is_dir() else []
        if len(inner) == 1 and _NAMES.get(layout.plain(inner[0].name)) == name:
            folder = inner[0]  # a zip that holds a folder of its own name
        images, odd = list_images(folder, source)
        problems += odd
        for path in images:
            relative = path.relative_to(source).as_posix()
            records.append(Record(relative, f"{name}/{path.stem}", label, None))
    return records, problems


SPEC = DatasetSpec(
    name="octid",
    modality="oct",
    classes=CLASSES,
    normal="NORMAL",
    scan=scan,
    size=(128, 256),
    homepage="https://borealisdata.ca/dataverse/OCTID",
    license="see the terms on its page",
    citation="Gholami et al., OCTID: Optical Coherence Tomography Image Database, Computers and "
    "Electrical Engineering 81, 2020, doi 10.1016/j.compeleceng.2019.106532.",
    published={"all": {"AMRD": 55, "CSR": 102, "DR": 107, "MH": 102, "NORMAL": 206}},
)
