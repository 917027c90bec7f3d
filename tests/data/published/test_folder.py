"""A data set of one's own: class folders and tables, right and wrong."""

import io
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests import sources
from tests.tiny import load_config, run, tiny_config, wlsrl
from wlsrl_jax.data.dataset import load_dataset
from wlsrl_jax.data.prepare.__main__ import prepare
from wlsrl_jax.data.published.own_table import FolderOptions, ImageIndex
from wlsrl_jax.data.text.names import shown
from wlsrl_jax.files import Mistake

CLASSES = ("drusen", "healthy")


def class_folders(folder, classes=CLASSES, images=10, modality="oct", start=0):
    seed = start
    for name in classes:
        for k in range(images):
            kind, suffix = (("JPEG", "JPG"), ("PNG", "png"), ("TIFF", "tif"))[k % 3]
            sources.write(folder / name / f"s{seed}.{suffix}",
                          sources.picture(seed, modality, kind))  # fmt: skip
            seed += 1
    return folder


def table(folder, header, rows, images=40, modality="oct"):
    for k in range(images):
        sources.write(folder / "scans" / f"s{k}.png", sources.picture(k, modality, "PNG"))
    sources.write_table(folder / "labels.csv", header, rows)
    return folder


HEADER = ["file", "diagnosis", "who", "side", "part", "sex", "Birth date"]


