"""What a command line names: everything once, nothing by accident."""

import os

import pytest

from tests.sources import picture
from wlsrl_jax.data.images.listing import find_images


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.PNG", "deep/er/c.jpg", ".hidden.png", ".git/d.png", "notes.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(0, kind="PNG"))
    return tmp_path / "in"


def names(listed, folder):
    return [os.path.relpath(i.name, folder) for i in listed.items]


def test_folders_patterns_and_the_same_file_twice(folder, monkeypatch):
    listed = find_images([str(folder)])
    assert names(listed, folder) == ["a.PNG", "b.png", "deep/er/c.jpg"]
    assert listed.passed_over == {
        "hidden files or folders": 2,
        "files whose names are not of images": 1,
    }
    twice = find_images([str(folder), str(folder / "b.png"), f"{folder}/./b.png"])
    assert len(twice.items) == 3 and twice.passed_over["images that were named before"] == 2
    assert names(find_images([f"{folder}/**/*.jpg"]), folder) == ["deep/er/c.jpg"]
    (folder / "[1].png").write_bytes(picture(1))  # its name would be a pattern
    assert names(find_images([str(folder / "[1].png")]), folder) == ["[1].png"]
    monkeypatch.chdir(folder)
    assert [i.name for i in find_images(["b.png", "notes.txt"]).items] == ["b.png", "notes.txt"]


def test_links(folder, tmp_path):
    (tmp_path / "secret.png").write_bytes(picture(2))
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "in.png").symlink_to(folder / "b.png")
    (folder / "loop").symlink_to(folder)
    items = {os.path.basename(i.path): i.problem for i in find_images([str(folder)]).items}
    assert items.keys() == {"a.PNG", "b.png", "c.jpg", "in.png", "out.png"}
    assert "leaves the folder" in items["out.png"] and not items["in.png"]


@pytest.mark.parametrize("entry", ["../secret.png", "deep/../../secret.png", "link/secret.png"])
def test_a_list_stays_in_its_folder(folder, tmp_path, entry):
    (tmp_path / "secret.png").write_bytes(picture(2))
    (folder / "link").symlink_to(tmp_path)
    (folder / "list.csv").write_text(f"path\nb.png\n{entry}\n")
    with pytest.raises(ValueError, match="list.csv line 3: .*secret.png leaves"):
        find_images([str(folder / "list.csv")])


def test_lists(folder, tmp_path):
    table = folder / "list.csv"
    table.write_text(
        f"grade,path\n1,deep/er/c.jpg\n2,{folder / 'b.png'}\n3,gone.png\n", "utf-8-sig"
    )
    listed = find_images([str(table)])
    assert names(listed, folder) == ["deep/er/c.jpg", "b.png", "gone.png"]
    assert [i.problem for i in listed.items] == ["", "", "there is no such file"]
    for content, message in (("path\n", "lists no image"),
                             ("path,x\n\n ,\n ,1\n", "line 4: the path is"),
                             ("where\na\n", "no column 'path'; it has: where")):  # fmt: skip
        table.write_text(content)
        with pytest.raises(ValueError, match=message):
            find_images([str(table)])
    table.write_bytes(b"path\n\xff\xfe.png\n")
    with pytest.raises(ValueError, match="save it as UTF-8"):
        find_images([str(table)])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "sep=;\ngrade;File Name\n1;deep\\er\\c.jpg\n2; b.png \n"),
        ("a.tsv", "PATH\tgrade\n.\\deep\\er\\c.jpg\t1\nb.png\t2\n"),
        ("a.txt", "deep/er/c.jpg\n\n  b.png\n"),
        ("b.txt", "Image;grade\ndeep/er/c.jpg;1\nb.png;2\n"),
        ("a.xlsx", [["grade", "image_path"], [1, "deep/er/c.jpg"], [2, "b.png"]]),
    ],
)
def test_lists_are_read_as_the_tables_of_prepare_are(folder, name, content):
    if isinstance(content, str):
        (folder / name).write_text(content)
    else:
        book = pytest.importorskip("openpyxl").Workbook()
        for row in content:
            book.active.append(row)
        book.save(folder / name)
    listed = find_images([str(folder / name)])
    assert names(listed, folder) == ["deep/er/c.jpg", "b.png"]
    assert not any(item.problem for item in listed.items)


def test_a_missing_path_of_a_list_is_no_image(folder):
    (folder / "list.csv").write_text("path\nb.png\nNA\n")
    with pytest.raises(ValueError, match="list.csv line 3: the path is empty"):
        find_images([str(folder / "list.csv")])


def test_names_that_no_table_holds(folder):
    os.rename(folder / "b.png", os.fsencode(folder) + b"/\xff\n.png")
    (item,) = [i for i in find_images([str(folder)]).items if i.problem]
    assert "cannot be written into a table" in item.problem
    assert item.name == f"{folder}/\\xff\\x0a.png"


def test_what_is_no_image(folder, tmp_path):
    os.mkfifo(folder / "pipe.png")  # reading it would never end
    assert "pipe.png" not in names(find_images([str(folder)]), folder)
    (tmp_path / "empty").mkdir()
    for argument, message in ((tmp_path / "empty", "holds no image"),
                              (tmp_path / "gone", "is no file or folder"),
                              (f"{folder}/*.tif", "matches none")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            find_images([str(argument)])


def test_a_folder_that_a_pattern_matches_is_walked(folder):
    """As it would be if the shell had expanded it."""
    assert names(find_images([f"{folder}/d*"]), folder) == ["deep/er/c.jpg"]
    assert len(find_images([f"{folder}/**"]).items) == 4  # every file, notes.txt too


def test_links_to_folders_are_followed_or_told(folder, tmp_path):
    (tmp_path / "week2").mkdir()
    (folder / "week2").symlink_to(tmp_path / "week2")
    (folder / "cache").symlink_to(folder / ".git")  # its images are met nowhere else
    (folder / "again").symlink_to(folder / "deep")
    listed = find_images([str(folder)])
    problems = {os.path.basename(i.path) for i in listed.items if "link to a folder" in i.problem}
    assert problems == {"week2", "cache"}
    assert listed.passed_over["links to folders whose images are taken where they lie"] == 1
    only = tmp_path / "only"
    only.mkdir()
    (only / ".x.png").touch()
    with pytest.raises(ValueError, match=r"holds no image \(1 hidden files or folders\)"):
        find_images([str(only)])
