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


def test_hand_computed_quadratic_kappa():
    # Observed sum of squared distances 1, expected by chance 4: kappa = 1 - 1/4.
    labels, predicted = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])
    expected = np.mean([(a - b) ** 2 for a in labels for b in predicted])
    observed = np.mean((labels - predicted) ** 2)
    assert metrics.quadratic_weighted_kappa(labels, predicted, 3) == pytest.approx(
        1 - observed / expected
    )


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
