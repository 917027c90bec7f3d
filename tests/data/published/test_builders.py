"""Every data set in its published layout, with the publishers' quirks, and in wrong ones."""

import collections
import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from tests import sources
from tests.tiny import load_config
from wlsrl_jax.data.dataset import load_dataset
from wlsrl_jax.data.prepare.__main__ import prepare
from wlsrl_jax.data.prepared import load_prepared
from wlsrl_jax.data.published import all_specs, get_spec, layout
from wlsrl_jax.data.published.common import Problem, Record, count_notes
from wlsrl_jax.data.published.opening import open_dataset
from wlsrl_jax.data.text.tables import read_table, read_xlsx
from wlsrl_jax.files import Mistake


def scan(name, source, scratch):
    with open_dataset(name, source, scratch) as (spec, folder):
        records, problems = spec.scan(folder)
        assert all((folder / r.path).is_file() for r in records)
    assert not scratch.exists()
    return records, problems


def run(name, source, data_dir, **options):
    console = Console(file=io.StringIO(), width=200)
    path = prepare(name, source, str(data_dir), size=(32, 32), console=console, **options)
    return json.loads(path.read_text()), console.file.getvalue()


# images, by rule left out, patients (0: none), official splits
EXPECTED = {
    "octdl": (56, 0, 28, {"": 56}),
    "octid": (30, 0, 0, {"": 30}),
    "duke_srinivasan": (24, 0, 12, {"": 24}),
    "oct_c8": (56, 0, 0, {"train": 24, "validation": 16, "test": 16}),
    "octmnist": (25, 0, 0, {"train": 15, "validation": 5, "test": 5}),
    "messidor2": (39, 1, 20, {"": 39}),
    "idrid": (20, 0, 0, {"train": 15, "test": 5}),
    "deepdrid": (79, 1, 20, {"train": 59, "validation": 20}),
    "ddr": (25, 4, 0, {"train": 15, "validation": 5, "test": 5}),
    "retinamnist": (25, 0, 0, {"train": 15, "validation": 5, "test": 5}),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return {
        name: make(tmp_path_factory.mktemp(name) / "source")
        for name, make in sources.PUBLISHED.items()
    }


def test_every_builder_has_a_fixture_and_says_what_it_is():
    assert set(all_specs()) == set(sources.PUBLISHED) | set(sources.LAYOUTS)
    for spec in all_specs().values():
        assert spec.citation and spec.license and spec.homepage.startswith("https://")
        assert spec.published and spec.scan.__doc__
        for counts in spec.published.values():
            assert set(counts) <= {*spec.classes, "all"}
            if set(counts) == {*spec.classes, "all"}:
                ungradable = 4 if spec.name == "messidor2" and counts["all"] == 1748 else 0
                assert sum(counts[c] for c in spec.classes) + ungradable == counts["all"]


@pytest.mark.parametrize("name", EXPECTED)
def test_published_layouts_are_read(name, published, tmp_path):
    records, problems = scan(name, published[name], tmp_path / "scratch")
    count, by_rule, patients, official = EXPECTED[name]
    assert [p for p in problems if not p.by_rule] == []
    assert len(records) == count and len(problems) == by_rule
    assert len({r.id for r in records}) == count
    assert len({r.patient for r in records} - {None}) == patients
    assert collections.Counter(r.official for r in records) == official
    assert {r.label for r in records} == set(range(len(get_spec(name).classes)))


@pytest.mark.parametrize("name", EXPECTED)
def test_published_layouts_become_examples(name, published, tmp_path):
    before = sorted(published[name].rglob("*"))
    manifest, output = run(name, published[name], tmp_path, allow_missing_classes=True)
    assert sorted(published[name].rglob("*")) == before  # nothing is written into a source
    found = load_prepared(name, str(tmp_path))
    assert sum(len(s) for s in found.splits.values()) == EXPECTED[name][0]
    assert found.splits["train"][0]["image"].std() > 5
    assert "note: " in output and f"{name} here: " in output
    assert manifest["notes"][0] in output
    assert len(manifest["skipped"]) == EXPECTED[name][1]
    assert ("names no patients" in output) == (EXPECTED[name][2] == 0)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    again, output = run(name, published[name], tmp_path, allow_missing_classes=True)
    assert again == manifest and "prepared already" in output


def test_labels_are_those_of_the_publisher(published, tmp_path):
    records, _ = scan("messidor2", published["messidor2"], tmp_path / "s")
    by_id = {r.id: r for r in records}
    assert by_id["IM004001"].label == 0 and by_id["IM004016"].label == 2
    assert by_id["20051020_43842_0100_PP"].label == 4
    assert by_id["IM004001"].patient == "im004000"  # the ungradable left eye still pairs
    records, _ = scan("idrid", published["idrid"], tmp_path / "s")
    by_id = {r.id: r for r in records}
    assert by_id["train/IDRiD_002"].label == 1 and by_id["test/IDRiD_003"].label == 2
    records, _ = scan("deepdrid", published["deepdrid"], tmp_path / "s")
    by_id = {r.id: r for r in records}
    assert [by_id[i].label for i in ("2_l1", "2_r2", "20_l2")] == [2, 3, 0]
    assert [by_id[i].label for i in ("7_r3", "7_l3")] == [2, 3]  # the graded eye, not the name's
    records, _ = scan("ddr", published["ddr"], tmp_path / "s")
    assert all(r.label == (int(r.id.split("-")[1]) - 1000) % 6 for r in records)
    records, _ = scan("octid", published["octid"], tmp_path / "s")
    assert all(get_spec("octid").classes[r.label] in r.id for r in records)
    records, _ = scan("duke_srinivasan", published["duke_srinivasan"], tmp_path / "s")
    assert all(get_spec("duke_srinivasan").classes[r.label] in r.patient for r in records)


def test_attributes(published, tmp_path):
    def kept(name):
        records, _ = scan(name, published[name], tmp_path / "s")
        return {r.id: r.attributes for r in records}

    assert kept("octdl")["amd_1001"] == {
        "eye": "left", "sex": "F", "year": "2019", "condition": "wet"}  # fmt: skip
    assert kept("messidor2")["IM004001"] == {"eye": "right", "dme": "0.0"}
    assert kept("deepdrid")["2_r1"] == {"eye": "right", "quality": "0"}
    assert kept("deepdrid")["7_r3"]["eye"] == "left"
    assert kept("idrid")["train/IDRiD_002"] == {"dme_risk": "1"}
    manifest, _ = run("octdl", published["octdl"], tmp_path)
    assert {i["attributes"]["eye"] for i in manifest["images"]} == {"left", "right"}
    assert hash(Record("a", "a", 0, None, attributes={"eye": "left"}))


def test_eyepacs_attributes_and_its_published_test_set(tmp_path):
    folder = sources.eyepacs(tmp_path / "source")
    records, _ = scan("eyepacs", folder, tmp_path / "s")
    assert {r.attributes["eye"] for r in records} == {"left", "right"}
    sources.write(folder / "test" / "9000_left.jpeg", sources.picture(9000, "fundus"))
    table = "image,level,Usage\n9000_left,3,Public\n"
    sources.write(folder / "retinopathy_solution.csv", table.encode())
    records, problems = scan("eyepacs", folder, tmp_path / "s")
    test = [r for r in records if r.official == "test"]
    assert [(r.id, r.label, r.patient) for r in test] == [("9000_left", 3, "9000")]
    assert not problems


def kermany(folder):
    """Names are CLASS-PATIENT-NUMBER; all the versions share them."""
    shutil.rmtree(sources.oct2017(folder) / "val")
    return folder


def version2(tmp_path):
    return sources.tar_gz(tmp_path / "OCT2017.tar.gz", kermany(tmp_path / "x" / "OCT2017"))


def version3(tmp_path):
    kermany(tmp_path / "x" / "CellData" / "OCT")
    for split in ("train", "test"):
        for name in ("NORMAL", "PNEUMONIA"):
            path = tmp_path / "x" / "CellData" / "chest_xray" / split / name / "a.jpeg"
            sources.write(path, sources.picture(1))
    return sources.zip_folder(tmp_path / "ZhangLabData.zip", tmp_path / "x")


def kaggle(tmp_path):
    folder = sources.oct2017(tmp_path / "x" / "OCT2017 ")
    shutil.copytree(folder, tmp_path / "x" / "oct2017" / "OCT2017 ")
    return tmp_path / "x"


@pytest.mark.parametrize("make", [version2, version3, kaggle])
def test_oct2017_in_all_its_versions(make, tmp_path):
    source = make(tmp_path)
    records, problems = scan("oct2017", source, tmp_path / "scratch")
    assert not problems
    assert len(records) == (40 if make is kaggle else 32)
    assert {r.patient for r in records} >= {"0", "1000", "3005"}
    assert "train/CNV/CNV-0-0" in {r.id for r in records}  # the same in every version


def test_ids_do_not_depend_on_the_wrapping(tmp_path):
    one, _ = scan("oct2017", version2(tmp_path), tmp_path / "scratch")
    two, _ = scan("oct2017", tmp_path / "x", tmp_path / "scratch")
    assert {r.id: r.label for r in one} == {r.id: r.label for r in two}


def test_copies_of_kaggle_with_other_names(published, tmp_path):
    folder = tmp_path / "idrid" / "Disease-Grading"
    inner = published["idrid"] / "B. Disease Grading" / "B. Disease Grading"
    shutil.copytree(inner / "1. Original Images" / "a. Training Set",
                    folder / "1-Original-Images" / "a_Training_Set")  # fmt: skip
    shutil.copytree(inner / "1. Original Images" / "b. Testing Set",
                    folder / "1-Original-Images" / "b_Testing_Set")  # fmt: skip
    shutil.copytree(inner / "2. Groundtruths", folder / "2-Groundtruths")
    for path in (folder / "2-Groundtruths").iterdir():
        path.rename(path.with_name(path.name[3:].replace(" ", "_")))
    assert len(scan("idrid", tmp_path / "idrid", tmp_path / "s")[0]) == 20

    other = shutil.copytree(published["messidor2"], tmp_path / "messidor2")
    (other / "IMAGES").rename(other / "preprocess")
    (other / "messidor-2.csv").unlink()
    text = (other / "messidor_data.csv").read_text()
    text = text.replace("image_id", "id_code").replace("adjudicated_dr_grade", "diagnosis")
    (other / "messidor_data.csv").write_text(text)
    records, problems = scan("messidor2", other, tmp_path / "s")
    assert len(records) == 39 and {r.patient for r in records} == {None}

    flat = tmp_path / "ddr" / "DR_grading" / "DR_grading"
    rows = [(f"{k}.jpg", k % 5) for k in range(10)]
    for name, seed in rows:
        sources.write(flat / name, sources.picture(seed, "fundus"))
    sources.write_table(tmp_path / "ddr" / "DR_grading.csv", ["id_code", "diagnosis"], rows)
    assert len(scan("ddr", tmp_path / "ddr", tmp_path / "s")[0]) == 10


WRONG = {
    "octdl": "OCTDL_labels.csv",
    "octid": "does not hold the class folders NORMAL/ AMRD/ CSR/ DR/ MH/",
    "duke_srinivasan": "does not hold a folder a patient, AMD1/ DME1/ NORMAL1/",
    "oct_c8": "does not hold train/, val/ and test/",
    "oct2017": "does not hold train/ and test/ with CNV/ DME/ DRUSEN/ NORMAL/",
    "octmnist": "name one of octmnist.npz, octmnist_64.npz, octmnist_128.npz, octmnist_224.npz",
    "retinamnist": "name one of retinamnist.npz",
    "messidor2": r"does not hold messidor_data.csv \(from Kaggle\)",
    "idrid": "does not hold 'B. Disease Grading'",
    "deepdrid": "does not hold regular-fundus-training/",
    "ddr": r"does not hold train.txt \(in DR_grading/\)",
    "eyepacs": "trainLabels.csv is missing",
    "aptos2019": "train.csv is missing",
}


@pytest.mark.parametrize("name", sorted(all_specs()))
def test_wrong_layouts_say_what_is_missing(name, tmp_path):
    sources.write(tmp_path / "source" / "pictures" / "a.jpg", sources.picture(0))
    with pytest.raises(Mistake, match=WRONG[name]) as caught:
        run(name, tmp_path / "source", tmp_path / "data")
    if "mnist" not in name:
        assert f"({name}: Reads " in str(caught.value)  # the layout that is expected
    assert not (tmp_path / "data").exists()


def spoil(name, published, tmp_path, change):
    folder = shutil.copytree(published[name], tmp_path / name)
    change(folder)
    with pytest.raises(Mistake) as caught:
        run(name, folder, tmp_path / "data", allow_missing_classes=True)
    return str(caught.value)


def test_problems_of_each_layout_are_named(published, tmp_path):
    def duke(folder):
        sources.write(folder / "Publication_Dataset" / "Extra" / "a.tif", sources.picture(0))

    assert "Publication_Dataset/Extra: not a patient's folder" in spoil(
        "duke_srinivasan", published, tmp_path, duke
    )

    def messidor(folder):
        path = folder / "messidor-2.csv"
        path.write_text("\n".join(path.read_text().splitlines()[:-1]))

    text = spoil("messidor2", published, tmp_path, messidor)
    assert "2 files or rows" in text and "not in messidor-2.csv, so the patient is unknown" in text

    def deepdrid(folder):
        part = folder / "DeepDRiD-1.1/regular_fundus_images/regular-fundus-training"
        (part / "Images/3/3_l1.jpg").unlink()
        sources.write(part / "Images/4/extra.jpg", sources.picture(0, "fundus"))

    text = spoil("deepdrid", published, tmp_path, deepdrid)
    assert "regular-fundus-training.csv line 10 (3_l1): there is no such image" in text
    assert "Images/4/extra.jpg: no row in regular-fundus-training.csv" in text

    def ddr(folder):
        path = folder / "DR_grading" / "valid.txt"
        path.write_text(path.read_text().replace(".jpg 1\n", ".jpg 9\n").replace(" 2\n", "\n"))

    text = spoil("ddr", published, tmp_path, ddr)
    assert "label 9 is not one of 0, 1, 2, 3, 4" in text and "label '' is not a number" in text

    def idrid(folder):
        part = folder / "B. Disease Grading/B. Disease Grading/1. Original Images/b. Testing Set"
        shutil.rmtree(part)

    assert "has no testing set" in spoil("idrid", published, tmp_path, idrid)


def test_deepdrid_evaluation_from_a_workbook(published, tmp_path):
    folder = shutil.copytree(published["deepdrid"], tmp_path / "source")
    part = folder / "DeepDRiD-1.1/regular_fundus_images/Online-Challenge1&2-Evaluation"
    for name in ("347_l1", "347_r1"):
        sources.write(part / "Images" / "347" / f"{name}.jpg", sources.picture(347, "fundus"))
    with pytest.raises(ValueError, match=r"Challenge1_labels\.xlsx is missing"):
        scan("deepdrid", folder, tmp_path / "s")
    sources.write_table(part / "challenge1_labels.csv", ["image_id", "DR_Levels"],
                        [["347_l1", 4], ["347_r1", 2]])  # fmt: skip
    records, problems = scan("deepdrid", folder, tmp_path / "s")
    test = {r.id: r.label for r in records if r.official == "test"}
    assert test == {"347_l1": 4, "347_r1": 2} and len(problems) == 1
    (part / "challenge1_labels.csv").unlink()
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["image_id", "DR_Levels"], ["347_l1", 4], ["347_r1", 2], [None, None]):
        book.active.append(row)
    book.save(part / "Challenge1_labels.xlsx")
    again, problems = scan("deepdrid", folder, tmp_path / "s")
    assert {r.id: r.label for r in again if r.official == "test"} == test and len(problems) == 1


