import json
import time

import numpy as np
import pytest

from tests.tiny import read_predictions as read_rows
from wlsrl_jax.evaluate import bootstrap
from wlsrl_jax.evaluate import operating_points as op
from wlsrl_jax.evaluate.aggregate import aggregate
from wlsrl_jax.evaluate.calibration import fit_temperature, scale
from wlsrl_jax.evaluate.comparison import compare
from wlsrl_jax.evaluate.curves import GRID, rank_curves, reliability
from wlsrl_jax.evaluate.predictions import Predictions, read_predictions
from wlsrl_jax.evaluate.statistics import statistics_document, task_statistics
from wlsrl_jax.evaluate.telling import now_and_then
from wlsrl_jax.runs.open import load_trained
from wlsrl_jax.tasks import DR_GRADES, make_tasks, task_labels

FUNDUS = make_tasks("fundus", DR_GRADES, "0")
OCT = make_tasks("oct", ("AMD", "DME", "NO"), "NO")


def predictions(tasks, labels, seed, skill=1.5, groups=None):
    rng = np.random.default_rng(seed)
    mapped, probabilities = task_labels(tasks, labels), {}
    for t in tasks:
        z = rng.normal(size=(labels.size, t.num_classes))
        known = mapped[t.name] >= 0
        z[np.arange(labels.size)[known], mapped[t.name][known]] += skill
        p = np.exp(z)
        probabilities[t.name] = (p / p.sum(1, keepdims=True)).astype(np.float32)
    ids = np.array([f"image{k}" for k in range(labels.size)])
    return Predictions(ids, ids if groups is None else np.asarray(groups), mapped, probabilities)


@pytest.fixture(scope="module")
def document():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 120)
    patients = np.repeat(np.arange(60), 2).astype(str)
    splits = {"validation": predictions(FUNDUS, rng.integers(0, 5, 80), 1),
              "test": predictions(FUNDUS, labels, 2, groups=patients)}  # fmt: skip
    details = {
        f"image{k}": {"patient": patients[k], "attributes": {
            "eye": ["left", "right"][k % 2], "age": str(40 + k % 37), "camera": "A"}}
        for k in range(120)
    }  # fmt: skip
    return statistics_document(FUNDUS, splits, details=details, is_phantom=False,
                               has_patient_ids=True, replicates=200), splits  # fmt: skip


def test_every_metric_has_a_value_and_an_interval_around_it(document):
    test = document[0]["splits"]["test"]
    assert document[0]["unit"] == "patient" and test["TF2"]["groups"] == 60
    for task in test.values():
        for name, m in task["metrics"].items():
            if name in document[0]["without_interval"]:
                assert np.isnan(m["low"])
            else:
                assert m["low"] < m["value"] < m["high"], name
    assert np.sum(test["TF2"]["confusion"]) == 120
    assert set(test["TF2"]["per_class"]) == set(DR_GRADES)


def test_referable_retinopathy_uses_the_thresholds_of_validation(document):
    found = next(q for q in document[0]["operating_points"] if "referable" in q["question"])
    validation, test = (document[1][s] for s in ("validation", "test"))
    truth = validation.labels["TF2"] >= 2
    score = validation.probabilities["TF2"].astype(float)[:, 2:].sum(1)
    for point, kind in zip(found["points"], ("specificity", "sensitivity")):
        yes = score >= point["threshold"]
        reached = {"sensitivity": yes[truth].mean(), "specificity": (~yes)[~truth].mean()}
        assert reached[kind] >= 0.95 and kind in point["target"]
        # One step further and it would be missed: nothing is given away.
        steps = np.unique(score)
        at = np.searchsorted(steps, point["threshold"])
        further = steps[at - 1] if kind == "specificity" else steps[at + 1]
        yes = score >= further
        missed = {"sensitivity": yes[truth].mean(), "specificity": (~yes)[~truth].mean()}
        assert missed[kind] < 0.95
        on_test = test.probabilities["TF2"].astype(float)[:, 2:].sum(1) >= point["threshold"]
        positive = test.labels["TF2"] >= 2
        assert point["sensitivity"]["value"] == pytest.approx(on_test[positive].mean())
        assert point["specificity"]["value"] == pytest.approx((~on_test)[~positive].mean())
    names = {q["question"] for q in document[0]["operating_points"]}
    assert names == {"abnormal", "referable (grade 2 or more)"}