def rows(images=40):
    return [[f"scans/s{k}.png", CLASSES[k // 2 % 2], f"p{k // 2}", ("OD", "os")[k % 2],
             ("train", "val", "TEST")[k // 4 % 3], "F", "1950-01-01"]
            for k in range(images)]  # fmt: skip


OPTIONS = dict(modality="oct", name="clinic", table="labels.csv", path_column="file",
               label_column="diagnosis", patient_column="who", eye_column="side",
               split_column="part", normal="healthy", attributes=("sex",))  # fmt: skip


def make(source, data_dir, options=None, **flags):
    console = Console(file=io.StringIO(), width=200)
    found = FolderOptions(**{"modality": "oct", **(options or {})})
    path = prepare("folder", source, str(data_dir), options=found, size=(32, 32),
                   console=console, **flags)  # fmt: skip
    return json.loads(path.read_text()), console.file.getvalue()


def fails(source, data_dir, match, options=None, **flags):
    with pytest.raises(Mistake, match=match) as caught:
        make(source, data_dir, options, **flags)
    return str(caught.value)


def test_class_folders(tmp_path):
    source = class_folders(tmp_path / "source")
    manifest, output = make(source, tmp_path)
    assert manifest["dataset"] == "folder" and manifest["normal"] == "healthy"
    assert manifest["classes"] == ["drusen", "healthy"] and len(manifest["images"]) == 20
    assert "cannot be" in output and "verified" in output  # no patients


def test_class_folders_below_splits_in_an_archive(tmp_path):
    for k, split in enumerate(("Train", "valid", "TEST")):
        class_folders(tmp_path / "x" / split, images=6, start=100 * k)
    source = sources.zip_folder(tmp_path / "mine.zip", tmp_path / "x")
    manifest, _ = make(tmp_path / "x", tmp_path / "a", split="official")
    test = [i for i in manifest["images"] if i["split"] == "test"]
    assert len(test) == 12 and all(i["path"].startswith("TEST/") for i in test)
    packed, _ = make(source, tmp_path / "zip", split="official")
    assert packed["splits"] == manifest["splits"] and len(packed["images"]) == 36
    for name in ("Train", "valid", "TEST"):
        (tmp_path / "x" / name).rename(tmp_path / "x" / f"{name}2")
    fails(tmp_path / "x", tmp_path / "b", "TEST2 holds folders and no image")


def test_a_table(tmp_path):
    source = table(tmp_path / "source", HEADER, rows())
    manifest, output = make(source, tmp_path / "data", OPTIONS)
    by_id = {i["id"]: i for i in manifest["images"]}
    assert len(by_id) == 40 and "names no patients" not in output
    one = by_id["scans/s3"]
    assert one["class"] == "healthy" and one["patient"] == "p1"
    assert one["attributes"] == {"sex": "F", "eye": "left"}
    assert "1950" not in json.dumps(manifest)
    assert manifest["settings"]["folder"]["patient_column"] == "who"
    official, _ = make(source, tmp_path / "other", OPTIONS, split="official")
    assert all((i["split"] == "test") == (int(i["id"][7:]) // 4 % 3 == 2)
               for i in official["images"])  # fmt: skip


@pytest.mark.parametrize(
    "cell", ["s{}", "s{}.png", "scans/s{}", "./scans/s{}.png", "scans\\s{}.png"]
)
def test_tables_name_images_in_many_ways(cell, tmp_path):
    found = [[cell.format(k), *r[1:]] for k, r in enumerate(rows())]
    manifest, _ = make(table(tmp_path / "s", HEADER, found), tmp_path / "data", OPTIONS)
    assert {i["id"] for i in manifest["images"]} == {f"scans/s{k}" for k in range(40)}


def test_no_cell_leads_out_of_the_source(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(sources.picture(1, kind="PNG"))
    cells = [str(secret), "../secret.png", "scans/../../secret.png", "..\\secret.png", "~/x.png",
             "/etc/passwd", "scans/link.png", "scans\0.png"]  # fmt: skip
    found = rows()
    for k, cell in enumerate(cells):
        found[k][0] = cell
    source = table(tmp_path / "source", HEADER, found)
    os.symlink(secret, source / "scans" / "link.png")
    os.symlink(tmp_path, source / "up")
    text = fails(source, tmp_path / "data", "files or rows cannot be used", OPTIONS)
    for number, cell in enumerate(cells, start=2):
        assert f"labels.csv line {number} ({shown(cell)})" in text
    assert "link that leaves --source" in text and text.count("there is no such image") == 7
    manifest, _ = make(source, tmp_path / "data", OPTIONS, on_bad_file="skip")
    assert len(manifest["images"]) == 32


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=30) | st.lists(st.sampled_from(["..", "/", "a", "\\", ".", "~"])).map("".join)
)
def test_any_cell_finds_an_image_of_the_source_or_none(tmp_path_factory, cell):
    folder = tmp_path_factory.getbasetemp() / "index"
    if not folder.exists():
        sources.write(folder / "a" / "a.png", b"x")
        sources.write(folder.parent / "a.png", b"outside")
    path, reason = ImageIndex(folder).find(cell)
    assert path in ("", "a/a.png") and bool(path) != bool(reason)


TABLES = {
    "no patient": (2, "", r"line 2 \(scans/s0.png\): no who: the image could be in train and test"),
    "no label": (1, "", "no diagnosis"),
    "odd split": (4, "holdout", "split 'holdout' is not one of train, val, test"),
    "no path": (0, "", r"line 2 \(empty\): no path"),
    "twice": (0, "scans/s1.png", "line 3 .scans/s1.png.: a second row for scans/s1.png"),
}


@pytest.mark.parametrize("case", TABLES)
def test_wrong_rows(case, tmp_path):
    column, value, message = TABLES[case]
    found = rows()
    found[0][column] = value
    source = table(tmp_path / "s", HEADER, found)
    fails(source, tmp_path / "data", message, OPTIONS)


def test_images_of_one_name_are_told_apart(tmp_path):
    found = rows()
    found[0][0] = "s0.png"
    source = table(tmp_path / "s", HEADER, found)
    sources.write(source / "more" / "s0.png", sources.picture(99, kind="PNG"))
    text = fails(source, tmp_path / "d", "2 images have this name, such as more/s0.png", OPTIONS)
    assert "more/s0.png: no row in labels.csv" in text


def test_a_table_elsewhere_and_missing_columns(tmp_path):
    source = table(tmp_path / "s", HEADER, rows())
    (source / "labels.csv").rename(tmp_path / "labels.csv")
    manifest, _ = make(source, tmp_path / "a", {**OPTIONS, "table": str(tmp_path / "labels.csv")})
    assert len(manifest["images"]) == 40
    fails(source, tmp_path / "b", "labels.csv is missing", OPTIONS)
    options = {**OPTIONS, "table": str(tmp_path / "labels.csv")}
    fails(source, tmp_path / "b", "no column patient; it has: file, diagnosis",
          {**options, "patient_column": "patient"})  # fmt: skip
    fails(source, tmp_path / "b", "--attributes=Birth date: names and birth dates must not be kept",
          {**options, "attributes": ("Birth date",)})  # fmt: skip


def test_classes_and_the_healthy_one(tmp_path):
    source = class_folders(tmp_path / "s", ("CNV", "DME", "retina"))
    fails(source, tmp_path / "d", "--normal=CLASS; there are CNV, DME, retina")
    fails(source, tmp_path / "d", "--normal=CLASS", {"normal": "none"})
    manifest, output = make(source, tmp_path / "d",
                            {"normal": "retina", "classes": ("retina", "DME")})  # fmt: skip
    assert manifest["classes"] == ["retina", "DME"] and len(manifest["images"]) == 20
    assert len(manifest["skipped"]) == 10
    assert "skipped CNV/s0.JPG: class CNV is not in --classes" in output
    fails(class_folders(tmp_path / "t", ("NORMAL",)), tmp_path / "e", "has one class, NORMAL")
    sources.write(tmp_path / "loose" / "a.png", sources.picture(0, kind="PNG"))
    fails(tmp_path / "loose", tmp_path / "e", "has no image in a folder of its class")
    sources.write(source / "a.png", sources.picture(0, kind="PNG"))
    fails(source, tmp_path / "e", "a.png: not in a folder of its class", {"normal": "retina"})


def test_fundus_labels_are_grades(tmp_path):
    source = class_folders(tmp_path / "s", ("0", "1", "2", "3", "4"), modality="fundus")
    manifest, _ = make(source, tmp_path / "a", {"modality": "fundus"})
    assert manifest["classes"] == list("01234") and manifest["normal"] == "0"
    named = ("No_DR", "Mild", "Moderate", "Severe", "Proliferate_DR")
    source = class_folders(tmp_path / "t", named, modality="fundus")
    manifest, _ = make(source, tmp_path / "b", {"modality": "fundus"})
    assert {i["class"] for i in manifest["images"] if i["path"].startswith("Prolif")} == {"4"}
    source = class_folders(tmp_path / "u", ("glaucoma", "other"), modality="fundus")
    fails(source, tmp_path / "c", "Fundus labels must be DR grades 0-4 .* found glaucoma, other",
          {"modality": "fundus"})  # fmt: skip
    source = class_folders(tmp_path / "t", ("glaucoma",), modality="fundus", start=900)
    fails(source, tmp_path / "c", "glaucoma/s900.JPG: label 'glaucoma' is no DR grade 0-4",
          {"modality": "fundus"})  # fmt: skip
    fails(source, tmp_path / "c", "leave --classes and --normal out",
          {"modality": "fundus", "classes": ("a", "b")})  # fmt: skip
    lines = [[f"scans/s{k}.png", f"{k % 5}.0"] for k in range(40)]
    source = table(tmp_path / "v", ["path", "label"], lines, modality="fundus")
    manifest, _ = make(source, tmp_path / "d", {"modality": "fundus", "table": "labels.csv"})
    assert {i["class"] for i in manifest["images"] if i["id"].endswith("9")} == {"4"}


@pytest.mark.parametrize("name", ["octdl", "phantom", "Clinic", "my set", "../x", "", "1st"])
def test_names_that_cannot_be(name, tmp_path):
    source = class_folders(tmp_path / "s")
    fails(source, tmp_path / "d", "--name=", {"name": name})
    assert not list(tmp_path.glob("**/manifest.json"))


def test_the_command_line_then_training(tmp_path, capsys):
    source = table(tmp_path / "s", HEADER, rows())
    data = tmp_path / "data"
    flags = ["--dataset=folder", f"--source={source}", f"--data_dir={data}", "--size=32x32"]
    assert wlsrl("prepare", *flags) != 0 and "needs --modality" in capsys.readouterr().err
    flags += ["--modality=oct", "--name=clinic"]
    assert wlsrl("prepare", *flags, "--path_column=file") != 0
    assert "--path_column names a column of a table; give --table" in capsys.readouterr().err
    octdl = ["--dataset=octdl", *flags[1:]]
    assert wlsrl("prepare", *octdl) != 0 and "--dataset=folder alone" in capsys.readouterr().err
    flags += ["--table=labels.csv", "--path_column=file", "--label_column=diagnosis",
              "--patient_column=who", "--eye_column=side", "--attributes=sex"]  # fmt: skip
    assert wlsrl("prepare", *flags) == 0
    document = run(tmp_path / "run", data__dataset="clinic", data__data_dir=str(data),
                   num_epochs=2.0, batch_size=8)  # fmt: skip
    assert document["dataset"] == "clinic" and document["phantom"] is False
    assert document["test"]["TO1"]["count"] > 0
    assert load_config("oct", "clinic").data.dataset == "clinic"


def test_a_name_that_is_not_prepared_says_what_is(tmp_path):
    make(class_folders(tmp_path / "s"), tmp_path, {"name": "clinic"})
    config = tiny_config(data__dataset="clinik", data__data_dir=str(tmp_path))
    with pytest.raises(Mistake) as caught:
        load_dataset(config.data, "oct")
    text = str(caught.value)
    assert "Did you mean clinic?" in text and "Prepared there: clinic." in text
    assert "--dataset=folder --name=clinik" in text
    config = tiny_config(data__dataset="octid", data__data_dir=str(tmp_path))
    with pytest.raises(Mistake, match="--dataset=octid .*the original: https://boreal"):
        load_dataset(config.data, "oct")
    config = load_config("oct", "No Name")
    with pytest.raises(Mistake, match="configs/oct.py has no data set 'No Name'; choose one of ph"):
        load_dataset(config.data, "oct")
