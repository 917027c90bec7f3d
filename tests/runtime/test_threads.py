"""The map in threads: order, how far it goes ahead, and its end."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlsrl_jax.runtime.threads import ordered_map


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 3)), st.integers(1, 5), st.integers(1, 9))
def test_results_are_in_the_order_of_the_values(values, workers, ahead):
    def slow(value):
        time.sleep(value / 1e4)
        return value, threading.get_ident()

    found = list(ordered_map(slow, values, workers, ahead=ahead))
    assert [value for value, _ in found] == values
    assert len({thread for _, thread in found}) <= workers


def test_values_are_taken_no_further_than_ahead():
    taken = []
    values = (taken.append(k) or k for k in range(100))
    results = ordered_map(lambda k: k, values, 2, ahead=5)
    assert next(results) == 0 and taken == [0, 1, 2, 3, 4]
    assert next(results) == 1 and taken == [0, 1, 2, 3, 4, 5]
    results.close()
    assert len(taken) == 6


def test_after_an_error_what_waits_is_not_done():
    done = []

    def fail(value):
        if value == 0:
            raise ValueError("no")
        time.sleep(0.05)
        done.append(value)

    with pytest.raises(ValueError, match="no"):
        list(ordered_map(fail, range(40), 1, ahead=40))
    assert len(done) < 5
