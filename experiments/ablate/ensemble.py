"""Seeds of a condition as one predictor: the mean of their probabilities.

Reference:
  Lakshminarayanan, Pritzel and Blundell, Simple and Scalable Predictive Uncertainty Estimation
    using Deep Ensembles, NeurIPS 2017.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ablate.record import Record

SEED = "ensemble"
"""What stands in place of a seed's number."""


def ensembled(records: Sequence[Record]) -> list[Record]:
    """Averages the probabilities of the seeds of every fold.

    Args:
      records: of one condition; those of a fold have the same test set.

    Returns:
      A record a fold that has two seeds or more.
    """
    by_fold: dict[Any, list[Record]] = {}
    for record in records:
        by_fold.setdefault(record.document["config"]["data"]["fold"], []).append(record)
    return [_mean(parts) for parts in by_fold.values() if len(parts) > 1]


def _mean(parts: Sequence[Record]) -> Record:
    first = parts[0]
    hashes = "".join(sorted(part.document["predictions_sha256"] for part in parts))
    probabilities: Mapping[str, np.ndarray] = {
        task: np.mean([part.probabilities[task] for part in parts], axis=0)
        for task in first.probabilities
    }
    document = {
        **first.document,
        "config": {**first.document["config"], "seed": SEED},
        "predictions_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
    }
    return Record(
        f"{first.name}-{SEED}",
        document,
        first.tasks,
        first.ids,
        first.groups,
        first.labels,
        probabilities,
    )
