"""A set of one's own whose names are spelled in several ways, are missing, or do not match."""

import hashlib
import shutil
import unicodedata

import pytest

from tests import sources
from tests.data.published.test_folder import class_folders, fails, make
from tests.data.text.test_names import MISSING

CLASSES = ("CNV", "NORMAL")


def flat(folder, name="img{:03d}.png", count=24):
    for k in range(count):
        sources.write(folder / name.format(k), sources.picture(k, kind="PNG"))
    return folder


def listed(folder, name="img{:03d}.png", count=24, header=("file", "label", "who"), change=None):
    """A table beside 24 images of six patients in two classes; ``change`` edits a row."""
    rows = [[name.format(k), CLASSES[k % 2], f"P{k // 4}"] for k in range(count)]
    for row in rows:
        row[:] = change(row) if change else row
    sources.write_table(folder.parent / "t.csv", header, rows)
    return {"table": str(folder.parent / "t.csv"), "path_column": "file", "patient_column": "who"}


def by_id(manifest, key):
    return {image["id"]: image[key] for image in manifest["images"]}


def test_one_class_in_several_folders(tmp_path):
    source = class_folders(tmp_path / "s", ("CNV", "NORMAL"))
    class_folders(source, ("Normal", "CNV "), start=500)
    manifest, output = make(source, tmp_path / "d")
    assert manifest["classes"] == ["CNV", "NORMAL"] and manifest["normal"] == "NORMAL"
    assert "note: one class in several spellings: 'CNV' (10), 'CNV ' (10) -> 'CNV'." in output
    assert "'NORMAL' (10), 'Normal' (10) -> 'NORMAL'" in output
    assert sum(i["class"] == "NORMAL" for i in manifest["images"]) == 20
    same = {"normal": "normal", "classes": ("normal", "cnv")}
    manifest, _ = make(source, tmp_path / "e", same)
    assert manifest["classes"] == ["normal", "cnv"] and len(manifest["images"]) == 40


def test_two_classes_that_sound_healthy_are_asked_about(tmp_path):
    source = class_folders(tmp_path / "s", ("CNV", "healthy", "control"))
    fails(source, tmp_path / "d", "control and healthy both sound healthy; .*--normal=CLASS")
    assert make(source, tmp_path / "d", {"normal": "control"})[0]["normal"] == "control"


def test_one_patient_in_two_spellings_is_in_one_split(tmp_path):
    def change(row):
        odd = int(row[0][3:6]) % 3 == 0
        return [row[0], row[1], row[2][1:] + (".0" if odd else "")]

    source = flat(tmp_path / "s")
    manifest, output = make(source, tmp_path / "d", listed(source, change=change))
    groups = by_id(manifest, "group")
    assert len(set(groups.values())) == 6
    assert manifest["audit"]["groups_in_several_splits"] == []
    assert "6 patients in several spellings are joined: '0' (" in output


def test_zeros_in_front_of_patients_are_asked_about(tmp_path):
    def change(row):
        number = int(row[2][1:])
        return [row[0], row[1], f"{number:03d}" if row[0] < "img012" else str(number - 3)]

    source = flat(tmp_path / "s")
    options = listed(source, change=change)
    fails(source, tmp_path / "d", "3 patients .*'0' and '000'.*--leading_zeros=same", options)
    for answer, count in (("same", 3), ("different", 6)):
        manifest, _ = make(source, tmp_path / answer, options, leading_zeros=answer)
        assert len({i["group"] for i in manifest["images"]}) == count
        assert manifest["settings"]["leading_zeros"] == answer


@pytest.mark.parametrize("text", [t for t in MISSING if t.strip()] + ["unknown"])
def test_a_missing_patient_never_becomes_one(text, tmp_path):
    source = flat(tmp_path / "s", count=8)
    options = listed(
        source, count=8, change=lambda r: [*r[:2], text if r[0] == "img003.png" else r[2]]
    )
    message = r"t\.csv line 5 \(img003\.png\): no who: the image could be in train and test"
    fails(source, tmp_path / "d", message, options)


def test_a_missing_label_is_no_class_and_counted(tmp_path):
    source = flat(tmp_path / "s")
    options = listed(source, change=lambda r: [r[0], "N/A" if r[0] < "img002" else r[1], r[2]])
    fails(
        source, tmp_path / "d", "(?s)2 files or rows cannot be used.*line 2 .*: no label", options
    )
    manifest, _ = make(source, tmp_path / "d", options, on_bad_file="skip")
    assert manifest["classes"] == ["CNV", "NORMAL"] and len(manifest["images"]) == 22
    folders = class_folders(tmp_path / "f", ("CNV", "NORMAL", "NA"))
    fails(folders, tmp_path / "e", "the folder 'NA' says that the class is missing; rename it")


def test_a_missing_patient_of_a_published_set(tmp_path):
    source = sources.octdl(tmp_path / "octdl")
    table = source / "OCTDL_labels.csv"
    table.write_text(table.read_text().replace("amd_000,AMD,0,", "amd_000,AMD,nan,"))
    from wlsrl_jax.data.prepare.__main__ import prepare
    from wlsrl_jax.files import Mistake

    with pytest.raises(Mistake, match="amd_000.jpg .*: no patient_id"):
        prepare("octdl", source, str(tmp_path / "d"), size=(32, 32))


FORMS = {
    "prefix": lambda name: f"images/{name}",
    "absolute": lambda name: f"/home/me/oct/{name}",
    "suffix": lambda name: name.replace(".png", ".jpeg"),
    "upper case": str.upper,
    "lost zeros": lambda name: str(int(name[3:6])),
}


