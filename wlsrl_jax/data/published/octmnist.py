"""OCTMNIST of MedMNIST v2/v3: OCT2017 version 3, centre-cropped to squares; no patient ids.

Its validation images are drawn from the source's training images without regard to
patients; the source's own test images are its test.
"""

from __future__ import annotations

import functools
from pathlib import Path

from wlsrl_jax.data.published import medmnist
from wlsrl_jax.data.published.common import DatasetSpec, Problem, Record
from wlsrl_jax.data.published.oct2017 import CLASSES


def scan(source: Path) -> tuple[list[Record], list[Problem]]:
    """Reads ``octmnist.npz`` (28 pixels), ``octmnist_64.npz``, ``_128`` or ``_224``."""
    return medmnist.scan_written(source, CLASSES)


SPEC = DatasetSpec(
    name="octmnist",
    modality="oct",
    classes=CLASSES,
    normal="NORMAL",
    scan=scan,
    size=(128, 128),
    homepage="https://medmnist.com",
    license="CC BY 4.0",
    citation="Yang et al., MedMNIST v2, Scientific Data 10:41, 2023, doi "
    "10.1038/s41597-022-01721-8; images of Kermany et al., Cell 172(5), 2018.",
    published={"all": {"all": 109309}},
    open=functools.partial(medmnist.opened, "octmnist", CLASSES),
)
