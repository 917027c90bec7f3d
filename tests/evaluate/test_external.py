"""Classes of another set as classes of ours."""

import pytest

from wlsrl_jax.data.dataset import Dataset
from wlsrl_jax.evaluate.external import map_tasks, parse_label_map
from wlsrl_jax.files import Mistake

SAVED = {
    "classes": ["AMD, wet", "a:b", "NORMAL"],
    "normal": "NORMAL",
    "modality": "oct",
    "tasks": {
        "TO1": {"classes": ["AMD, wet", "a:b", "NORMAL"], "label_map": [0, 1, 2], "ordinal": False}
    },
}


def labels(classes, text=""):
    other = Dataset("other", "oct", classes, classes[-1], {}, "", False)
    (task,), unmapped = map_tasks(SAVED, other, parse_label_map(text))
    return task.label_map, unmapped


def test_names_with_a_comma_or_a_colon_stand_in_quotes():
    text = '"CNV, new":"AMD, wet", DME : "a:b"'
    assert parse_label_map(text) == {"CNV, new": "AMD, wet", "DME": "a:b"}
    assert labels(("CNV, new", "DME", "healthy"), text) == ((0, 1, 2), [])
    assert parse_label_map('"say ""x""":y') == {'say "x"': "y"} and parse_label_map("") == {}


@pytest.mark.parametrize("text", ["CNV:AMD,CNV:DME", "CNV:AMD, cnv :DME", "CNV:AMD,CNV:AMD"])
def test_a_class_that_is_mapped_twice_is_refused(text):
    with pytest.raises(Mistake, match="maps (CNV|cnv) twice; keep one"):
        parse_label_map(text)


@pytest.mark.parametrize("text", ["CNV", "a:b:c", '"CNV:AMD"', "CNV:AMD,wet"])
def test_what_is_no_map_is_refused(text):
    with pytest.raises(Mistake, match="must read THEIRS:OURS"):
        parse_label_map(text)


def test_the_case_and_blanks_of_a_class_do_not_matter():
    assert labels(("amd,  WET", "A:B", "Normal")) == ((0, 1, 2), [])
    assert labels(("cnv", "A:B", "Normal"), 'CNV:"amd, wet"') == ((0, 1, 2), [])
