"""Unpacking what strangers have packed: nothing leaves the folder, nothing fills the disk."""

import io
import os
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import sources
from tests.tiny import ROOT
from wlsrl_jax.data.published import archives
from wlsrl_jax.data.published.archives import BadArchiveError, member_path, opened, unpack
from wlsrl_jax.files import Mistake


def zip_of(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def tar_of(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as file:
        for info, content in members:
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
                info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def everything(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def refuses(archive, match):
    """Nothing may be left, nor be written anywhere near."""
    before = everything(archive.parent)
    with pytest.raises(BadArchiveError, match=match) as caught:
        unpack(archive, archive.parent / "out")
    assert str(archive) in str(caught.value)
    assert everything(archive.parent) == before


LEADING_OUT = [
    "../evil.txt", "a/../../evil.txt", "/evil.txt", "..\\evil.txt", "a\\..\\..\\evil.txt",
    "C:\\evil.txt", "\\\\host\\evil.txt", "C:evil.txt",
]  # fmt: skip


@pytest.mark.parametrize("name", LEADING_OUT)
def test_members_that_lead_out(name, tmp_path):
    refuses(zip_of(tmp_path / "a.zip", [("a/good.txt", b"x"), (name, b"x")]), "leads out")
    refuses(tar_of(tmp_path / "a.tar.gz", [("a/good.txt", b"x"), (name, b"x")]), "leads out")


def test_links_and_devices(tmp_path):
    info = zipfile.ZipInfo("a/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    refuses(zip_of(tmp_path / "a.zip", [(info, "../../evil.txt")]), "'a/link' is a link")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        info = tarfile.TarInfo("a/link")
        info.type, info.linkname = kind, "/etc/passwd"
        refuses(tar_of(tmp_path / "a.tar", [(info, b"")], "w"), "is a link or a device")


def test_a_link_then_a_member_below_it(tmp_path):
    link = tarfile.TarInfo("a")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    archive = tar_of(tmp_path / "a.tar.gz", [(link, b""), ("a/evil.txt", b"x")])
    refuses(archive, "is a link")


def test_bombs(tmp_path, monkeypatch):
    zeros = b"\0" * (80 * 2**20)
    refuses(zip_of(tmp_path / "bomb.zip", [("a", zeros)]), "zip bomb")
    refuses(tar_of(tmp_path / "bomb.tar.gz", [("a", zeros)]), "zip bomb")
    monkeypatch.setattr(archives, "MAX_BYTES", 1000)
    refuses(zip_of(tmp_path / "large.zip", [("a", os.urandom(1001))]), "more than 1,000 bytes")
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    many = [(str(k), b"x") for k in range(4)]
    refuses(zip_of(tmp_path / "many.zip", many), "more than 3 members")
    refuses(tar_of(tmp_path / "many.tar.gz", many), "more than 3 members")


def test_a_zip_that_lies_about_its_size(tmp_path):
    path = zip_of(tmp_path / "a.zip", [("a.txt", b"\0" * (70 * 2**20))])
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, place + 24, 10)  # declared size in the central directory
    path.write_bytes(data)
    refuses(path, "damaged or incomplete|cannot be unpacked")


def test_members_that_stand_twice(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = zip_of(tmp_path / "a.zip", [("a.txt", b"1"), ("a.txt", b"2")])
    refuses(path, "stands twice")
    refuses(zip_of(tmp_path / "b.zip", [("a", b"1"), ("a/b", b"2")]), "two members have one path")


def test_damaged_and_encrypted(tmp_path):
    whole = zip_of(tmp_path / "a.zip", [("a.txt", os.urandom(100_000))]).read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[:50_000])
    refuses(tmp_path / "a.zip", "damaged or incomplete")
    spoilt = bytearray(whole)
    spoilt[30_000:30_010] = b"x" * 10
    (tmp_path / "a.zip").write_bytes(spoilt)
    refuses(tmp_path / "a.zip", "damaged or incomplete")
    whole = tar_of(tmp_path / "a.tar.gz", [("a.txt", os.urandom(100_000))]).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[:50_000])
    refuses(tmp_path / "a.tar.gz", "damaged or incomplete")
    (tmp_path / "b.tar").write_bytes(b"no archive at all" * 100)
    refuses(tmp_path / "b.tar", "damaged or incomplete")
    path = zip_of(tmp_path / "c.zip", [("a.txt", b"x")])
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    refuses(path, "encrypted")


def test_good_archives(tmp_path):
    members = [("set/a b/Ünï.txt", b"1"), ("set/c.JPG", b"22"), ("__MACOSX/set/._c.JPG", b"x"),
               ("set/._c.JPG", b"x"), ("set/.DS_Store", b"x"), ("set/win\\d.txt", b"3"),
               ("set/empty/", b"")]  # fmt: skip
    unpack(zip_of(tmp_path / "a.zip", members), tmp_path / "zip")
    found = [p for p in everything(tmp_path / "zip") if (tmp_path / "zip" / p).is_file()]
    assert found == ["set/a b/Ünï.txt", "set/c.JPG", "set/win/d.txt"]
    unpack(tar_of(tmp_path / "a.tgz", members[:-1]), tmp_path / "tar")
    assert everything(tmp_path / "tar") == everything(tmp_path / "zip")
    assert (tmp_path / "tar/set/c.JPG").read_bytes() == b"22"
    with pytest.raises(Mistake, match="exists; delete it"):
        unpack(tmp_path / "a.zip", tmp_path / "zip")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["..", "/", "\\", "a", ".", ":", "C:", "~", "._", "é"])).map("".join)
)
def test_member_paths_stay_inside(tmp_path_factory, name):
    root = tmp_path_factory.getbasetemp()
    try:
        path = member_path(root / "a.zip", name)
    except BadArchiveError:
        return
    assert path is None or (root / path).resolve().is_relative_to(root.resolve())


def test_opened_leaves_the_source_alone_and_cleans_up(tmp_path):
    source = tmp_path / "source"
    sources.make_zip(source / "A.zip", {"x/a.jpg": b"1"})
    sources.make_zip(source / "B.zip", {"b.jpg": b"2"})
    sources.write(source / "labels.csv", b"path,label\n")
    before = everything(source)
    with opened(source, tmp_path / "scratch") as folder:
        files = [p for p in everything(folder) if (folder / p).is_file()]
        assert files == ["A/x/a.jpg", "B/b.jpg", "labels.csv"]
    assert everything(source) == before and not (tmp_path / "scratch").exists()
    with pytest.raises(RuntimeError), opened(source / "A.zip", tmp_path / "scratch"):
        raise RuntimeError
    assert not (tmp_path / "scratch").exists()
    sources.write(source / "train" / "a.jpg", b"3")  # unpacked already
    with opened(source, tmp_path / "scratch") as folder:
        assert folder == source


def test_a_hostile_source_ends_the_command_with_one_line(tmp_path):
    archive = zip_of(tmp_path / "a.zip", [("../evil.txt", b"x")])
    done = subprocess.run(
        [sys.executable, "-m", "wlsrl_jax.data.prepare", "--dataset=octid", f"--source={archive}",
         f"--data_dir={tmp_path / 'data'}"],
        cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    assert done.returncode != 0 and not (tmp_path / "evil.txt").exists()
    assert (
        done.stderr.strip().splitlines()[-1].startswith(f"error: {archive}: member '../evil.txt'")
    )
    assert "Traceback" not in done.stderr
