import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlsrl_jax.training.class_weights import SCHEMES, class_weights

EYEPACS = [25810, 2443, 5292, 873, 708]
counts_lists = st.lists(st.integers(1, 10**6), min_size=2, max_size=8)


@settings(deadline=None)
@given(counts_lists, st.sampled_from(SCHEMES))
def test_data_mean_is_one_and_rarer_is_never_lighter(counts, scheme):
    w = class_weights(counts, scheme).astype(float)
    assert w @ counts == pytest.approx(sum(counts), rel=1e-5)
    order = np.argsort(counts)
    assert (np.diff(w[order]) <= 1e-5 * w.max()).all()


def test_inverse_formula():
    expected = sum(EYEPACS) / (5 * np.array(EYEPACS))
    np.testing.assert_allclose(class_weights(EYEPACS, "inverse"), expected, rtol=1e-6)


def test_effective_number_formula():
    raw = (1 - 0.99) / (1 - 0.99 ** np.array([3.0, 50.0]))
    w = class_weights([3, 50], "effective_number", beta=0.99)
    assert w[0] / w[1] == pytest.approx(raw[0] / raw[1], rel=1e-6)


def test_effective_number_keeps_its_digits_near_one():
    # For beta -> 1 the scheme tends to inverse frequency; 1 - beta**n would be all rounding.
    w = class_weights([1, 1000], "effective_number", beta=1 - 1e-13)
    assert w[0] / w[1] == pytest.approx(1000, rel=1e-3)


def test_class_without_examples_is_named():
    with pytest.raises(ValueError, match="Task TF2: no training example of class 1, 3"):
        class_weights([5, 0, 5, 0], task="TF2", class_names=list("0123"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_allowed_missing_class_takes_no_part(scheme):
    w = class_weights([30, 0, 10], scheme, allow_missing=True)
    assert w[1] == 0
    np.testing.assert_allclose(w[[0, 2]], class_weights([30, 10], scheme), rtol=1e-6)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (([1, 2], "cubic"), "none, inverse, sqrt_inverse"),
        (([1, -2],), ">= 0"),
        (([0, 0],), "no labelled example"),
        (([],), ">= 0"),
    ],
)
def test_wrong_arguments(args, message):
    with pytest.raises(ValueError, match=message):
        class_weights(*args)


@pytest.mark.parametrize("beta", [-0.1, 1.0, float("nan")])
def test_beta_out_of_range(beta):
    with pytest.raises(ValueError, match="beta"):
        class_weights([1, 2], "effective_number", beta=beta)
