import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from wlsrl_jax import metrics
from wlsrl_jax.tasks import Task

GRADES = Task("TF2", tuple("01234"), tuple(range(5)), ordinal=True)
BINARY = Task("TO2", ("normal", "abnormal"), (0, 1))


def random_case(seed, classes, size, absent=()):
    rng = np.random.default_rng(seed)
    present = [k for k in range(classes) if k not in absent]
    labels = np.concatenate([present, rng.choice(present, size)])
    # Few distinct values, so that scores tie.
    scores = rng.integers(1, 5, (labels.size, classes)).astype(float)
    return labels, scores / scores.sum(axis=1, keepdims=True)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(5, 60))
def test_agrees_with_scikit_learn(seed, size):
    labels, p = random_case(seed, 5, size)
    values, undefined = metrics.evaluate_task(GRADES, labels, p)
    predicted = p.argmax(1)
    assert values["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert values["balanced_accuracy"] == pytest.approx(
        sk.balanced_accuracy_score(labels, predicted)
    )
    assert values["macro_f1"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert values["auroc"] == pytest.approx(
        sk.roc_auc_score(labels, p, multi_class="ovr", average="macro")
    )
    assert values["qwk"] == pytest.approx(
        sk.cohen_kappa_score(labels, predicted, weights="quadratic"), nan_ok=True
    )
    assert "auroc" not in undefined


def weighted_case(seed, classes, size, absent=()):
    """Labels, tied probabilities, and integer weights of which each class has one at least."""
    labels, p = random_case(seed, classes, size, absent)
    weights = np.random.default_rng(seed + 1).integers(0, 4, labels.size)
    weights[: np.unique(labels).size] = 1
    return labels, p, weights


def repeated(values, weights):
    return np.repeat(values, weights, axis=0)


def one_against_rest(metric, labels, p, weights, task):
    present = np.unique(labels)
    wanted = present if task.num_classes > 2 else (1,)
    return np.mean([metric(labels == k, p[:, k], sample_weight=weights) for k in wanted])


def ece(confidence, correct, edges):
    """Independent of the package: bins by their edges, (a, b]."""
    inside = [(confidence > a) & (confidence <= b) for a, b in zip(edges[:-1], edges[1:])]
    gaps = [abs(confidence[i].mean() - correct[i].mean()) * i.sum() for i in inside if i.any()]
    return sum(gaps) / confidence.size


@pytest.mark.parametrize("task", [GRADES, BINARY], ids=["grades", "binary"])
@settings(deadline=None, max_examples=500)
@given(st.integers(0, 2**32 - 1), st.integers(4, 50), st.booleans())
def test_weighted_metrics_agree_with_scikit_learn(task, seed, size, lacking):
    """1,000 cases with ties and weights, half of the five-class ones without a class."""
    absent = (2,) if lacking and task is GRADES else ()
    labels, p, w = weighted_case(seed, task.num_classes, size, absent)
    columns, each = metrics.weighted_metrics(task, labels, p, np.stack([np.ones_like(w), w]))
    predicted, present = p.argmax(1), np.unique(labels)
    both = {"sample_weight": w}
    mean = {"labels": present, "average": "macro", **both} if task is GRADES else both
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": sk.accuracy_score(labels, predicted, **both),
            "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted, **both),
            "macro_f1": sk.f1_score(labels, predicted, labels=present, average="macro", **both),
            "sensitivity": sk.recall_score(labels, predicted, **mean),
            "ppv": sk.precision_score(labels, predicted, zero_division=np.nan, **mean),
            "mcc": sk.matthews_corrcoef(labels, predicted, **both),
            "auroc": one_against_rest(sk.roc_auc_score, labels, p, w, task),
            "auprc": one_against_rest(sk.average_precision_score, labels, p, w, task),
            "log_loss": sk.log_loss(labels, p, labels=np.arange(task.num_classes), **both),
            "brier": sk.brier_score_loss(
                labels, p if task is GRADES else p[:, 1], sample_weight=w,
                **({"labels": np.arange(5)} if task is GRADES else {}),
            ),
        }  # fmt: skip
    if task is GRADES:
        expected["qwk"] = sk.cohen_kappa_score(
            labels, predicted, labels=np.arange(5), weights="quadratic", **both
        )
    for name, value in expected.items():
        found = columns[name][1]
        if name == "ppv" and np.isnan(found):  # a class that is never predicted: scikit-learn
            assert set(present) - set(repeated(predicted, w))  # leaves it out of the mean
        elif name == "mcc" and np.isnan(found):  # scikit-learn says 0
            assert np.unique(repeated(predicted, w)).size == 1 and value == 0
        else:
            assert found == pytest.approx(value, abs=1e-9), name
    # Weights mean repetition, for the others too.
    confidence, correct = repeated(p.max(1), w), repeated(predicted == labels, w)
    edges = np.linspace(0, 1, metrics.CALIBRATION_BINS + 1)
    assert columns["ece"][1] == pytest.approx(ece(confidence, correct, edges))
    again, _ = metrics.weighted_metrics(
        task, repeated(labels, w), repeated(p, w), np.ones((1, w.sum()))
    )
    for name in columns:
        np.testing.assert_allclose(columns[name][1], again[name][0], atol=1e-9, err_msg=name)
    for k, name in enumerate(task.classes):
        truth, yes = labels == k, predicted == k
        table = sk.confusion_matrix(truth, yes, labels=[False, True], sample_weight=w)
        (tn, fp), (fn, tp) = table
        with np.errstate(invalid="ignore", divide="ignore"):
            hand = {"sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp),
                    "ppv": tp / (tp + fp), "npv": tn / (tn + fn)}  # fmt: skip
        for metric, value in hand.items():
            np.testing.assert_allclose(each[name][metric][1], value, err_msg=f"{name} {metric}")


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_agrees_with_torchmetrics_and_statsmodels(seed):
    tm = pytest.importorskip("torchmetrics.functional.classification")
    agreement = pytest.importorskip("statsmodels.stats.inter_rater")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(5), 60)
    labels = np.concatenate([np.arange(5), rng.integers(0, 5, 55)])
    values, _ = metrics.evaluate_task(GRADES, labels, p)
    both = torch.tensor(p), torch.tensor(labels)
    expected = {
        "ece": tm.multiclass_calibration_error(*both, 5, n_bins=metrics.CALIBRATION_BINS),
        "auroc": tm.multiclass_auroc(*both, 5),
        "auprc": tm.multiclass_average_precision(*both, 5),
        "mcc": tm.multiclass_matthews_corrcoef(*both, 5),
    }
    for name, value in expected.items():
        assert values[name] == pytest.approx(float(value), abs=1e-5), name
    table = sk.confusion_matrix(labels, p.argmax(1), labels=np.arange(5))
    kappa = agreement.cohens_kappa(table, weights=np.arange(5) ** 2 * 0 + np.arange(5), wt="fc")
    assert values["qwk"] == pytest.approx(kappa.kappa)


