"""Duke: 3,231 OCT B-scans of 45 patients (15 AMD, 15 DME, 15 normal).

Layout: ``2014_BOE_Srinivasan`` as on people.duke.edu/~sf59/Srinivasan_BOE_2014_dataset.htm:
``Publication_Dataset/AMD1/TIFFs/8bitTIFFs/001.tif``, one folder a patient.
"""

from __future__ import annotations

import re
from pathlib import Path

from wlsrl_jax.data.published import layout
from wlsrl_jax.data.published.common import DatasetSpec, Problem, Record, list_images

CLASSES = ("AMD", "DME", "NORMAL")
_PATIENT = re.compile(r"(AMD|DME|NORMAL) ?(\d+)", re.IGNORECASE)


def _fits(folder: Path) -> bool:
    names = [p.name for p in layout.folders(folder)]
    return any(_PATIENT.fullmatch(name) for name in names)


def _images_of(folder: Path) -> Path:
    for inner in ("tiffs", "8bittiffs"):
        folder = layout.children(folder).get(inner, folder)
    return folder


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads a folder a patient, ``AMD1`` to ``NORMAL15``, with ``TIFFs/8bitTIFFs/001.tif``."""
    root = layout.find_root(source, _fits, "a folder a patient, AMD1/ DME1/ NORMAL1/ and so on")
    records: list[Record] = []
    problems: list[Problem] = []
    for folder in layout.folders(root):
        match = _PATIENT.fullmatch(folder.name)
        if match is None:
            reason = "not a patient's folder (AMD1, DME1, NORMAL1); move it elsewhere"
            problems.append(Problem(folder.relative_to(source).as_posix(), reason))
            continue
        name = match[1].upper()
        patient = f"{name}{int(match[2])}"
        images, odd = list_images(_images_of(folder), source)
        problems += odd
        for path in images:
            relative = path.relative_to(source).as_posix()
            identity = f"{patient}/{path.stem}"
            records.append(Record(relative, identity, CLASSES.index(name), patient))
    return records, problems


SPEC = DatasetSpec(
    name="duke_srinivasan",
    modality="oct",
    classes=CLASSES,
    normal="NORMAL",
    scan=scan,
    size=(128, 256),
    homepage="https://people.duke.edu/~sf59/Srinivasan_BOE_2014_dataset.htm",
    license="research and education, with citation; see its page",
    citation="Srinivasan et al., Fully automated detection of diabetic macular edema and dry "
    "age-related macular degeneration from optical coherence tomography images, Biomedical Optics "
    "Express 5(10), 2014, doi 10.1364/BOE.5.003568.",
    published={"all": {"AMD": 723, "DME": 1101, "NORMAL": 1407}},
)
