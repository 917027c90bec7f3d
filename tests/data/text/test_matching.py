"""Names that differ in form are joined where one meets one, and nowhere else."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlsrl_jax.data.text.matching import join_names
from wlsrl_jax.data.text.names import IMAGE_SUFFIXES

FILES = [f"img{k:03d}.png" for k in range(12)]
FORMS = {
    "folder": lambda n: f"images/{n}",
    "absolute": lambda n: f"/home/me/oct/{n}",
    "windows": lambda n: f"C:\\oct\\{n}",
    "suffix": lambda n: n.replace(".png", ".jpeg"),
    "no suffix": lambda n: n.removesuffix(".png"),
    "case": str.upper,
    "blank": lambda n: f" {n} ",
    "zeros": lambda n: n.replace("img0", "img").replace("img0", "img"),
    "prefix": lambda n: f"OCT_{n}",
    "numbers": lambda n: str(int(n[3:6])),
    "float": lambda n: f"{float(n[3:6])}",
}


@pytest.mark.parametrize("form", FORMS)
def test_one_change_of_all_names(form):
    wanted = [FORMS[form](name) for name in FILES]
    joined = join_names(wanted, FILES, wanted, FILES)
    assert dict(joined.found) == dict(zip(wanted, FILES, strict=True))
    (text,) = joined.sentences("rows of t.csv")
    assert text.startswith("12 rows of t.csv are joined") and wanted[0] in text


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_of_an_image_is_one(suffix):
    names = [f"1.5{suffix}", f"b{suffix.upper()}"]
    assert len(join_names(names, ["1.5", "b"], names, ["1.5", "b"]).found) == 2


def test_composed_and_decomposed_names():
    wanted = [f"Müller_{k}.png" for k in range(3)]
    there = [unicodedata.normalize("NFD", name) for name in wanted]
    assert dict(join_names(wanted, there, wanted, there).found) == dict(
        zip(wanted, there, strict=True)
    )


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        (["CNV/1.png"], ["DME/1.png"]),  # another folder is another image
        (["CNV/1.png", "DME/1.png"], ["1.png"]),  # two for one
        (["1.png"], ["001.png", "01.png"]),  # one for two
        (["left_1", "left_2"], ["right_1", "right_2"]),  # prefixes of both
        (["2.01703E+16"], ["20170323093305605.png"]),  # digits are gone
        (["img12.png"], ["img1.png", "img2.png"]),
        (["a.1", "a.2"], ["a.png"]),
        ([""], ["x.png"]),
    ],
)
def test_what_may_be_another_image_is_not_joined(wanted, there):
    assert not join_names(wanted, there, wanted, there).found


def test_numbers_as_a_spreadsheet_leaves_them():
    there, wanted = ["1e5.png", "007.png", "img"], ["1.00E+05", "7", "img"]
    joined = join_names(wanted[:2], there[:2], wanted, there)
    assert dict(joined.found) == {"1.00E+05": "1e5.png", "7": "007.png"}


@given(
    st.lists(st.text(alphabet="a0/1.e", max_size=5), unique=True, max_size=8),
    st.lists(st.text(alphabet="a0/1.eA", max_size=5), unique=True, max_size=8),
)
def test_no_two_names_get_one(wanted, there):
    found = join_names(wanted, there, wanted, there).found
    assert len(set(found.values())) == len(found)
    assert found.keys() <= set(wanted) and set(found.values()) <= set(there)
