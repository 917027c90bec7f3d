"""Wide pixels, volumes and links in a source: one range for the set, nothing left out unsaid."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.data.images.wide import pages, png, scaled
from tests.tiny import wlsrl
from wlsrl_jax.data.audit import inspect as source_images
from wlsrl_jax.data.audit.__main__ import run as run_audit
from wlsrl_jax.data.phantoms.source import PHANTOMS, render
from wlsrl_jax.data.prepare.__main__ import prepare
from wlsrl_jax.data.prepared import load_prepared
from wlsrl_jax.data.published.folder import FolderOptions
from wlsrl_jax.files import Mistake

CLASSES = PHANTOMS["oct"].classes
OCT = FolderOptions(modality="oct", name="mine")
SIZE = (32, 48)


def phantom(label, seed):
    rng = np.random.Generator(np.random.Philox(key=[7, label << 32 | seed]))
    return np.asarray(render("oct", label, rng, 64, 96)[0])[..., 0]


def class_folders(folder, encode, count=4):
    """Phantoms in class folders; ``encode`` makes a file of 8-bit pixels."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            (folder / name / f"{k}.png").write_bytes(encode(phantom(label, k)))
    return folder


def twelve(pixels):
    return png(scaled(pixels, 12))


def eight(pixels):
    return png(pixels)


def prepared(source, data_dir, **flags):
    path = prepare("folder", source, str(data_dir), options=OCT, size=SIZE,
                   allow_missing_classes=True, **flags)  # fmt: skip
    return json.loads(path.read_text())


def stored(data_dir):
    splits = load_prepared("mine", str(data_dir)).splits.values()
    return {s[k]["id"]: s[k]["image"] for s in splits for k in range(len(s))}


def test_twelve_bits_are_prepared_as_eight(tmp_path, capsys):
    plain = prepared(class_folders(tmp_path / "8", eight), tmp_path / "data8")
    wide = prepared(class_folders(tmp_path / "12", twelve), tmp_path / "data12")
    assert "pixel_bits" not in json.dumps(plain)
    assert wide["pixel_bits"] == "12" == load_prepared("mine", str(tmp_path / "data12")).pixel_bits
    assert "0 to 4095 (12 bits)" in capsys.readouterr().out
    want, found = stored(tmp_path / "data8"), stored(tmp_path / "data12")
    assert want.keys() == found.keys()
    for name in want:
        np.testing.assert_array_equal(found[name], want[name])