def test_thresholds_need_both_sides():
    assert op.choose_thresholds(np.ones(4, bool), np.arange(4.0)) == {}
    question = op.Question("x", "T", (1,))
    both = np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])
    one = np.array([1, 1]), both[1]
    assert "validation" in op.operating_points([question], one, both, np.arange(2))[0]["reason"]
    assert "test" in op.operating_points([question], both, one, np.arange(2))[0]["reason"]
    # All negatives score above all positives: 95% specificity is nobody.
    found = op.choose_thresholds(np.array([True, False]), np.array([0.1, 0.9]))
    assert found["specificity"] > 0.9 and found["sensitivity"] == 0.1


def test_subgroups_and_patients(document):
    subgroups = document[0]["subgroups"]
    assert set(subgroups) == {"eye", "age"}  # one camera is no subgroup
    assert {v["TF2"]["count"] for v in subgroups["eye"].values()} == {60}
    assert len(subgroups["age"]) == 4
    assert sum(v["TF2"]["count"] for v in subgroups["age"].values()) == 120
    assert document[0]["aggregated"]["patient"]["TF2"]["count"] == 60
    assert "eye" not in document[0]["aggregated"]  # one image an eye


def test_aggregation_takes_the_mean_and_the_worst():
    grades, nominal = FUNDUS[1], OCT[0]
    p = np.eye(5)[[0, 1, 2, 3]]
    first, labels, joined, left_out = aggregate(grades, list("aabb"), np.array([0, 3, 1, -1]), p)
    np.testing.assert_array_equal(first, [0, 2])
    np.testing.assert_array_equal(labels, [3, 1])
    np.testing.assert_allclose(joined[0], [0.5, 0.5, 0, 0, 0])
    assert left_out == 0
    _, labels, _, left_out = aggregate(nominal, list("aabb"), np.array([0, 1, 2, 2]), np.eye(3)[
        [0, 1, 2, 2]])  # fmt: skip
    assert labels.tolist() == [2] and left_out == 1


def test_contradictions_between_heads():
    labels = np.array([0, 1, 2, 2] * 5)
    p = predictions(OCT, labels, 0)
    fine = np.eye(3)[[0, 1, 2, 2] * 5].astype(np.float32)
    coarse = np.eye(2)[[1, 0, 0, 1] * 5].astype(np.float32)  # DME called normal, NO abnormal
    p = Predictions(p.ids, p.groups, p.labels, {"TO1": fine, "TO2": coarse})
    found = statistics_document(OCT, {"validation": p, "test": p}, details={}, is_phantom=False,
                                has_patient_ids=False, replicates=50)  # fmt: skip
    (agreement,) = found["agreement"]
    assert agreement["value"] == 0.5 and agreement["tasks"] == ["TO2", "TO1"]
    assert found["unit"] == "image" and "cannot be verified" in found["note"]


def test_undefined_values_have_a_reason():
    labels = np.full(30, 4)
    found = task_statistics(FUNDUS[0], np.ones(30, int), predictions(FUNDUS, labels, 0)
                            .probabilities["TF1"], range(30), replicates=50)  # fmt: skip
    auroc = found["metrics"]["auroc"]
    assert np.isnan(auroc["value"]) and auroc["reason"] == "only class abnormal has examples"
    empty = task_statistics(FUNDUS[0], np.full(3, -1), np.full((3, 2), 0.5), range(3))
    assert empty["metrics"]["auroc"]["value"] is None and empty["metrics"]["auroc"]["reason"]


def test_curves_agree_with_scikit_learn():
    from sklearn.metrics import average_precision_score, roc_auc_score

    rng = np.random.default_rng(0)
    truth = rng.random(400) < 0.3
    score = truth + rng.normal(size=400)
    found = rank_curves({"x": (truth, score)}, np.arange(400))["x"]
    roc, pr = (np.asarray(found[k]["y"]) for k in ("roc", "pr"))
    assert np.trapezoid(roc, GRID) == pytest.approx(roc_auc_score(truth, score), abs=0.01)
    assert pr[1:].mean() == pytest.approx(average_precision_score(truth, score), abs=0.02)
    for name in found:
        low, y, high = (np.asarray(found[name][k]) for k in ("low", "y", "high"))
        assert (low <= y + 1e-9)[5:95].mean() > 0.97 and (high >= y - 1e-9)[5:95].mean() > 0.97
    bins = reliability(truth.astype(int), np.stack([1 - truth, truth], 1).astype(float))
    assert bins == [{"confidence": 1.0, "accuracy": 1.0, "count": 400}]


def test_temperature_undoes_what_was_multiplied():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 1.5
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random((20_000, 1)) > p.cumsum(1)).sum(1)
    assert fit_temperature(labels, p) == pytest.approx(1.0, abs=0.05)
    sharp = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    assert fit_temperature(labels, sharp) == pytest.approx(3.0, abs=0.15)
    np.testing.assert_allclose(scale(sharp, 3.0), p, atol=1e-9)
    assert fit_temperature(np.zeros(9, int), p[:9]) is None


