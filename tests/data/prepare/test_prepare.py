"""Preparation of folders in the published layouts, right and wrong."""

import collections
import csv
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from tensorflow_datasets.proto import tf_example_pb2

from tests import sources
from tests.tiny import ROOT, wlsrl
from wlsrl_jax.data.images.decode import presize
from wlsrl_jax.data.phantoms import source as phantom
from wlsrl_jax.data.prepare import write as write_prepared
from wlsrl_jax.data.prepare.__main__ import prepare
from wlsrl_jax.data.prepared import load_prepared
from wlsrl_jax.files import Mistake

SIZE = (32, 40)


def run(name, source, data_dir, **options):
    console = Console(file=io.StringIO(), width=150)
    path = prepare(name, source, str(data_dir), size=SIZE, console=console, **options)
    return json.loads(path.read_text()), console.file.getvalue()


@pytest.fixture(scope="module")
def octdl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("octdl")
    sources.octdl(folder / "source")
    manifest, output = run("octdl", folder / "source", folder / "data")
    return folder, manifest, output


@pytest.fixture
def source(octdl, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(octdl[0] / "source", tmp_path / "source")


@pytest.mark.parametrize("name", sorted(sources.LAYOUTS))
def test_every_layout_becomes_examples(name, tmp_path):
    folder = sources.LAYOUTS[name](tmp_path / "source")
    manifest, output = run(name, folder, tmp_path / "data")
    found = load_prepared(name, str(tmp_path / "data"))
    images = [p for p in folder.rglob("*") if p.suffix in (".jpg", ".jpeg", ".png")]
    assert sum(len(s) for s in found.splits.values()) == len(manifest["images"]) == len(images)
    by_id = {i["id"]: i for i in manifest["images"]}
    groups = {}
    for split, split_source in found.splits.items():
        for k in range(len(split_source)):
            example = split_source[k]
            entry = by_id[example["id"]]
            assert entry["split"] == split and entry["group"] == example["group"]
            assert found.classes[example["label"]] == entry["class"]
            assert split_source.labels()[k] == example["label"]
            groups.setdefault(example["group"], set()).add(split)
            original = (folder / entry["path"]).read_bytes()
            assert entry["sha256"] == hashlib.sha256(original).hexdigest()
            assert entry["bytes"] == len(original)
            want = np.asarray(Image.open(io.BytesIO(presize(original, found.modality, *SIZE))))
            np.testing.assert_array_equal(example["image"], want.reshape(example["image"].shape))
    assert all(len(s) == 1 for s in groups.values())
    assert "prepared" in output and "train" in output
    assert ("names no patients" in output) == (name == "aptos2019")


def test_patients_are_read_from_where_the_publisher_puts_them(tmp_path):
    expected = {"octdl": {"0", "105"}, "oct2017": {"1001", "3005"}, "eyepacs": {"0", "404"}}
    for name, some in expected.items():
        folder = sources.LAYOUTS[name](tmp_path / name)
        manifest, _ = run(name, folder, tmp_path / "data")
        assert some <= {i["patient"] for i in manifest["images"]}


def test_the_same_preparation_twice_does_nothing(octdl, capsys):
    folder, manifest, _ = octdl
    target = folder / "data" / "octdl" / "1.0.0"
    before = {p: p.stat().st_mtime_ns for p in target.iterdir()}
    again, output = run("octdl", folder / "source", folder / "data")
    assert again == manifest and "prepared already" in output
    assert before == {p: p.stat().st_mtime_ns for p in target.iterdir()}


def test_records_are_the_same_bytes_in_every_process(octdl):
    """Left alone, protobuf would order the fields of a record by the address of something."""
    folder = octdl[0] / "data" / "octdl" / "1.0.0"
    files = sorted(folder.glob("*.array_record-*"))
    records = [r for f in files for r in ArrayRecordReader(str(f)).read_all()]
    assert len(records) == 84
    for record in records:
        names = [record.index(b"\n%c%b\x12" % (len(n), n)) for n in (b"group", b"id", b"label")]
        assert names == sorted(names)
        parsed = tf_example_pb2.Example.FromString(record)
        assert parsed.SerializeToString(deterministic=True) == record


@given(st.integers(1, 300_000), st.integers(256, 3_000_000))
def test_files_are_even_and_bounded(count, pixels):
    files = write_prepared.shards(count, pixels)
    assert sum(files) == count and max(files) - min(files) <= 1 and min(files) >= 1
    assert max(files) * pixels <= write_prepared._SHARD + pixels
    assert len(files) == 1 or (max(files) + 1) * pixels * 2 > write_prepared._SHARD


def test_a_split_in_several_files_is_read_in_order(source, octdl, tmp_path, monkeypatch):
    monkeypatch.setattr(write_prepared, "_SHARD", 20 * 32 * 40)
    manifest, _ = run("octdl", source, tmp_path / "data")
    folder = tmp_path / "data" / "octdl" / "1.0.0"
    assert len(list(folder.glob("octdl-train.array_record-*-of-00003"))) == 3
    assert manifest == octdl[1]
    one = load_prepared("octdl", str(octdl[0] / "data")).splits
    several = load_prepared("octdl", str(tmp_path / "data")).splits
    for split, expected in one.items():
        for k in range(len(expected)):
            found = several[split][k]
            assert found["id"] == expected[k]["id"]
            np.testing.assert_array_equal(found["image"], expected[k]["image"])


def test_another_preparation_needs_overwrite(source, octdl, tmp_path):
    data = shutil.copytree(octdl[0] / "data", tmp_path / "data")
    with pytest.raises(Mistake, match="--overwrite"):
        run("octdl", source, data, seed=5)
    manifest, _ = run("octdl", source, data, seed=5, overwrite=True)
    assert manifest["settings"]["seed"] == 5
    assert len(load_prepared("octdl", str(data)).splits["train"]) == manifest["splits"]["train"]


def full_disk(*_):
    raise OSError("full")


def test_a_failing_overwrite_keeps_what_is_there(source, octdl, tmp_path, monkeypatch):
    data = shutil.copytree(octdl[0] / "data", tmp_path / "data")
    monkeypatch.setattr(write_prepared, "presize", full_disk)
    with pytest.raises(OSError, match="full"):
        run("octdl", source, data, seed=5, overwrite=True)
    found = load_prepared("octdl", str(data))
    assert found.splits["train"][0]["image"].shape == (*SIZE, 1)
    assert sorted(p.name for p in data.iterdir()) == ["octdl"]


def test_killed_preparation_can_be_started_again(tmp_path):
    source = sources.octdl(tmp_path / "source", patients=60)
    command = [sys.executable, "-m", "wlsrl_jax.data.prepare", "--dataset=octdl",
               f"--source={source}", f"--data_dir={tmp_path / 'data'}"]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    staging = tmp_path / "data" / ".octdl.preparing"
    deadline = time.monotonic() + 60
    while not staging.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not (tmp_path / "data" / "octdl").exists():  # else it was quicker than we
        with pytest.raises(Mistake, match="not prepared"):
            load_prepared("octdl", str(tmp_path / "data"))
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert len(load_prepared("octdl", str(tmp_path / "data")).splits["train"]) > 0
    assert not staging.exists()


def bits16(size=(40, 30)):
    buffer = io.BytesIO()
    Image.fromarray(np.full(size[::-1], 40000, np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def rgba(size=(40, 30)):
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size[::-1], 4), 200, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def edit_table(source, change):
    path = source / "OCTDL_labels.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(change(rows))


BAD_FILES = {
    "truncated JPEG": (sources.picture(0, size=(64, 64))[:1000], "truncated or damaged"),
    "text named .jpg": (b"left eye, see letter", "not an image in any known format"),
    "zero bytes": (b"", "the file is empty (0 bytes)"),
    "one pixel": (sources.picture(0, size=(1, 1)), "1x1 pixels; a side is below 16 pixels"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_all_named_and_fail_the_command(case, source, tmp_path):
    data, reason = BAD_FILES[case]
    for name in ("AMD/amd_001.jpg", "RVO/rvo_003.jpg"):
        (source / name).write_bytes(data)
    with pytest.raises(Mistake) as caught:
        run("octdl", source, tmp_path / "data")
    message = str(caught.value)
    assert message.startswith("2 files or rows cannot be used")
    assert f"AMD/amd_001.jpg: {reason}" in message and f"RVO/rvo_003.jpg: {reason}" in message
    assert "--on_bad_file=skip" in message
    assert not (tmp_path / "data").exists()


def test_skipped_files_are_recorded(source, tmp_path):
    for (data, _), number in zip(BAD_FILES.values(), range(4)):
        (source / "AMD" / f"amd_00{number}.jpg").write_bytes(data)
    manifest, output = run("octdl", source, tmp_path / "data", on_bad_file="skip")
    assert [s["path"] for s in manifest["skipped"]] == [f"AMD/amd_00{k}.jpg" for k in range(4)]
    assert all(s["reason"] for s in manifest["skipped"])
    assert "skipped AMD/amd_002.jpg: the file is empty (0 bytes)" in output
    assert not {s["path"] for s in manifest["skipped"]} & {i["path"] for i in manifest["images"]}


def test_sixteen_bit_and_transparent_images_are_read(source, tmp_path):
    for name, data in (("amd_000", bits16()), ("amd_001", rgba())):
        (source / "AMD" / f"{name}.jpg").unlink()
        (source / "AMD" / f"{name}.png").write_bytes(data)
    manifest, _ = run("octdl", source, tmp_path / "data")
    found = load_prepared("octdl", str(tmp_path / "data"))
    where = {i["id"]: i["split"] for i in manifest["images"]}
    for name, level in (("amd_000", round(40000 / 257)), ("amd_001", 200 * 200 // 255)):
        split = found.splits[where[name]]
        image = next(e["image"] for e in (split[k] for k in range(len(split))) if e["id"] == name)
        assert np.abs(image.astype(int) - level).max() <= 1


TABLES = {
    "row without a file": (
        lambda rows: [*rows, ["amd_999", "AMD", "7", ""]],
        "OCTDL_labels.csv line 86 (amd_999): there is no such image",
    ),
    "file without a row": (
        lambda rows: rows[:-1],
        "VID/vid_011.jpg: no row in OCTDL_labels.csv",
    ),
    "unknown class": (
        lambda rows: [rows[0], [rows[1][0], "GLAUCOMA", *rows[1][2:]], *rows[2:]],
        "disease 'GLAUCOMA' is not one of AMD",
    ),
    "other class than the folder": (
        lambda rows: [rows[0], [rows[1][0], "DME", *rows[1][2:]], *rows[2:]],
        "the table says DME, the folder AMD",
    ),
    "no patient": (
        lambda rows: [rows[0], [*rows[1][:2], "", ""], *rows[2:]],
        "AMD/amd_000.jpg (OCTDL_labels.csv line 2): no patient_id",
    ),
    "duplicate row": (
        lambda rows: [*rows, rows[1]],
        "OCTDL_labels.csv line 86 (amd_000): a second row for AMD/amd_000.jpg",
    ),
    "missing column": (
        lambda rows: [[r[0], r[1]] for r in rows],
        "OCTDL_labels.csv has no column patient_id; it has: file_name, disease",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_wrong_tables(case, source, tmp_path):
    change, message = TABLES[case]
    edit_table(source, change)
    with pytest.raises(Mistake) as caught:
        run("octdl", source, tmp_path / "data")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("7", "not one of 0, 1, 2, 3, 4"),
        ("-1", "not one of"),
        ("2.5", "not one of"),
        ("nan", "'' is not a number"),
        ("inf", "not one of"),
        ("mild", "not a number"),
        ("", "not a number"),
    ],
)
def test_grades_out_of_range(text, reason, tmp_path):
    source = sources.eyepacs(tmp_path / "source")
    path = source / "trainLabels.csv"
    path.write_text(path.read_text().replace("0_left,0", f"0_left,{text}", 1))
    with pytest.raises(Mistake) as caught:
        run("eyepacs", source, tmp_path / "data")
    assert "train/0_left.jpeg (trainLabels.csv line 2): label" in str(caught.value)
    assert reason in str(caught.value)


def test_duplicate_ids(source, tmp_path):
    shutil.copy(source / "AMD" / "amd_000.jpg", source / "DME" / "amd_000.jpg")
    with pytest.raises(Mistake, match=r"DME/amd_000\.jpg: the same name as AMD/amd_000\.jpg"):
        run("octdl", source, tmp_path / "data")
    folder = sources.aptos2019(tmp_path / "aptos")
    first = sorted((folder / "train_images").iterdir())[0]
    shutil.copy(first, first.with_suffix(".jpg"))
    with pytest.raises(Mistake, match=f"the same name as train_images/{first.stem}"):
        run("aptos2019", folder, tmp_path / "data")


def test_names_that_hide_the_patient(tmp_path):
    folder = sources.eyepacs(tmp_path / "eyepacs")
    (folder / "train" / "0_left.jpeg").rename(folder / "train" / "scan.jpeg")
    edited = (folder / "trainLabels.csv").read_text().replace("0_left,0", "scan,0", 1)
    (folder / "trainLabels.csv").write_text(edited)
    with pytest.raises(Mistake, match=r"train/scan\.jpeg .*PATIENT_left or PATIENT_right"):
        run("eyepacs", folder, tmp_path / "data")
    folder = sources.oct2017(tmp_path / "source")
    (folder / "train/CNV/CNV-0-0.jpeg").rename(folder / "train/CNV/scan1.jpeg")
    (folder / "train/DME/DME-1000-6.jpeg").rename(folder / "train/DME/CNV-1000-6.jpeg")
    with pytest.raises(Mistake) as caught:
        run("oct2017", folder, tmp_path / "data")
    assert "train/CNV/scan1.jpeg: the name is not CLASS-PATIENT-NUMBER" in str(caught.value)
    assert "train/DME/CNV-1000-6.jpeg: the name says CNV, the folder DME" in str(caught.value)


def test_wrong_folders(source, tmp_path):
    with pytest.raises(Mistake, match="none is not a directory"):
        run("octdl", tmp_path / "none", tmp_path / "data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Mistake, match="is empty; unpack"):
        run("octdl", tmp_path / "empty", tmp_path / "data")
    with pytest.raises(Mistake, match=r"trainLabels.csv is missing"):
        run("eyepacs", source, tmp_path / "data")
    for file in (source / "ERM").iterdir():
        file.unlink()
    with pytest.raises(Mistake, match="ERM has no image"):
        run("octdl", source, tmp_path / "data")
    (source / "ERM").rmdir()
    with pytest.raises(Mistake, match="ERM is missing"):
        run("octdl", source, tmp_path / "data")
    with pytest.raises(Mistake, match="aptos2019, .*eyepacs, .*oct2017, .*octdl"):
        run("mnist", source, tmp_path / "data")


def test_a_stray_file_is_a_problem_and_a_hidden_one_is_not(source, tmp_path):
    (source / "AMD" / ".DS_Store").write_bytes(b"x")
    (source / "AMD" / "Thumbs.db").write_bytes(b"x")
    run("octdl", source, tmp_path / "data")
    (source / "AMD" / "notes.docx").write_bytes(b"x")
    with pytest.raises(Mistake, match=r"AMD/notes\.docx: not an image file"):
        run("octdl", source, tmp_path / "data", overwrite=True)


def test_a_class_with_too_few_patients_is_an_error_that_names_it(source, tmp_path):
    def one_patient(rows):
        return [[*r[:2], "600" if r[1] == "VID" else r[2], ""] for r in rows]

    edit_table(source, one_patient)
    edit_table(source, lambda rows: [["file_name", "disease", "patient_id", "eye"], *rows[1:]])
    with pytest.raises(Mistake, match="class VID is missing in"):
        run("octdl", source, tmp_path / "data")
    manifest, _ = run("octdl", source, tmp_path / "data", allow_missing_classes=True)
    assert len(manifest["audit"]["missing_classes"]["VID"]) == 2


def test_identical_images_bring_their_patients_together(source, tmp_path):
    shutil.copy(source / "AMD" / "amd_000.jpg", source / "AMD" / "amd_005.jpg")
    shutil.copy(source / "AMD" / "amd_001.jpg", source / "NO" / "no_011.jpg")
    manifest, output = run("octdl", source, tmp_path / "data")
    group = {i["id"]: i["group"] for i in manifest["images"]}
    assert group["amd_000"] == group["amd_004"] == group["no_010"]
    assert manifest["audit"]["identical_sets"] == 2
    assert manifest["audit"]["identical_sets_across_patients"] == 2
    assert manifest["audit"]["identical_sets_across_classes"] == 1
    assert "byte-identical images: 2 sets" in output


def test_growth_keeps_known_images_where_they_were(source, octdl, tmp_path):
    folder, manifest, _ = octdl
    rows = []
    for k in range(20):
        sources.write(source / "ERM" / f"erm_1{k:02d}.jpg", sources.picture(5000 + k))
        rows.append([f"erm_1{k:02d}", "ERM", str(900 + k), ""])
    edit_table(source, lambda old: [*old, *rows])
    previous = folder / "data" / "octdl" / "1.0.0" / "manifest.json"
    grown, _ = run("octdl", source, tmp_path / "data", split_file=str(previous))
    split = {i["id"]: i["split"] for i in grown["images"]}
    assert all(split[i["id"]] == i["split"] for i in manifest["images"])
    assert len(split) == len(manifest["images"]) + 20
    new = [split[r[0]] for r in rows]
    assert {"train", "validation", "test"} == set(new)
    with pytest.raises(Mistake, match="neither a manifest.json nor a CSV"):
        run("octdl", source, tmp_path / "other", split_file=str(source / "OCTDL_labels.csv"))


def test_a_new_image_between_two_splits_is_left_out_and_named(source, octdl, tmp_path):
    folder, manifest, _ = octdl
    amd = {i["split"]: i for i in manifest["images"] if i["class"] == "AMD"}
    shutil.copy(source / amd["train"]["path"], source / "AMD" / "amd_500.jpg")
    patient = amd["test"]["patient"]
    edit_table(source, lambda rows: [*rows, ["amd_500", "AMD", patient, ""]])
    previous = folder / "data" / "octdl" / "1.0.0" / "manifest.json"
    grown, output = run("octdl", source, tmp_path / "data", split_file=str(previous))
    assert [s["path"] for s in grown["skipped"]] == ["AMD/amd_500.jpg"]
    assert "left out" in output
    assert "amd_500" not in {i["id"] for i in grown["images"]}


def test_official_split_is_kept_and_audited(tmp_path):
    folder = sources.oct2017(tmp_path / "source")
    manifest, output = run("oct2017", folder, tmp_path / "data", split="official")
    for image in manifest["images"]:
        assert (image["split"] == "test") == image["path"].startswith("test/")
    crossing = manifest["audit"]["groups_in_several_splits"]
    assert set(crossing) == {str(1000 * c + k) for c in range(4) for k in range(2)}
    assert "WARNING: 8 groups (patients) are in several splits" in output
    grouped, output = run("oct2017", folder, tmp_path / "grouped")
    assert grouped["audit"]["groups_in_several_splits"] == [] and "WARNING" not in output
    one = tmp_path / "data" / "oct2017" / "1.0.0" / "manifest.json"
    again, _ = run(
        "oct2017", folder, tmp_path / "again", split="official", split_file=str(one), seed=9
    )
    assert {i["id"]: i["split"] for i in again["images"]} == {
        i["id"]: i["split"] for i in manifest["images"]}  # fmt: skip
    two = tmp_path / "grouped" / "oct2017" / "1.0.0" / "manifest.json"
    with pytest.raises(Mistake, match="disagree on the test set"):
        run("oct2017", folder, tmp_path / "x", split="official", split_file=str(two))
    with pytest.raises(Mistake, match="no official split"):
        run("octdl", sources.octdl(tmp_path / "octdl"), tmp_path / "data", split="official")


def test_the_command_line(source, tmp_path, capsys):
    arguments = ["--dataset=octdl", f"--source={source}", f"--data_dir={tmp_path / 'data'}",
                 "--size=32x40"]  # fmt: skip
    assert wlsrl("prepare", *arguments) == 0
    assert "prepared" in capsys.readouterr().out
    (source / "NO" / "no_000.jpg").write_bytes(b"")
    assert wlsrl("prepare", *arguments, "--overwrite") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 1 files or rows") and "NO/no_000.jpg" in error
    with pytest.raises(SystemExit):
        wlsrl("prepare", *arguments, "--size=banana")
    assert "HEIGHTxWIDTH" in capsys.readouterr().err


def test_damaged_prepared_data_is_named(octdl, tmp_path):
    data = shutil.copytree(octdl[0] / "data", tmp_path / "data")
    manifest = data / "octdl" / "1.0.0" / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text[:100])
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        load_prepared("octdl", str(data))
    document = json.loads(text)
    document["images"] = [i for i in document["images"] if i["split"] == "train"][1:]
    manifest.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="records, its manifest"):
        load_prepared("octdl", str(data))


def test_decoded_images_are_kept_up_to_a_limit(octdl):
    data = str(octdl[0] / "data")
    plain = load_prepared("octdl", data).splits["train"]
    images = [plain[k]["image"] for k in range(len(plain))]
    room = sum(image.nbytes for image in images[:3])
    kept = load_prepared("octdl", data, cache_mib=(room + 1) / 2**20).splits["train"]
    for _ in range(2):
        for k, image in enumerate(images):
            np.testing.assert_array_equal(kept[k]["image"], image)
    assert [kept[k]["image"] is kept[k]["image"] for k in range(5)] == [True] * 3 + [False] * 2
    first = kept[0]
    first["label"] = -1  # the caller's own dict
    assert kept[0]["label"] == plain[0]["label"]
    with pytest.raises(ValueError, match="read-only"):
        first["image"][:] = 0


@pytest.mark.skipif("WLSRL_TEST_DATA" not in os.environ, reason="WLSRL_TEST_DATA is not set")
@pytest.mark.parametrize(("name", "folder"), [("octdl", "octdl"), ("eyepacs", "eyepacs_sample"),
                                              ("aptos2019", "aptos_sample")])  # fmt: skip
def test_real_images(name, folder, tmp_path):
    source = os.path.join(os.environ["WLSRL_TEST_DATA"], folder)
    options = {"allow_missing_classes": name == "aptos2019"}
    manifest, _ = run(name, Path(source), tmp_path / "data", **options)
    assert not manifest["skipped"] and not manifest["audit"]["groups_in_several_splits"]
    found = load_prepared(name, str(tmp_path / "data"))
    example = found.splits["test"][0]
    assert example["image"].std() > 5
    if name == "octdl":
        assert not manifest["audit"]["missing_classes"]
        assert manifest["audit"]["identical_sets_across_patients"] > 0


def test_near_identical_images_bring_their_patients_together(source, tmp_path):
    """One scan, saved again, under another patient and another class."""
    scan = phantom.PhantomSource("oct", "test", 1, 96, 128, 0)[0]["image"][..., 0]
    for name, pixels, quality in (("AMD/amd_000", scan, 95), ("NO/no_011", scan, 70)):
        Image.fromarray(pixels).save(source / f"{name}.jpg", quality=quality)
    found = {}
    for mode in ("group", "report", "off"):
        manifest, output = run("octdl", source, tmp_path / mode, near_duplicates=mode)
        groups = {i["id"]: i["group"] for i in manifest["images"]}
        found[mode] = groups["amd_000"] == groups["no_011"]
        assert manifest["audit"]["identical_sets"] == 0
        if mode == "off":
            assert "near_identical" not in manifest["audit"] and "near-identical" not in output
            continue
        near = manifest["audit"]["near_identical"]
        assert [pair[:2] for pair in near["list"]] == [["amd_000", "no_011"]]
        assert near["across_patients"] == near["across_classes"] == 1
        assert near["across_splits"] == (0 if mode == "group" else near["across_splits"])
        assert "near-identical images: 1 pairs" in output
    assert found == {"group": True, "report": False, "off": False}


def test_folds_divide_every_patient_once(source, tmp_path):
    manifest, _ = run("octdl", source, tmp_path / "data", folds=3)
    images = manifest["images"]
    for image in images:
        assert len(image["folds"]) == 3 and image["folds"].count("test") == 1
    for fold in range(3):
        splits = collections.defaultdict(set)
        for image in images:
            splits[image["group"]].add(image["folds"][fold])
        assert all(len(s) == 1 for s in splits.values())
        data = load_prepared("octdl", str(tmp_path / "data"), fold)
        by_id = {i["id"]: i for i in images}
        assert sum(len(s) for s in data.splits.values()) == len(images)
        for split, examples in data.splits.items():
            assert set(examples.labels()) == set(range(7))
            for k in range(len(examples)):
                example = examples[k]
                entry = by_id[example["id"]]
                assert entry["folds"][fold] == split and entry["group"] == example["group"]
                assert data.classes[example["label"]] == entry["class"]
    main = load_prepared("octdl", str(tmp_path / "data"))
    assert {s: len(v) for s, v in main.splits.items()} == manifest["splits"]
    with pytest.raises(ValueError, match="fold=3: octdl is prepared with 3 folds, 0 to 2"):
        load_prepared("octdl", str(tmp_path / "data"), 3)


def test_repeats_are_other_divisions(source, tmp_path):
    manifest, _ = run("octdl", source, tmp_path / "data", repeats=2)
    columns = [tuple(i["split"] for i in manifest["images"])]
    columns += [tuple(i["folds"][k] for i in manifest["images"]) for k in range(2)]
    assert len(set(columns)) == 3
    plain, _ = run("octdl", source, tmp_path / "plain")
    assert tuple(i["split"] for i in plain["images"]) == columns[0]
    with pytest.raises(Mistake, match="--folds and --repeats"):
        run("octdl", source, tmp_path / "x", folds=3, repeats=2)
    with pytest.raises(Mistake, match="--folds must be 2 or more"):
        run("octdl", source, tmp_path / "x", folds=1)
    with pytest.raises(Mistake, match="fold .: class .* is missing in"):
        run("octdl", source, tmp_path / "x", folds=10)


def test_a_published_split_file_is_followed(source, tmp_path):
    """What one group publishes, another prepares the same, whatever its seed."""
    manifest, _ = run("octdl", source, tmp_path / "data", folds=3)
    published = tmp_path / "data" / "octdl" / "1.0.0" / "splits.csv"
    again, _ = run("octdl", source, tmp_path / "again", folds=3, seed=9, split_file=str(published))
    keep = ("id", "split", "folds")
    assert [[i[k] for k in keep] for i in again["images"]] == [
        [i[k] for k in keep] for i in manifest["images"]
    ]
    with pytest.raises(Mistake, match="has 3 folds"):
        run("octdl", source, tmp_path / "x", folds=4, split_file=str(published))
    table = published.read_text() + "gone_1,train,train,train,test\n"
    (tmp_path / "more.csv").write_text(table)
    flags = {"folds": 3, "split_file": str(tmp_path / "more.csv")}
    with pytest.raises(
        Mistake, match=r"1 of 85 ids of the split file .* such as gone_1\. .*absent"
    ):
        run("octdl", source, tmp_path / "more", **flags)
    _, output = run("octdl", source, tmp_path / "more", **flags, allow_absent_ids=True)
    assert "1 of 85 ids of the split file match none of the images, such as gone_1" in output


def test_the_number_of_workers_changes_no_byte(source, tmp_path):
    content = []
    for workers in (1, 3):
        run("octdl", source, tmp_path / str(workers), workers=workers, folds=3)
        folder = tmp_path / str(workers) / "octdl" / "1.0.0"
        content.append({p.name: p.read_bytes() for p in sorted(folder.iterdir())})
    assert content[0].keys() == content[1].keys()
    assert any("array_record" in name for name in content[0])
    assert content[0] == content[1]