def test_equal_mass_bins_hold_equally_many():
    confidence = np.random.default_rng(0).random(15_000)
    bins = metrics.calibration_bins(confidence, np.ones((1, 15_000)), equal_mass=True)[0]
    assert (np.bincount(bins) == 1000).all()
    tied = metrics.calibration_bins(np.full(30, 0.5), np.ones((1, 30)), equal_mass=True)
    assert np.unique(tied).size == 1


def test_hand_computed_quadratic_kappa():
    # Observed sum of squared distances 1, expected by chance 4: kappa = 1 - 1/4.
    labels, predicted = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])
    expected = np.mean([(a - b) ** 2 for a in labels for b in predicted])
    observed = np.mean((labels - predicted) ** 2)
    task = Task("TF2", tuple("012"), tuple(range(3)), ordinal=True)
    values, _ = metrics.evaluate_task(task, labels, np.eye(3)[predicted])
    assert values["qwk"] == pytest.approx(1 - observed / expected)


def test_binary_sensitivity_and_specificity():
    labels = np.array([1, 1, 1, 1, 0, 0])
    abnormal = np.array([0.9, 0.8, 0.7, 0.1, 0.2, 0.6])
    values, undefined = metrics.evaluate_task(BINARY, labels, np.stack([1 - abnormal, abnormal], 1))
    assert values["sensitivity"] == 0.75 and values["specificity"] == 0.5
    assert values["auroc"] == pytest.approx(6 / 8)
    assert not undefined


