"""The check that a picture is of the model's kind, measured."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wlsrl_jax.data.images.modality import looks_like, mismatch
from wlsrl_jax.data.phantoms.source import PhantomSource

DATA = os.environ.get("WLSRL_TEST_DATA")


@pytest.mark.parametrize("size", [64, 128, 224])
@pytest.mark.parametrize("modality", ["oct", "fundus"])
def test_phantoms(modality, size):
    other = {"oct": "fundus", "fundus": "oct"}[modality]
    source = PhantomSource(modality, "test", 60, size, size)
    pictures = [np.broadcast_to(source[k]["image"], (size, size, 3)) for k in range(60)]
    refused = sum(bool(mismatch(looks_like(p, modality), modality)) for p in pictures)
    caught = sum(bool(mismatch(looks_like(p, other), other)) for p in pictures)
    assert refused == 0 and caught >= 54, (refused, caught)


@pytest.mark.skipif(not DATA, reason="WLSRL_TEST_DATA is not set")
@pytest.mark.parametrize(
    ("folder", "modality"),
    [("octdl", "oct"), ("eyepacs_sample", "fundus"), ("aptos_sample", "fundus")],
)
def test_real_images(folder, modality):
    """At most 1% are refused wrongly, at least 95% of the other kind are."""
    other = {"oct": "fundus", "fundus": "oct"}[modality]
    names = sorted(
        p for p in Path(DATA, folder).rglob("*") if p.suffix in (".jpg", ".jpeg", ".png")
    )
    names = names[::5]
    pictures = [np.asarray(Image.open(p).convert("RGB")) for p in names]
    refused = np.mean([bool(mismatch(looks_like(p, modality), modality)) for p in pictures])
    caught = np.mean([bool(mismatch(looks_like(p, other), other)) for p in pictures])
    assert refused <= 0.01 and caught >= 0.95, (refused, caught)
