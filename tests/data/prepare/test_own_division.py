"""The division that a user brings, as a column, folders or a file, is followed to the image."""

import csv
import io

import numpy as np
import pytest

from tests import sources
from tests.data.published.test_folder import class_folders, fails, make
from tests.tiny import wlsrl
from wlsrl_jax.data.audit.inspect import SourceImage
from wlsrl_jax.data.audit.look import Fingerprint
from wlsrl_jax.data.prepare.divide import choose_mode
from wlsrl_jax.data.published.common import Record

CLASSES = ("CNV", "NORMAL")
PARTS = ("train", "train", "train", "val", "test", "test")
OURS = {"train": "train", "val": "validation", "test": "test"}
OPTIONS = {"path_column": "file", "patient_column": "who", "split_column": "part"}


def source_with_parts(folder, parts=PARTS, name="img{:03d}.png", count=48):
    """Images of patients whose part is written beside each; one patient every four images."""
    rows = []
    for k in range(count):
        sources.write(folder / name.format(k), sources.picture(k, kind="PNG"))
        rows.append([name.format(k), CLASSES[k % 2], f"P{k // 4}", parts[k // 4 % len(parts)]])
    sources.write_table(folder.parent / "t.csv", ["file", "label", "who", "part"], rows)
    return folder, {**OPTIONS, "table": str(folder.parent / "t.csv")}, rows


def splits(manifest):
    return {i["path"]: i["split"] for i in manifest["images"]}


@pytest.mark.parametrize("flags", [{}, {"split": "official"}, {"seed": 5}])
def test_a_column_is_followed_to_the_image(flags, tmp_path):
    source, options, rows = source_with_parts(tmp_path / "s")
    manifest, output = make(source, tmp_path / "d", options, **flags)
    assert splits(manifest) == {r[0]: OURS[r[3]] for r in rows}
    assert "note: your own division is followed: train 24, validation 8, test 16." in output
    assert manifest["settings"]["split"] == "own" and "WARNING" not in output


def test_folders_are_followed_to_the_image_by_the_command_line(tmp_path, capsys):
    for k, part in enumerate(OURS):
        class_folders(tmp_path / "s" / part, images=6, start=100 * k)
    flags = ["--dataset=folder", "--modality=oct", "--name=mine", f"--source={tmp_path / 's'}",
             f"--data_dir={tmp_path}", "--size=32x32"]  # fmt: skip
    assert wlsrl("prepare", *flags) == 0
    assert "your own division is followed: train 12, validation 12, test 12" in (
        capsys.readouterr().out.replace("\n", " ")
    )
    with (tmp_path / "mine" / "1.0.0" / "splits.csv").open() as file:
        found = {row["id"]: row["split"] for row in csv.DictReader(file)}
    assert found and all(OURS[name.split("/")[0]] == split for name, split in found.items())
    assert wlsrl("prepare", *flags, "--overwrite", "--split=grouped") == 0
    assert "your own division (train 12, validation 12, test 12) is not followed" in (
        capsys.readouterr().out.replace("\n", " ")
    )


def test_a_division_without_validation_keeps_its_test_set(tmp_path):
    source, options, rows = source_with_parts(tmp_path / "s", ("train", "train", "train", "test"))
    manifest, output = make(source, tmp_path / "d", options)
    for row in rows:
        assert (splits(manifest)[row[0]] == "test") == (row[3] == "test")
    assert manifest["splits"]["validation"] and "it names no validation, which is drawn" in output


def test_patients_on_both_sides_are_reported_and_stay_where_they_are(tmp_path):
    source, options, rows = source_with_parts(tmp_path / "s")
    rows[0][3], rows[1][3] = "test", "val"
    sources.write_table(tmp_path / "t.csv", ["file", "label", "who", "part"], rows)
    manifest, output = make(source, tmp_path / "d", options)
    assert splits(manifest) == {r[0]: OURS[r[3]] for r in rows}
    assert manifest["audit"]["groups_in_several_splits"] == ["P0"]
    assert "WARNING: 1 groups (patients) are in several splits" in output


def test_setting_it_aside_is_asked_for_and_said(tmp_path):
    source, options, _ = source_with_parts(tmp_path / "s")
    fails(source, tmp_path / "d", "has a division of its own .* add --split=grouped", options,
          folds=3)  # fmt: skip
    manifest, output = make(source, tmp_path / "d", options, folds=3, split="grouped")
    assert manifest["settings"]["split"] == "grouped"
    assert "is not followed: --split=grouped." in output
    _, output = make(source, tmp_path / "e", {**options, "split_column": ""})
    assert "followed" not in output  # nothing says that "part" is a division
    table = tmp_path / "t.csv"
    table.write_text(table.read_text().replace("part", "Split", 1))
    _, output = make(source, tmp_path / "f", {**options, "split_column": ""})
    assert "the column Split of t.csv is not followed; --split_column=Split is" in output


def test_an_image_without_a_part_is_not_let_through(tmp_path):
    source, options, rows = source_with_parts(tmp_path / "s")
    rows[2][3] = "n/a"
    sources.write_table(tmp_path / "t.csv", ["file", "label", "who", "part"], rows)
    fails(source, tmp_path / "d", r"line 4 \(img002.png\): no split", options)


def test_a_split_file_that_disagrees_is_refused(tmp_path):
    source, options, rows = source_with_parts(tmp_path / "s")
    text = "".join(f"{r[0][:6]},{OURS[r[3]]}\n" for r in rows)
    file = tmp_path / "splits.csv"
    file.write_text("id,split\n" + text)
    assert splits(make(source, tmp_path / "a", options, split_file=str(file))[0]) == {
        r[0]: OURS[r[3]] for r in rows
    }
    file.write_text("id,split\n" + text.replace("validation", "train"))
    fails(source, tmp_path / "b", "the set's own division disagree", options, split_file=str(file))


def test_published_validation_is_said_to_be_divided_anew():
    look = Fingerprint(np.zeros(128, bool), np.zeros((48, 48), np.uint8), 100, 100, ())
    images = [
        SourceImage(Record(f"{k}.png", str(k), 0, None, part), f"d{k}", 1, look)
        for k, part in enumerate(("train", "validation", "validation", "test"))
    ]
    assert choose_mode("", images, is_own=False, columns=3) == ("grouped", [])
    mode, (text,) = choose_mode("official", images, is_own=False, columns=0)
    assert mode == "official" and "the 2 published images of validation are divided anew" in text


# A split file that went through a spreadsheet.


def numbered(folder, name="{:03d}.png"):
    source, options, rows = source_with_parts(folder, name=name)
    return source, {**options, "split_column": ""}, rows


def saved(data, change):
    """splits.csv of a preparation as another program saved it."""
    with (data / "folder" / "1.0.0" / "splits.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    text = io.StringIO()
    csv.writer(text).writerows([header, *([change(r[0]), *r[1:]] for r in rows)])
    path = data / "saved.csv"
    path.write_text(text.getvalue())
    return str(path)


@pytest.mark.parametrize(
    "change", [lambda n: str(int(n)), lambda n: f"{float(n)}", lambda n: f"{n} ", lambda n: n]
)
def test_ids_that_a_spreadsheet_changed_keep_their_place(change, tmp_path):
    source, options, _ = numbered(tmp_path / "s")
    before, _ = make(source, tmp_path / "a", options, seed=1)
    again, output = make(source, tmp_path / "b", options, split_file=saved(tmp_path / "a", change))
    assert splits(again) == splits(before)
    assert ("ids of the split file are joined although" in output) == (change("007") != "007")


def test_scientific_notation_keeps_its_place(tmp_path):
    source, options, _ = numbered(tmp_path / "s", "{}e5.png")
    before, _ = make(source, tmp_path / "a", options, seed=1)

    def change(name):
        return f"{float(name):.2E}"

    again, _ = make(source, tmp_path / "b", options, split_file=saved(tmp_path / "a", change))
    assert splits(again) == splits(before)


def test_listed_ids_that_are_absent_are_refused(tmp_path):
    source, options, _ = numbered(tmp_path / "s")
    before, _ = make(source, tmp_path / "a", options, seed=1)
    file = saved(tmp_path / "a", lambda n: n if n < "040" else f"x{n}y")
    text = fails(source, tmp_path / "b", "--allow_absent_ids", options, split_file=file)
    assert "8 of 48 ids of the split file match none of the images, such as x0" in text
    assert "8 of 48 images match none of the ids of the split file, such as 040, 041, 042" in text
    after, output = make(source, tmp_path / "b", options, split_file=file, allow_absent_ids=True)
    assert all(splits(after)[n] == s for n, s in splits(before).items() if n < "040")
    assert "note: 8 of 48 ids of the split file" in output
    nothing = saved(tmp_path / "a", lambda n: f"x{int(n) ** 3}z{n}")
    fails(source, tmp_path / "c", "48 of 48 ids of the split file match none", options,
          split_file=nothing, allow_absent_ids=True)  # fmt: skip


def test_our_own_file_with_a_blank_or_a_sign_in_front_is_followed(tmp_path):
    source, options, _ = numbered(tmp_path / "s", "=1+{} .png")
    before, _ = make(source, tmp_path / "a", options, seed=1)
    file = tmp_path / "a" / "folder" / "1.0.0" / "splits.csv"
    assert all(line.startswith("'=1+") for line in file.read_text().splitlines()[1:])
    again, output = make(source, tmp_path / "b", options, split_file=str(file))
    assert splits(again) == splits(before) and "joined" not in output
