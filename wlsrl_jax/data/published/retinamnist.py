"""RetinaMNIST of MedMNIST v2/v3: DeepDRiD, centre-cropped to squares; no patient ids.

Two photographs an eye and two eyes a patient stand in it as four images without a name, so
its own validation split shares patients with its training split.
"""

from __future__ import annotations

import functools
from pathlib import Path

from wlsrl_jax.data.published import medmnist
from wlsrl_jax.data.published.common import DatasetSpec, Problem, Record
from wlsrl_jax.tasks import DR_GRADES


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads ``retinamnist.npz`` (28 pixels), ``retinamnist_64.npz``, ``_128`` or ``_224``."""
    return medmnist.scan_written(source, DR_GRADES)


SPEC = DatasetSpec(
    name="retinamnist",
    modality="fundus",
    classes=DR_GRADES,
    normal="0",
    scan=scan,
    size=(192, 192),
    homepage="https://medmnist.com",
    license="CC BY 4.0",
    citation="Yang et al., MedMNIST v2, Scientific Data 10:41, 2023, doi "
    "10.1038/s41597-022-01721-8; images of Liu et al., DeepDRiD, Patterns 3(6), 2022.",
    published={"all": {"all": 1600}},
    open=functools.partial(medmnist.opened, "retinamnist", DR_GRADES),
)
