"""What a person put wrongly is told in words, not by NumPy."""

import numpy as np
import pytest

from wlsrl_jax.evaluate.comparison import compare
from wlsrl_jax.evaluate.external import parse_label_map
from wlsrl_jax.evaluate.predictions import Predictions
from wlsrl_jax.files import Mistake
from wlsrl_jax.tasks import Task


def test_no_image_of_both_runs_has_a_label():
    task = Task("TO1", ("a", "b"), (0, 1), False)
    ids = np.asarray(["x", "y"])
    runs = [
        Predictions(ids, ids, {"TO1": np.asarray([-1, -1])}, {"TO1": np.full((2, 2), 0.5)})
        for _ in range(2)
    ]
    with pytest.raises(Mistake, match="task TO1: no image .* has a label"):
        compare(task, *runs)


def test_a_class_that_stands_twice_in_the_label_map():
    assert parse_label_map("A:X, B:X") == {"A": "X", "B": "X"}
    with pytest.raises(Mistake, match="maps A twice"):
        parse_label_map("A:X,B:X,A :Y")
