"""Seeds of a condition as one predictor: the mean of their probabilities.

Reference:
  Lakshminarayanan, Pritzel and Blundell, Simple and Scalable Predictive Uncertainty Estimation
    using Deep Ensembles, NeurIPS 2017.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from ablate.record import Record, merged_document

SEED = "ensemble"
"""What stands in place of a seed's number."""


def ensembled(records: Sequence[Record]) -> list[Record]:
    """Averages the probabilities of the seeds of every fold.

    Args:
      records: of one condition; those of a fold have the same test set.

    Returns:
      A record a fold that has two seeds or more.

    Raises:
      ValueError: if members of a fold are of several preparations or test sets, so that one may
        have been trained on what another tests.
    """
    by_fold: dict[Any, list[Record]] = {}
    for record in records:
        by_fold.setdefault(record.fold, []).append(record)
    return [_mean(parts) for parts in by_fold.values() if len(parts) > 1]


def _mean(parts: Sequence[Record]) -> Record:
    first = parts[0]
    for part in parts[1:]:
        same = part.document.get("data_fingerprint") == first.document.get("data_fingerprint")
        if not (same and np.array_equal(part.ids, first.ids)):
            raise ValueError(
                f"records {first.name} and {part.name} are of two divisions of the data, so that "
                "one may have been trained on images that the other tests; they are no ensemble."
            )
    return dataclasses.replace(
        first,
        name=f"{first.name}-{SEED}",
        document=merged_document(parts, {**first.document["config"], "seed": SEED}),
        probabilities={
            task: np.mean([part.probabilities[task] for part in parts], axis=0)
            for task in first.probabilities
        },
    )
