"""Pairs that show the same scan are found, and others are not; and what else an audit sees."""

import io
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests import sources
from tests.tiny import wlsrl
from wlsrl_jax.data.audit import near_duplicates
from wlsrl_jax.data.audit.findings import audit, sentences
from wlsrl_jax.data.audit.inspect import SourceImage
from wlsrl_jax.data.audit.look import fingerprint
from wlsrl_jax.data.audit.near_duplicates import find_pairs, similarity
from wlsrl_jax.data.phantoms import source as phantom
from wlsrl_jax.data.published.common import Record
from wlsrl_jax.tasks import MODALITIES

DATA = os.environ.get("WLSRL_TEST_DATA")


def picture(modality, index):
    """uint8 [H, W, 3]."""
    source = phantom.PhantomSource(modality, "test", index + 1, *MODALITIES[modality].size, 0)
    return np.broadcast_to(source[index]["image"], (*MODALITIES[modality].size, 3))


def image(pixels, name, modality="oct", patient=None, label=0, digest=None):
    look = fingerprint(pixels, modality)
    return SourceImage(Record(name, name, label, patient or name), digest or name, 1, look)


def jpeg(pixels, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


CHANGES = {
    "saved again": lambda x: jpeg(x, 60),
    "brighter": lambda x: np.clip(x.astype(int) + 15, 0, 255).astype(np.uint8),
    "smaller": lambda x: cv2.resize(x, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    "more contrast": lambda x: np.clip(1.15 * x, 0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("change", CHANGES)
def test_the_same_scan_is_found_among_others(modality, change):
    originals = [picture(modality, k) for k in range(12)]
    images = [image(p, f"a{k:02d}", modality) for k, p in enumerate(originals)]
    images.append(image(CHANGES[change](np.ascontiguousarray(originals[3])), "b", modality))
    pairs = find_pairs(images, modality)
    assert [(p.first, p.second) for p in pairs] == [(3, 12)]
    assert MODALITIES[modality].near_correlation <= pairs[0].correlation <= 1.0


def test_a_shifted_scan_is_found():
    scan = picture("oct", 3)
    shifted = np.roll(scan, (3, 6), axis=(0, 1))
    assert len(find_pairs([image(scan, "a"), image(shifted, "b")], "oct")) == 1


def test_pairs_inside_one_patient_and_class_are_left_out():
    scan = np.ascontiguousarray(picture("oct", 3))
    again = jpeg(scan, 60)
    first, second = image(scan, "a", patient="p"), image(again, "b", patient="p")
    assert find_pairs([first, second], "oct") == []
    other_class = image(again, "b", patient="p", label=1)
    assert len(find_pairs([first, other_class], "oct")) == 1
    same_file = image(scan, "b", patient="q", digest="a")
    assert find_pairs([first, same_file], "oct") == []  # counted as byte-identical
    assert find_pairs([first], "oct") == []


def test_blocks_change_nothing(monkeypatch):
    scans = [np.ascontiguousarray(picture("oct", k)) for k in range(5)]
    images = [image(s, f"a{k}") for k, s in enumerate(scans)]
    images += [image(jpeg(s, 70), f"b{k}") for k, s in enumerate(scans)]
    whole = find_pairs(images, "oct", workers=1)
    monkeypatch.setattr(near_duplicates, "_BLOCK_ENTRIES", 30)
    assert find_pairs(images, "oct", workers=3) == whole
    assert {(p.first, p.second) for p in whole} == {(k, k + 5) for k in range(5)}


textures = st.integers(0, 2**32 - 1).map(
    lambda s: np.random.default_rng(s).integers(0, 256, (48, 48)).astype(np.uint8)
)


@given(textures, textures)
@settings(max_examples=30)
def test_similarity_is_symmetric_and_one_for_the_same(a, b):
    assert similarity(a, b) == pytest.approx(similarity(b, a))
    assert similarity(a, a) == pytest.approx(1.0, abs=1e-4)
    assert -1.0001 <= similarity(a, b) <= 1.0001
    assert (similarity(a, b) > 0.5) == (a == b).all()  # noise is like no other noise


def test_pictures_without_texture_are_like_nothing():
    flat = np.full((48, 48), 128, np.uint8)
    assert similarity(flat, flat) == 0.0


def test_odd_images_are_named():
    good = [image(np.ascontiguousarray(picture("oct", k)), f"good{k}") for k in range(3)]
    bad = [
        image(np.full((128, 256, 3), 30, np.uint8), "blank"),
        image(np.full((128, 256, 3), 255, np.uint8), "white"),
        image(np.ascontiguousarray(picture("fundus", 0)), "eye"),
        image(cv2.resize(picture("oct", 5), (900, 450)), "large"),
    ]
    found = audit([*good, *bad], [], "oct")
    assert found["odd"]["saturated"] == ["white"]
    assert found["odd"]["blank"] == ["blank", "white"]
    assert "eye" in found["odd"]["modality"]
    assert not {g.record.id for g in good} & set(found["odd"]["modality"])
    assert found["odd"]["size"] == ["large"]
    assert found["sizes"]["largest"] == [450, 900]
    assert any("1 images, more than half of it is white (over-" in s for s in sentences(found))


def test_the_command_writes_a_page_and_a_document(tmp_path, capsys):
    folder = sources.octdl(tmp_path / "source")
    scan = np.ascontiguousarray(picture("oct", 3))
    Image.fromarray(scan[..., 0]).save(folder / "AMD" / "amd_000.jpg", quality=95)
    Image.fromarray(scan[..., 0]).save(folder / "NO" / "no_011.jpg", quality=60)
    (folder / "VID" / "vid_003.jpg").write_bytes(b"no image")
    output = tmp_path / "out"
    arguments = ["--dataset=octdl", f"--source={folder}", f"--output={output}"]
    assert wlsrl("audit", *arguments) == 0
    text = capsys.readouterr().out
    assert "near-identical images: 1 pairs, 1 of them under several patient ids, 1 under" in (
        " ".join(text.split())
    )
    assert "unusable VID/vid_003.jpg" in text
    document = json.loads((output / "audit.json").read_text())
    assert document["near_identical"]["list"][0][:2] == ["amd_000", "no_011"]
    assert document["unusable"][0]["path"] == "VID/vid_003.jpg"
    page = (output / "audit.html").read_text()
    assert page.count("data:image/jpeg") >= 2 and "amd_000" in page and "http" not in page
    assert wlsrl("audit", *arguments, "--hide_ids") == 0
    hidden = (output / "audit.html").read_text()
    assert not any(name in hidden for name in ("amd_0", "no_0", "vid_0"))
    assert sorted(p.name for p in output.iterdir()) == ["audit.html", "audit.json"]
    wrong = wlsrl("audit", "--dataset=octdl", "--source=nowhere", f"--output={output}")
    assert wrong == 2 and "--source=nowhere is not a directory" in capsys.readouterr().err


@pytest.mark.skipif(not DATA, reason="WLSRL_TEST_DATA is not set")
def test_real_scans_in_octdl(tmp_path):
    """Counted by hand: 48 sets of identical files; every pair was looked at."""
    arguments = ["--dataset=octdl", f"--source={Path(DATA) / 'octdl'}", f"--output={tmp_path}"]
    assert wlsrl("audit", *arguments, "--pictures=1") == 0
    found = json.loads((tmp_path / "audit.json").read_text())
    assert found["identical_sets"] == 48 and found["identical_sets_across_patients"] == 42
    assert found["near_identical"]["pairs"] == 71
    assert found["near_identical"]["across_classes"] == 7