def test_one_class_gives_nan_with_a_reason():
    p = np.full((3, 2), 0.5)
    values, undefined = metrics.evaluate_task(BINARY, np.ones(3, int), p)
    for name in ("auroc", "balanced_accuracy", "macro_f1", "specificity"):
        assert np.isnan(values[name]) and undefined[name] == "only class abnormal has examples"
    assert values["sensitivity"] == values["accuracy"] == 0.0
    assert undefined["classes_without_examples"] == "normal"
    empty, reasons = metrics.evaluate_task(BINARY, np.full(3, -1), p)
    assert empty["count"] == 0 and np.isnan(empty["accuracy"]) and "accuracy" in reasons


def test_absent_grades_take_no_part_in_means():
    labels, p = random_case(0, 5, 40, absent=(0, 1))
    values, undefined = metrics.evaluate_task(GRADES, labels, p)
    recalls = [(p.argmax(1)[labels == k] == k).mean() for k in (2, 3, 4)]
    assert values["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert undefined["classes_without_examples"] == "0, 1"


def test_missing_labels_are_left_out():
    labels, p = random_case(1, 5, 30)
    more = np.concatenate([labels, [-1, -1]]), np.concatenate([p, p[:2]])
    assert metrics.evaluate_task(GRADES, labels, p) == metrics.evaluate_task(GRADES, *more)


def test_bad_probabilities_are_errors():
    with pytest.raises(ValueError, match="shape"):
        metrics.evaluate_task(BINARY, np.zeros(3, int), np.zeros((3, 5)))
    with pytest.raises(ValueError, match="not finite"):
        metrics.evaluate_task(BINARY, np.zeros(1, int), np.array([[np.nan, 0.5]]))


def test_selection_skips_undefined_parts():
    nan = float("nan")
    results = {
        "TF1": {"macro_f1": 0.5, "auroc": nan},
        "TF2": {"qwk": 0.7, "auroc": 0.9, "macro_f1": 0.1},
    }
    assert metrics.selection_score(results) == pytest.approx((0.5 + 0.8) / 2)
    assert metrics.selection_score({}) == float("-inf")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("decimals", [1, 9])
def test_merged_thresholds_change_no_bit(dtype, share, decimals):
    rng = np.random.default_rng(0)
    for size in (1, 40, 3000):
        positive = rng.random(size) < share
        score = (rng.random(size) + 0.3 * positive).round(decimals)
        weights = rng.poisson(1, (5, size)).astype(dtype)
        whole = metrics.RankCurve(positive, score, weights)
        merged = metrics.RankCurve(positive, score, weights, merged=True)
        assert whole.auroc().tobytes() == merged.auroc().tobytes()
        if dtype == np.float64:
            assert whole.average_precision().tobytes() == merged.average_precision().tobytes()
        at = np.searchsorted(-whole.thresholds, -merged.thresholds)
        np.testing.assert_array_equal(whole.true[:, at], merged.true)
        np.testing.assert_array_equal(whole.false[:, at], merged.false)
        sums = (weights * positive)[:, np.argsort(-score, kind="stable")].cumsum(axis=1)
        np.testing.assert_array_equal(whole.true[:, -1], sums[:, -1])
    if share == 0.01 and decimals == 9:
        assert merged.thresholds.size < whole.thresholds.size / 10
