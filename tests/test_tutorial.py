"""The tutorial runs as it stands, and its stored outputs are those of today's code."""

import pytest

from tests.tiny import ROOT

TUTORIAL = ROOT / "docs" / "tutorial.ipynb"


@pytest.mark.slow
def test_the_tutorial_runs():
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    stored = nbformat.read(TUTORIAL, as_version=4)
    fresh = nbformat.read(TUTORIAL, as_version=4)
    resources = {"metadata": {"path": str(TUTORIAL.parent)}}
    nbclient.NotebookClient(fresh, timeout=600, resources=resources).execute()
    for old, new in zip(stored.cells, fresh.cells, strict=True):
        assert kinds(old) == kinds(new), new.source


def kinds(cell):
    return [output.output_type for output in cell.get("outputs", ())]


def test_the_stored_outputs_are_small_and_whole():
    assert TUTORIAL.stat().st_size < 300_000
    text = TUTORIAL.read_text(encoding="utf-8")
    assert text.count("image/png") == 2 and "balanced accuracy 0." in text
    assert '"output_type": "error"' not in text and "/home/" not in text