def test_a_workbook_without_openpyxl_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.xlsx").write_bytes(b"no workbook")
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(ValueError, match=r"save it as CSV .* pip install 'wlsrl_jax\[excel\]'"):
        read_xlsx(tmp_path / "a.xlsx")


def test_a_damaged_workbook_is_named(tmp_path):
    pytest.importorskip("openpyxl")
    (tmp_path / "a.xlsx").write_bytes(b"no workbook")
    with pytest.raises(ValueError, match=r"a\.xlsx is not a readable workbook"):
        read_table(tmp_path / "a.xlsx", ["a"])


def test_tables_are_forgiven_their_form(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffImage ; LEVEL;;\r\n a.png; 3 ;;\r\n;;;\r\nb.png;4\r\n".encode())
    rows = read_table(path, ["image", "level"], ["sex"])
    assert rows == [{"image": "a.png", "level": "3", "sex": ""},
                    {"image": "b.png", "level": "4", "sex": ""}]  # fmt: skip
    path.write_bytes(b"image,level\n\xff\xfe,3\n")
    with pytest.raises(ValueError, match=r"a\.csv is not a readable CSV file"):
        read_table(path, ["image"])
    path.write_text("")
    with pytest.raises(ValueError, match="no column image; it has: nothing"):
        read_table(path, ["image"])


def test_medmnist_is_read_without_unpickling_and_byte_for_byte(published, tmp_path):
    source = published["octmnist"] / "octmnist.npz"
    arrays = np.load(source)
    with open_dataset("octmnist", source, tmp_path / "s") as (spec, folder):
        import cv2

        for record in spec.scan(folder)[0]:
            split, number = record.id.split("/")
            image = cv2.imread(str(folder / record.path), cv2.IMREAD_GRAYSCALE)
            np.testing.assert_array_equal(image, arrays[f"{split}_images"][int(number)])
            assert record.label == arrays[f"{split}_labels"][int(number), 0]
    colours = np.load(published["retinamnist"] / "retinamnist_64.npz")
    with open_dataset("retinamnist", published["retinamnist"], tmp_path / "s") as (_, folder):
        image = cv2.imread(str(next((folder / "test" / "3").iterdir())))[..., ::-1]
        np.testing.assert_array_equal(image, colours["test_images"][3])


class Evil:
    def __reduce__(self):
        return (open, ("unpickled", "w"))


def test_hostile_and_damaged_medmnist_files(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = sources.medmnist_arrays(4, 1)
    cases = {
        "labels of another set": {**good, "test_labels": good["test_labels"] + 9},
        "an array less": {k: v for k, v in good.items() if k != "val_images"},
        "other pixels": {**good, "train_images": good["train_images"].astype(np.float32)},
        "too few labels": {**good, "train_labels": good["train_labels"][:3]},
        "objects": {**good, "train_images": np.array([Evil()] * 15, object)},
        "objects as labels": {**good, "train_labels": np.array([Evil()] * 15, object)},
        "other size": {**good, "train_images": good["train_images"][:, :20, :20]},
    }
    for arrays in cases.values():
        np.savez(tmp_path / "octmnist.npz", **arrays)
        with pytest.raises(Mistake, match="is not a MedMNIST file, or damaged"):
            run("octmnist", tmp_path / "octmnist.npz", tmp_path / "data")
    whole = (published["octmnist"] / "octmnist.npz").read_bytes()
    (tmp_path / "octmnist.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Mistake, match="is not a MedMNIST file, or damaged"):
        run("octmnist", tmp_path, tmp_path / "data")
    assert not (tmp_path / "unpickled").exists()
    assert not list((tmp_path / "data").glob(".*"))


def test_counts_are_compared_with_the_published_ones():
    spec = dataclasses.replace(
        get_spec("octid"), classes=("a", "b"), published={"1": {"a": 2, "all": 4}, "2": {"b": 3}}
    )
    records = [Record(str(k), str(k), k % 2, None) for k in range(3)]
    assert count_notes(spec, records, []) != []
    left_out = [Problem("x", "ungradable", by_rule=True)]
    assert count_notes(spec, records, left_out) == []
    assert (
        "a 2, b 1, all 3; as published, 1: a 2, all 4; 2: b 3"
        in (count_notes(spec, records, [Problem("x", "damaged")])[0])
    )


def test_a_layout_twice_at_one_depth_must_be_named(tmp_path):
    for name in ("one", "two"):
        sources.write(tmp_path / name / "train.txt", b"a.jpg 0\n")
    with pytest.raises(ValueError, match="several times: one, two. Name one in --source"):
        layout.find_root(tmp_path, layout.has_file("train.txt"), "train.txt")
    sources.write(tmp_path / "Train.TXT", b"")
    assert layout.find_root(tmp_path, layout.has_file("train.txt"), "train.txt") == tmp_path


@pytest.mark.parametrize("name", sorted(all_specs()))
def test_every_data_set_has_a_config(name):
    spec = get_spec(name)
    assert load_config(spec.modality, name).data.dataset == name
    other = {"oct": "fundus", "fundus": "oct"}[spec.modality]
    with pytest.raises(Mistake, match=f"configs/{other}.py has no data set '{name}'"):
        load_dataset(load_config(other, name).data, other)
