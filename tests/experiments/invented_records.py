"""Records of invented cells, and the analysis of a grid of them."""

import numpy as np

from ablate import analysis
from ablate.record import Record
from wlsrl_jax.tasks import make_tasks

TASKS = make_tasks("oct", ("AMD", "DME", "NO"), "NO")
FOLDS = {k: {"data.fold": k} for k in range(3)}
LOSSES = {"ce": {"loss.name": "ce"}, "ls": {"loss.name": "ls"}}


def make_record(name, fold, seed, count=17):
    rng = np.random.default_rng([fold, 7])
    labels = {t.name: rng.integers(0, t.num_classes, count) for t in TASKS}
    own = np.random.default_rng([fold, seed, len(name), 9])
    probabilities = {
        t.name: own.dirichlet(np.ones(t.num_classes), count).astype(np.float32) for t in TASKS
    }
    document = {
        "config": {"seed": seed, "data": {"fold": fold}, "task_weights": {"TO1": 1.0, "TO2": 1.0}},
        "predictions_sha256": f"{name}{fold}{seed}", "dataset": "octdl", "has_patient_ids": True,
        "phantom": False, "seconds": 2.0, "starts": 1,
        "machine": {"processor": "P", "cores": 2, "devices": ["cpu:0"]},
    }  # fmt: skip
    ids = np.sort(rng.choice(10_000, count, replace=False)) * 3 + fold
    groups = ids // 60 * 3 + fold
    return Record(name, document, TASKS, ids.astype("u8"), groups.astype("u8"), labels,
                  probabilities)  # fmt: skip


def invented(grid):
    return {
        cell.name: make_record(*(cell.labels[column] for column in ("loss", "fold", "seed")))
        for cell in grid.cells
    }


def analysed(grid, records, directory, monkeypatch):
    (directory / "records").mkdir(exist_ok=True)
    for name in records:
        (directory / "records" / f"{name}.json").write_text("{}")
    monkeypatch.setattr(analysis, "read_record", lambda _, name: records[name])
    states = {c.name: "finished" if c.name in records else "pending" for c in grid.cells}
    return analysis.analyse(grid, directory, states, replicates=50)