@pytest.mark.parametrize("form", FORMS)
def test_rows_that_name_their_image_otherwise_are_joined_and_told(form, tmp_path):
    source = flat(tmp_path / "s")
    options = listed(source, change=lambda r: [FORMS[form](r[0]), *r[1:]])
    manifest, output = make(source, tmp_path / "d", options)
    assert by_id(manifest, "class") == {f"img{k:03d}": CLASSES[k % 2] for k in range(24)}
    assert "note: 24 rows of t.csv are joined although " in output


def test_composed_names_in_a_table_and_decomposed_ones_on_the_disk(tmp_path):
    name = "Müller_{:03d}.png"
    source = flat(tmp_path / "s", unicodedata.normalize("NFD", name))
    manifest, output = make(source, tmp_path / "d", listed(source, name))
    assert len(manifest["images"]) == 24 and "joined although" in output


def test_a_join_of_nothing_counts_both_sides(tmp_path):
    source = flat(tmp_path / "s")
    options = listed(source, change=lambda r: [hashlib.md5(r[0].encode()).hexdigest(), *r[1:]])
    text = fails(source, tmp_path / "d", "No row of --table=.*t.csv belongs to an image", options)
    assert "24 of 24 rows of t.csv match none of the images, such as " in text
    assert "24 of 24 images match none of the rows of t.csv, such as img000.png, img001" in text
    assert "--path_column=file" in text and "give --table" not in text


def test_links_that_leave_the_source_are_named_as_the_reason(tmp_path):
    there, source = flat(tmp_path / "there"), tmp_path / "s"
    source.mkdir()
    for path in there.iterdir():
        (source / path.name).symlink_to(path)
    text = fails(source, tmp_path / "d", "24 of the images are links that leave", listed(source))
    assert "give --table" not in text and "match none" not in text


def test_a_partial_join_counts_both_sides(tmp_path):
    source = flat(tmp_path / "s")
    options = listed(source, change=lambda r: [f"{r[0]}.tgz" if r[0] < "img004" else r[0], *r[1:]])
    text = fails(source, tmp_path / "d", "8 files or rows cannot be used", options)
    assert "4 of 24 rows of t.csv match none of the images, such as img000.png.tgz, " in text
    assert "4 of 24 images match none of the rows of t.csv, such as img000.png, img001" in text
    manifest, output = make(source, tmp_path / "d", options, on_bad_file="skip")
    assert len(manifest["images"]) == 20 and "note: 4 of 24 rows of t.csv" in output


def test_a_published_table_that_matches_nothing(tmp_path):
    from wlsrl_jax.data.published import get_spec

    source = sources.eyepacs(tmp_path / "s")
    table = source / "trainLabels.csv"
    original = table.read_text()
    table.write_text(original.replace("_left", "_sinister").replace("_right", "_dexter"))
    with pytest.raises(ValueError, match="No row of trainLabels.csv .* 50 of 50 rows .*sinister"):
        get_spec("eyepacs").scan(source)
    table.write_text("\n".join(f"train/{x}" if x[0].isdigit() else x for x in original.split()))
    records, notes = get_spec("eyepacs").scan(source)
    assert len(records) == 50 and not notes  # folders in front were always passed over
    table.write_text(original.upper().replace("IMAGE,LEVEL", "image,level"))
    records, (note,) = get_spec("eyepacs").scan(source)
    assert len(records) == 50 and "50 rows of trainLabels.csv are joined" in note.reason


def test_the_column_of_the_patient_is_taken_or_said_not_to_be(tmp_path):
    source = flat(tmp_path / "s")
    options = {**listed(source, header=("file", "label", "Patient ID")), "patient_column": ""}
    manifest, output = make(source, tmp_path / "a", options)
    assert {i["patient"] for i in manifest["images"]} == {f"P{k}" for k in range(6)}
    assert "note: the column Patient ID of t.csv names the patients" in output
    manifest, output = make(source, tmp_path / "b", {**options, "patient_column": "none"})
    assert {i["patient"] for i in manifest["images"]} == {None}
    assert "the column Patient ID of t.csv is not used; --patient_column=NAME takes one" in output
    options = {**listed(source, header=("file", "label", "patient_hash")), "patient_column": ""}
    _, output = make(source, tmp_path / "c", options)
    assert "the column patient_hash of t.csv is not used" in output
    listed(source, header=("subject", "label", "patient"))
    options = {**options, "path_column": "subject"}
    assert make(source, tmp_path / "d", options)[0]["images"][0]["patient"].startswith("P")


def test_a_line_break_in_a_name_is_treated_as_predict_treats_it(tmp_path):
    from wlsrl_jax.data.images.listing import find_images
    from wlsrl_jax.data.text.names import UNWRITABLE

    source = class_folders(tmp_path / "s")
    shutil.copy(source / "drusen" / "s0.JPG", source / "drusen" / "a\nb.JPG")
    fails(source, tmp_path / "d", rf"drusen/a\\x0ab.JPG: {UNWRITABLE}")
    manifest, _ = make(source, tmp_path / "d", on_bad_file="skip")
    assert len(manifest["images"]) == 20 and len(manifest["skipped"]) == 1
    (item,) = [i for i in find_images([str(source)]).items if i.problem]
    assert item.problem == UNWRITABLE and item.name.endswith(r"drusen/a\x0ab.JPG")
    flat_source = flat(tmp_path / "f")
    shutil.copy(flat_source / "img000.png", flat_source / "a\tb.png")
    fails(flat_source, tmp_path / "e", r"a\\x09b.png: no row", listed(flat_source))