def test_8_bit_and_twelve_bit_files_go_together(tmp_path):
    source = class_folders(tmp_path / "in", twelve)
    for path in source.glob("*/0.png"):
        path.write_bytes(eight((np.array(Image.open(path)) // 16).astype(np.uint8)))
    assert prepared(source, tmp_path / "data")["pixel_bits"] == "12"
    for name, pixels in stored(tmp_path / "data").items():
        assert pixels.max() > 150, name


def test_two_ranges_in_a_folder_are_refused(tmp_path):
    source = class_folders(tmp_path / "in", twelve)
    odd = source / CLASSES[0] / "0.png"
    odd.write_bytes(png(phantom(0, 0).astype(np.uint16)))
    with pytest.raises(Mistake, match=r"(?s)1 files .*/0.png: .*--pixel_bits"):
        prepared(source, tmp_path / "data")
    wide = prepared(source, tmp_path / "data", on_bad_file="skip")
    assert [s["path"] for s in wide["skipped"]] == [odd.relative_to(source).as_posix()]


def test_an_ambiguous_range_is_asked_for(tmp_path, capsys):
    source = class_folders(tmp_path / "in", lambda a: png(scaled(a, 16) // 13), count=2)
    flags = ["--dataset=folder", "--modality=oct", "--name=mine", f"--source={source}",
             f"--data_dir={tmp_path / 'data'}", "--allow_missing_classes"]  # fmt: skip
    assert wlsrl("prepare", *flags) == 2
    assert "are 0 to 5041. Say it with --pixel_bits=12" in capsys.readouterr().err
    assert wlsrl("prepare", *flags, "--pixel_bits=twelve") == 2
    assert "--pixel_bits=twelve: give the bits" in capsys.readouterr().err
    assert wlsrl("prepare", *flags, "--pixel_bits=14") == 0
    manifest = json.loads((tmp_path / "data" / "mine" / "1.0.0" / "manifest.json").read_text())
    assert manifest["pixel_bits"] == "14" == manifest["settings"]["pixel_bits"]


def test_8_bit_files_are_decoded_once_to_be_looked_at(tmp_path, monkeypatch):
    read = []
    opened = source_images.open_image
    monkeypatch.setattr(source_images, "open_image",
                        lambda *args: read.append(1) or opened(*args))  # fmt: skip
    prepared(class_folders(tmp_path / "in", eight), tmp_path / "data")
    assert len(read) == 4 * len(CLASSES)


def test_pages_are_images_that_stay_together(tmp_path, capsys):
    source = class_folders(tmp_path / "in", eight)
    volume = source / CLASSES[1] / "volume.tif"
    volume.write_bytes(pages([phantom(1, 20 + k) for k in range(3)]))
    manifest = prepared(source, tmp_path / "data", near_duplicates="off")
    found = [i for i in manifest["images"] if i["path"].endswith("volume.tif")]
    assert [i["frame"] for i in found] == [1, 2, 3] and len({i["sha256"] for i in found}) == 3
    assert len({i["group"] for i in found}) == 1 == len({i["split"] for i in found})
    assert {i["class"] for i in found} == {CLASSES[1]}
    assert "1 files of several pages or frames hold 3 images" in capsys.readouterr().out
    pictures = stored(tmp_path / "data")
    three = [pictures[i["id"]] for i in found]
    assert all((a != b).any() for a, b in zip(three, three[1:], strict=False))
    again = prepared(source, tmp_path / "data", near_duplicates="off")  # known again
    assert again == manifest


def test_a_runner_reads_wide_pixels_and_pages_too(tmp_path):
    pytest.importorskip("apache_beam", reason="Apache Beam (extra 'beam') is not installed")
    source = class_folders(tmp_path / "in", twelve, count=3)
    volume = source / CLASSES[1] / "volume.tif"
    volume.write_bytes(pages([scaled(phantom(1, 20 + k), 12) for k in range(3)]))
    here = prepared(source, tmp_path / "a")
    assert prepared(source, tmp_path / "b", beam_runner="DirectRunner") == here
    want, found = stored(tmp_path / "a"), stored(tmp_path / "b")
    assert all((want[name] == found[name]).all() for name in want) and len(want) == len(found)


def test_the_audit_sees_pages_and_wide_pixels(tmp_path):
    source = class_folders(tmp_path / "in", twelve)
    volume = source / CLASSES[1] / "volume.tif"
    volume.write_bytes(pages([scaled(phantom(1, 20 + k), 12) for k in range(3)]))
    document = run_audit("folder", source, tmp_path / "out", options=OCT)
    assert document["images"] == 4 * len(CLASSES) + 3
    assert document["odd"].get("blank", []) == [] and "12 bits" in document["notes"][0]


def test_a_linked_class_folder_is_not_lost(tmp_path):
    source = class_folders(tmp_path / "in", eight)
    name = CLASSES[2]
    (source / name).rename(tmp_path / name)
    (source / name).symlink_to(tmp_path / name)
    with pytest.raises(Mistake, match=f"{name}: a link to a folder, which is not followed"):
        prepared(source, tmp_path / "data")
    skipped = prepared(source, tmp_path / "data", on_bad_file="skip")["skipped"]
    assert [s["path"] for s in skipped] == [name]


def test_links_without_images_and_loops_are_no_problem(tmp_path):
    source = class_folders(tmp_path / "in", eight)
    (tmp_path / "notes").mkdir()
    (source / "notes").symlink_to(tmp_path / "notes")
    (source / "loop").symlink_to(source)
    manifest = prepared(source, tmp_path / "data")
    assert not manifest["skipped"] and not manifest["notes"]


def test_hidden_images_are_counted(tmp_path):
    source = class_folders(tmp_path / "in", eight)
    for name in (".a.png", "._b.png", ".DS_Store"):
        (source / CLASSES[0] / name).write_bytes(eight(phantom(0, 9)))
    notes = prepared(source, tmp_path / "data")["notes"]
    assert notes == [f"1 hidden images are passed over, such as {CLASSES[0]}/.a.png."]


def test_frames_of_a_volume_are_images_too(tmp_path):
    """DICOM without a window, 12 bits of 16: as the pages of a TIFF."""
    pytest.importorskip("pydicom")
    from tests.data.images.test_dicom import dicom

    source = class_folders(tmp_path / "in", eight)
    frames = np.stack([phantom(1, 20 + k) for k in range(3)])
    name = CLASSES[1]
    (source / name / "volume.dcm").write_bytes(dicom(scaled(frames, 12), bits=16, frames=3))
    manifest = prepared(source, tmp_path / "data", near_duplicates="off")
    found = [i for i in manifest["images"] if i["path"].endswith("volume.dcm")]
    assert [i["frame"] for i in found] == [1, 2, 3] and manifest["pixel_bits"] == "12"
    (source / name / "volume.dcm").unlink()
    (source / name / "volume.tif").write_bytes(pages(list(frames)))
    before = stored(tmp_path / "data")
    prepared(source, tmp_path / "data", near_duplicates="off", overwrite=True)
    after = stored(tmp_path / "data")
    for k in (1, 2, 3):
        np.testing.assert_array_equal(before[f"{name}/volume#{k}"], after[f"{name}/volume#{k}"])
