"""The check that a picture can be graded, measured: few real images refused, nearly all else."""

import importlib
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from wlsrl_jax.data.images import quality

BENCHMARKS = Path(__file__).resolve().parents[3] / "experiments" / "benchmarks"
DATA = os.environ.get("WLSRL_TEST_DATA")
SEED = 2  # neither that of the fit nor that of the figures
KINDS = ("blank", "uniform", "saturated", "nearly black", "noise", "text: document",
         "text: few words", "text: drawn words", "text: table", "text: slide",
         "text: screenshot")  # fmt: skip


@pytest.fixture
def measured(monkeypatch):
    """Imports the measurement as its own command would."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("quality_check")


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_no_retina_are_found(measured, kind):
    assert tuple(measured.unusable_pictures.KINDS) == KINDS
    pictures = [measured.unusable_pictures.picture(kind, SEED, k) for k in range(40)]
    for modality in ("oct", "fundus"):
        missed = [k for k, p in enumerate(pictures) if not measured.flaws(p, modality)]
        assert len(missed) <= 2, (modality, missed)


@pytest.mark.parametrize("modality", ["oct", "fundus"])
def test_phantoms_pass(measured, modality):
    assert not [
        f for image in measured.phantoms(modality, 15) if (f := measured.flaws(image, modality))
    ]


@pytest.mark.skipif(not DATA, reason="WLSRL_TEST_DATA is not set")
def test_real_images_pass_as_they_are_and_changed(measured):
    rows = measured.false_alarms(Path(DATA), limit=100, changed=10)
    assert {row["set"] for row in rows} >= set(measured.FOLDERS)
    plain = [row for row in rows if row["change"] == "as it is"]
    assert all(row["refused"] <= 1 for row in plain), plain
    changed = [row for row in rows if row["change"] != "as it is"]
    assert sum(r["refused"] for r in changed) <= 0.01 * sum(r["images"] for r in changed), changed


def test_the_reasons_are_the_right_ones(measured):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (200, 300, 3), dtype=np.uint8)
    page = np.full((300, 220, 3), 255, np.uint8)
    for y in range(20, 290, 16):
        cv2.putText(page, "patient report of the eye", (10, y), 0, 0.45, (0, 0, 0), 1)
    found = {name: measured.flaws(image, "oct") for name, image in {
        "grey": np.full((64, 64, 3), 128, np.uint8), "night": noise // 12, "noise": noise,
        "white": np.full((64, 64, 3), 255, np.uint8), "page": page}.items()}  # fmt: skip
    assert found["grey"] == ("blank",) and found["noise"] == ("noise",)
    assert found["white"] == ("blank", "saturated") and "dark" in found["night"]
    assert "text" in found["page"]
    assert quality.reason(noise, "fundus") == quality.FLAWS["noise"]
    for side in ((16, 16), (16, 2000), (2000, 16)):
        assert measured.flaws(np.zeros((*side, 3), np.uint8), "fundus")[:1] == ("blank",)
