"""Out-of-fold predictions are pooled before a metric is computed."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from ablate.grid import Grid, cells, seeds
from ablate.plots import write_plots
from ablate.pool import pooled
from ablate.tables import markdown
from tests.experiments.invented_records import FOLDS, LOSSES, TASKS, analysed, invented, make_record


def test_every_image_once_and_only_complete_seeds():
    parts = [make_record("a", fold, seed) for seed in (0, 1) for fold in (2, 0, 1)]
    (whole,) = pooled(parts[:5], 3)
    assert whole.document["config"]["seed"] == 0
    assert (np.diff(whole.ids.astype(int)) > 0).all() and whole.ids.size == 51
    for part in parts[:3]:
        at = np.searchsorted(whole.ids, part.ids)
        np.testing.assert_array_equal(whole.groups[at], part.groups)
        for t in TASKS:
            np.testing.assert_array_equal(whole.labels[t.name][at], part.labels[t.name])
            np.testing.assert_array_equal(
                whole.probabilities[t.name][at], part.probabilities[t.name]
            )
    assert len(pooled(parts, 3)) == 2


def test_an_image_in_two_folds_is_refused():
    twice = [make_record("a", 0, 0), make_record("b", 0, 0)]
    with pytest.raises(ValueError, match="records a, b: an image is in the test set of two"):
        pooled(twice, 2)


def test_the_tables_hold_the_metrics_of_all_folds_together(tmp_path, monkeypatch):
    grid = Grid(
        name="pooled", config="configs/oct.py:octdl", description="A test.", common={},
        cells=cells(loss=LOSSES, fold=FOLDS, seed=seeds(1)),
        metrics={"TO1": ("macro_f1", "balanced_accuracy")}, baseline={"loss": "ce"}, pooled=True,
    )  # fmt: skip
    records = invented(grid)
    found = analysed(grid, records, tmp_path, monkeypatch)
    for row in found.rows:
        mine = [records[c.name] for c in grid.cells if c.condition == row.condition]
        truth = np.concatenate([r.labels["TO1"] for r in mine])
        said = np.concatenate([r.probabilities["TO1"].argmax(axis=1) for r in mine])
        assert row.values["TO1", "macro_f1"].value == pytest.approx(
            f1_score(truth, said, average="macro")
        )
        assert row.values["TO1", "balanced_accuracy"].value == pytest.approx(
            balanced_accuracy_score(truth, said)
        )
    assert (found.images, found.folds) == (51, 3)
    text = markdown(grid, found)
    assert "out-of-fold predictions of 3 folds together" in text and "3 of 3" in text
    assert "one seed, 51 test images" in text
    assert "Differences are to the row with loss = ce" in text
    alone = [c for c in grid.cells if c.labels["loss"] == "ce"]
    grid = dataclasses.replace(grid, cells=tuple(alone))
    found = analysed(grid, records, tmp_path, monkeypatch)
    text = markdown(grid, found)
    assert "Difference" not in text and "3 of 3" in text
    write_plots(grid, found, tmp_path)
    assert not list((tmp_path / "plots").iterdir())
