"""Which spellings are one name."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlsrl_jax.data.text import names
from wlsrl_jax.files import Mistake

NFC = "Œdème"
NFD = unicodedata.normalize("NFD", NFC)


@pytest.mark.parametrize(
    "pair",
    [("NORMAL", "Normal"), ("CNV", "CNV "), ("0", "0.0"), ("0", "00"), (NFC, NFD),
     ("wet AMD", "wet\u00a0 amd"), ("CNV", "\ufeffCNV"), ("CNV", "C\u200bNV"), ("１", "1"),
     ("Straße", "STRASSE")],
)  # fmt: skip
def test_one_class_in_two_spellings(pair):
    spelling, joined = names.one_spelling([*pair, pair[0]], names.class_key)
    assert set(spelling.values()) == {names.cleaned(pair[0])}  # the commoner one
    assert len(joined) == 1 and all(repr(name) in joined[0] for name in pair)


@pytest.mark.parametrize("pair", [("1", "10"), ("CNV", "CNV2"), ("1.5", "15"), ("-1", "1")])
def test_two_classes_stay_two(pair):
    spelling, joined = names.one_spelling(pair, names.class_key)
    assert spelling == {name: name for name in pair} and not joined


def test_one_patient_in_two_spellings_and_zeros_that_are_asked_about():
    spelling, joined = names.one_patient_each(["5", "5", "5.0", "p1", "P1 ", "007", "7001"])
    assert spelling["5.0"] == "5" and spelling["p1"] == spelling["P1 "] and len(joined) == 2
    assert spelling["007"] == "007"  # nothing else could be meant
    for pair in (("007", "7"), ("1e5", "100000"), ("P07", "p7"), ("05", "5.0")):
        with pytest.raises(Mistake, match="1 patients .*--leading_zeros=same.*different"):
            names.one_patient_each(pair)
        same, joined = names.one_patient_each(pair, "same")
        assert len(set(same.values())) == 1 and len(joined) == 1
        different, joined = names.one_patient_each(pair, "different")
        assert len(set(different.values())) == 2 and not joined


MISSING = ["", " ", "NA", "na", "nan", "NaN", "n/a", "N/A", "None", "none", "NULL", "null", "-",
           "#N/A", "<NA>", "NaT", "#VALUE!", "\u2013", " \u00a0", "(blank)"]  # fmt: skip


def test_cells_that_hold_nothing():
    assert all(names.is_missing(text) for text in MISSING)
    present = ("0", "no", "NO", "normal", "5", "na1", "unknown", "x-y")
    assert not any(names.is_missing(text) for text in present)
    assert names.is_no_patient("Unknown") and not names.is_no_patient("0")


@given(st.lists(st.text(alphabet="ab,\":' ", min_size=1).map(names.cleaned).filter(bool)))
def test_any_name_can_be_quoted(parts):
    text = ",".join('"' + p.replace('"', '""') + '"' for p in parts)
    found = [names.unquoted(p) for p in names.split_quoted(text, ",")] if parts else []
    assert found == parts


def test_a_name_twice_in_a_list_is_refused():
    assert names.split_names('"AMD, wet",NO', "--classes") == ("AMD, wet", "NO")
    with pytest.raises(Mistake, match="--classes=CNV,cnv has a name twice"):
        names.split_names("CNV,cnv", "--classes")


@given(st.text(max_size=12))
def test_every_text_has_normal_forms(text):
    for key in (names.folded, names.patient_key, names.number_key, names.class_key):
        assert key(key(text)) == key(text)
    assert names.is_writable(names.shown(text))
