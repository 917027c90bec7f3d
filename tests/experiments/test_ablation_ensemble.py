"""An ensemble averages the probabilities of a condition's seeds."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from ablate.ensemble import ensembled
from ablate.grid import Grid, cells, seeds
from ablate.tables import ensemble_table, latex, markdown
from tests.experiments.invented_records import FOLDS, LOSSES, TASKS, analysed, invented, make_record


def test_mean_of_the_seeds_of_each_fold():
    parts = [make_record("a", fold, seed) for fold in (0, 1) for seed in (0, 1, 2)]
    both = ensembled(parts[:5])
    assert [len(r.ids) for r in both] == [17, 17]
    np.testing.assert_array_equal(both[1].ids, parts[3].ids)
    for t in TASKS:
        expected = sum(p.probabilities[t.name] for p in parts[:3]) / 3
        np.testing.assert_allclose(both[0].probabilities[t.name], expected, rtol=1e-6)
    assert ensembled(parts[3:4]) == []


def test_members_of_two_divisions_are_no_ensemble():
    first, second = (make_record("a", 0, seed) for seed in (0, 1))
    other = dataclasses.replace(second, ids=second.ids + 1)
    prepared_anew = dataclasses.replace(
        second, document={**second.document, "data_fingerprint": "another"}
    )
    for wrong in (other, prepared_anew):
        with pytest.raises(ValueError, match="are of two divisions of the data"):
            ensembled([first, wrong])


@pytest.mark.parametrize("pool", [False, True])
def test_the_tables_hold_ensembles_and_their_gain(tmp_path, monkeypatch, pool):
    grid = Grid(
        name="ensemble", config="configs/oct.py:octdl", description="A test.", common={},
        cells=(*cells(loss={"ce": LOSSES["ce"]}, fold=FOLDS, seed=seeds(3)),
               *cells(loss={"ls": LOSSES["ls"]}, fold=FOLDS, seed=seeds(1))),
        metrics={"TO1": ("balanced_accuracy", "ece")}, baseline={"loss": "ce"},
        pooled=pool, ensemble=True,
    )  # fmt: skip
    records = invented(grid)
    found = analysed(grid, records, tmp_path, monkeypatch)
    ce, ls = found.rows
    assert (found.fewest_seeds, found.seeds, ce.seeds, ls.seeds) == (1, 3, 3, 1)
    assert not ls.ensemble and not ls.gains

    def score(probabilities, of):
        truth = np.concatenate([r.labels["TO1"] for r in of])
        return balanced_accuracy_score(truth, np.concatenate(probabilities).argmax(axis=1))

    by_fold = [[records[f"ce_fold{k}_seed{s}"] for s in range(3)] for k in FOLDS]
    groups = [by_fold] if pool else [[fold] for fold in by_fold]
    together = [
        score([sum(r.probabilities["TO1"] for r in fold) for fold in folds], [f[0] for f in folds])
        for folds in groups
    ]
    single = [
        score([f[s].probabilities["TO1"] for f in folds], [f[0] for f in folds])
        for folds in groups
        for s in range(3)
    ]
    key = ("TO1", "balanced_accuracy")
    assert ce.ensemble[key].value == pytest.approx(np.mean(together))
    gain = ce.gains[key]
    assert gain.value == pytest.approx(np.mean(together) - np.mean(single))
    assert gain.low <= gain.value <= gain.high and gain.low < gain.high
    assert ("TO1", "ece") in ce.ensemble and ("TO1", "ece") not in ce.gains

    header, row = ensemble_table(grid, found, "TO1")
    assert header == ["loss", "seeds", "balanced accuracy", "gain", "ECE"]
    assert row[:2] == ["ce", "3"] and row[3].startswith(f"{gain.value:+.3f} (")
    text = markdown(grid, found)
    assert "Mean over 1 to 3 seeds" in text and "on the seeds of both" in text
    assert "of rows with one seed over patients alone" in text and "Ensembles of seeds:" in text
    assert "tab:ensemble-TO1-ensembles" in latex(grid, found)


def test_no_ensemble_where_the_grid_asks_for_none(tmp_path, monkeypatch):
    grid = Grid(
        name="ensemble", config="configs/oct.py:octdl", description="A test.", common={},
        cells=cells(loss=LOSSES, fold={0: FOLDS[0]}, seed=seeds(2)),
        metrics={"TO1": ("balanced_accuracy",)}, baseline={"loss": "ce"},
    )  # fmt: skip
    records = invented(grid)
    found = analysed(grid, records, tmp_path, monkeypatch)
    text = markdown(grid, found)
    assert "nsemble" not in text.removeprefix("# Ablation ensemble")
    assert "Mean over 2 seeds" in text and "seeds of both" not in text
