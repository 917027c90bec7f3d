"""Out-of-fold predictions of a cross-validation, pooled into one test set a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ablate.record import Record, merged_document

FOLD = "pooled"
"""What stands in place of a fold's number."""


def pooled(records: Sequence[Record], folds: int) -> list[Record]:
    """Joins the folds of every seed.

    A macro mean over pooled predictions weighs every image once, and a class that is rare in a
    fold does not make that fold's value a matter of chance.

    Args:
      records: of one condition.
      folds: number of folds that make a seed complete.

    Returns:
      A record a seed that is complete.

    Raises:
      ValueError: if an image is in two test folds.
    """
    by_seed: dict[Any, list[Record]] = {}
    for record in records:
        by_seed.setdefault(record.seed, []).append(record)
    return [_joined(parts) for parts in by_seed.values() if len(parts) == folds]


def _joined(parts: Sequence[Record]) -> Record:
    first = parts[0]
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids, kind="stable")
    if np.unique(ids).size < ids.size:
        names = ", ".join(part.name for part in parts)
        raise ValueError(
            f"records {names}: an image is in the test set of two of them, so their predictions "
            "cannot be pooled. Prepare the data with --folds and run the cells again."
        )

    def joined(of: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        return {name: np.concatenate([d[name] for d in of])[order] for name in of[0]}

    config = first.document["config"]
    config = {**config, "data": {**config["data"], "fold": FOLD}}
    return Record(
        f"{first.name}-{FOLD}",
        merged_document(parts, config),
        first.tasks,
        ids[order],
        np.concatenate([part.groups for part in parts])[order],
        joined([part.labels for part in parts]),
        joined([part.probabilities for part in parts]),
    )
