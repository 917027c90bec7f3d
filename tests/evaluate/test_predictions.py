"""Predictions of a split, written and read back."""

import numpy as np

from wlsrl_jax.evaluate.predictions import Predictions, read_predictions, write_predictions
from wlsrl_jax.tasks import MISSING, make_tasks


def test_no_cell_is_a_formula_and_every_one_is_read_back(tmp_path):
    tasks = make_tasks("oct", ("=wet, AMD", "-dry", "NO"), "NO")
    ids = np.asarray(["=1+1", "+a", "-b", "@c", "'=d", "007", "1e5"])
    groups = np.asarray(["-1", "=2", "'x", "05", "5.0", "a,b", "@"])
    labels = {t.name: np.asarray([0, 1, MISSING, 0, 1, 0, 1], np.int32) for t in tasks}
    rng = np.random.default_rng(0)
    p = {t.name: rng.random((7, len(t.classes))).astype(np.float32) for t in tasks}
    write_predictions(tmp_path / "p.csv", tasks, {"test": Predictions(ids, groups, labels, p)})
    lines = (tmp_path / "p.csv").read_text().splitlines()[1:]
    assert not [c for line in lines for c in line.split(",") if c.startswith(tuple("=+-@"))]
    found = read_predictions(tmp_path / "p.csv", tasks)["test"]
    assert found.ids.tolist() == ids.tolist() and found.groups.tolist() == groups.tolist()
    for task in tasks:
        np.testing.assert_array_equal(found.labels[task.name], labels[task.name])
        np.testing.assert_array_equal(found.probabilities[task.name], p[task.name])