def test_paired_differences():
    labels = np.random.default_rng(0).integers(0, 3, 300)
    good, bad = predictions(OCT, labels, 1, skill=2.5), predictions(OCT, labels, 2, skill=0.5)
    found = compare(OCT[0], good, bad, replicates=500)
    accuracy = found["metrics"]["accuracy"]
    assert accuracy["low"] > 0 and accuracy["p"] < 0.01
    same = compare(OCT[0], good, good, replicates=100)["metrics"]["accuracy"]
    assert same["difference"] == same["low"] == same["high"] == 0 and same["p"] == 1
    half = Predictions(bad.ids[::2], bad.groups[::2], {k: v[::2] for k, v in bad.labels.items()},
                       {k: v[::2] for k, v in bad.probabilities.items()})  # fmt: skip
    part = compare(OCT[0], good, half, replicates=50)
    assert part["count"] == 150 and part["only_first"] == 150
    other = Predictions(bad.ids, bad.groups, {"TO1": (labels + 1) % 3}, bad.probabilities)
    with pytest.raises(ValueError, match="different labels"):
        compare(OCT[0], good, other)


def test_a_run_leaves_its_statistics(finished):
    found = json.loads((finished / "statistics.json").read_text())
    metrics = json.loads((finished / "metrics.json").read_text())
    for task, values in metrics["test"].items():
        for name, value in values.items():
            if name != "count":
                there = found["splits"]["test"][task]["metrics"][name]["value"]
                assert there == pytest.approx(value) if value is not None else there is None
    text = (finished / "statistics.json").read_text()
    assert not any(row["id"] in text for row in read_rows(finished))
    tasks = load_trained(finished).tasks
    read = read_predictions(finished / "predictions.csv", tasks)
    assert {k: len(v.ids) for k, v in read.items()} == {"validation": 40, "test": 50}


def test_damaged_predictions_are_named(tmp_path):
    with pytest.raises(ValueError, match="predictions.csv is missing"):
        read_predictions(tmp_path / "predictions.csv", OCT)
    (tmp_path / "predictions.csv").write_text("id,group,split,TO1\na,b,test")
    with pytest.raises(ValueError, match=r"predictions.csv is damaged \(line 2 is cut off\)"):
        read_predictions(tmp_path / "predictions.csv", OCT)


def test_a_question_has_its_answer_in_any_company():
    labels = np.random.default_rng(0).integers(0, 3, 90)
    p = predictions(OCT, labels, 1).probabilities["TO1"].astype(float)
    both, groups = (labels, p), np.arange(90)
    asked = op.questions(OCT[0])
    together = op.operating_points(asked, both, both, groups, replicates=60)
    alone = [op.operating_points([q], both, both, groups, replicates=60)[0] for q in asked]
    assert together == alone and len({q["auroc"]["value"] for q in together}) == 3


def test_replicates_are_drawn_as_often_for_many_classes(monkeypatch):
    """Drawing them for every class anew took most of the time of a task of 60."""
    drawn = []
    real = bootstrap.replicate_weights

    def counted(*args, **options):
        drawn.append(args)
        return real(*args, **options)

    monkeypatch.setattr(bootstrap, "replicate_weights", counted)
    counts = []
    for classes in (3, 30):
        tasks = make_tasks("oct", [f"C{k}" for k in range(classes)], "C0")
        labels = np.arange(120) % classes
        p = predictions(tasks, labels, 0)
        drawn.clear()
        document = statistics_document(
            tasks, {"validation": p, "test": p}, details={}, is_phantom=False,
            has_patient_ids=False, replicates=20,
        )  # fmt: skip
        assert len(document["curves"]["TO1"]) == classes
        counts.append(len(drawn))
    assert counts[0] == counts[1]


def test_it_is_told_how_far_it_is():
    said, told = [], []
    p = predictions(OCT, np.arange(60) % 3, 0)
    statistics_document(OCT, {"validation": p, "test": p}, details={}, is_phantom=False,
                        has_patient_ids=False, replicates=20, tell=told.append)  # fmt: skip
    assert told[0] == "statistics: metrics of TO1 on validation, 20 of 20 replicates"
    assert any("operating points of TO2" in t for t in told)
    tell = now_and_then(said.append, seconds=0.05)
    tell("at once")
    time.sleep(0.06)
    tell("late")
    tell("just after")
    assert said == ["late"]
