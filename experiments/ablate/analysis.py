"""From records to the numbers of the tables."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ablate.ensemble import ensembled
from ablate.grid import Cell, Grid, count_folds
from ablate.pool import pooled
from ablate.record import Record, json_path, read_record
from ablate.statistics import Estimate, Sample, estimate, holm
from wlsrl_jax import __version__
from wlsrl_jax.evaluate import bootstrap
from wlsrl_jax.evaluate.statistics import WITHOUT_INTERVAL
from wlsrl_jax.files import write_whole
from wlsrl_jax.metrics import labelled, weighted_metrics
from wlsrl_jax.tasks import Task

Condition = tuple[tuple[str, Any], ...]
Key = tuple[str, str]
"""(task, metric)."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """A condition minus its baseline.

    Attributes:
      estimate: of the paired difference.
      corrected: p-value by Holm over all differences of the grid.
    """

    estimate: Estimate
    corrected: float


@dataclasses.dataclass(frozen=True)
class Row:
    """A condition.

    Attributes:
      condition: its labels.
      states: what has become of its cells, such as {"finished": 2, "failed": 1}.
      values: (task, metric) -> estimate; nothing for a head that was not trained.
      differences: the same to the baseline; empty for the baseline itself.
      seconds: mean time of its cells that ran in one go; NaN if none did.
      seeds: that its values are of.
      ensemble: the values with the probabilities of its seeds averaged; empty with one seed, or
        where the grid does not ask for it.
      gains: of the ensemble over the mean of its seeds one by one, on the same images; an interval
        over patients alone.
    """

    condition: Condition
    states: Mapping[str, int]
    values: Mapping[Key, Estimate]
    differences: Mapping[Key, Difference]
    seconds: float
    seeds: int
    ensemble: Mapping[Key, Estimate]
    gains: Mapping[Key, Estimate]


@dataclasses.dataclass(frozen=True)
class Analysis:
    """All that a grid has given.

    Attributes:
      rows: the conditions, in the grid's order.
      comparisons: number of differences that were tested.
      folds: most folds of a condition.
      groups: patients of the test sets, over all folds.
      images: images of the test sets, over all folds.
      has_patient_ids: whether the groups are patients.
      phantom: whether the data were drawn.
      machines: processors and devices that cells ran on.
    """

    rows: tuple[Row, ...]
    comparisons: int
    folds: int
    groups: int
    images: int
    has_patient_ids: bool
    phantom: bool
    machines: tuple[str, ...]

    @property
    def seeds(self) -> int:
        """Most seeds of a condition."""
        return max(row.seeds for row in self.rows)

    @property
    def fewest_seeds(self) -> int:
        """Fewest seeds of a condition that has values; 0 if none has."""
        return min((row.seeds for row in self.rows if row.seeds), default=0)


def analyse(
    grid: Grid,
    directory: Path,
    states: Mapping[str, str],
    *,
    replicates: int = bootstrap.REPLICATES,
) -> Analysis | None:
    """Computes means, intervals and tests from the records of a grid.

    Args:
      grid: the grid.
      directory: of it.
      states: name of a cell -> what has become of it.
      replicates: of the bootstrap.

    Returns:
      The analysis; None if no cell is finished.

    Raises:
      ValueError: if cells that should share a test set do not, or a record is damaged.
    """
    members: dict[Condition, list[Cell]] = {}
    for cell in grid.cells:
        members.setdefault(cell.condition, []).append(cell)
    records = {
        cell.name: read_record(directory, cell.name)
        for cell in grid.cells
        if json_path(directory, cell.name).exists()
    }
    if not records:
        return None
    _check_test_sets(records.values())
    cache = directory / "cache"
    cache.mkdir(exist_ok=True)
    tested = {condition: _of(cells, records) for condition, cells in members.items()}
    if grid.pooled:
        tested = {
            condition: pooled(found, count_folds(members[condition]))
            for condition, found in tested.items()
        }
    samples = {c: _samples(grid, found, replicates, cache) for c, found in tested.items()}
    raw: dict[tuple[Condition, Key], Estimate] = {}
    for condition in members:
        baseline = baseline_of(grid, condition)
        if condition == baseline or baseline not in members:
            continue
        for key in samples[condition].keys() & samples[baseline].keys():
            if key[1] not in WITHOUT_INTERVAL:
                mine, its = _common(samples[condition][key], samples[baseline][key])
                if mine:
                    pairs = zip(mine, its, strict=True)
                    raw[condition, key] = estimate([a - b for a, b in pairs])
    keys = list(raw)
    corrected = dict(zip(keys, holm([raw[k].p for k in keys]), strict=True))
    rows = []
    for condition, cells in members.items():
        done = [records[c.name].document for c in cells if c.name in records]
        undisturbed = [d["seconds"] for d in done if d["starts"] == 1]
        counts: dict[str, int] = {}
        for cell in cells:
            counts[states[cell.name]] = counts.get(states[cell.name], 0) + 1
        together = ensembled(tested[condition]) if grid.ensemble else []
        ensemble = _samples(grid, together, replicates, cache)
        rows.append(
            Row(
                condition,
                counts,
                _values(samples[condition]),
                {
                    key: Difference(raw[c, key], corrected[c, key])
                    for c, key in keys
                    if c == condition
                },
                float(np.mean(undisturbed)) if undisturbed else math.nan,
                len({r.seed for r in tested[condition]}),
                _values(ensemble),
                _gains(ensemble, samples[condition]),
            )
        )
    sets = {(r.document["dataset"], r.fold): r for r in records.values()}
    return Analysis(
        tuple(rows),
        sum(not math.isnan(raw[k].p) for k in keys),
        len({r.fold for r in records.values()}),
        sum(np.unique(r.groups).size for r in sets.values()),
        sum(r.ids.size for r in sets.values()),
        all(r.document["has_patient_ids"] for r in records.values()),
        any(r.document["phantom"] for r in records.values()),
        tuple(sorted({_machine(r) for r in records.values()})),
    )


def baseline_of(grid: Grid, condition: Condition) -> Condition:
    """What a condition is compared with."""
    return tuple((column, grid.baseline.get(column, value)) for column, value in condition)


BySeed = dict[Any, Sample]
"""Seed -> its sample of one seed."""


def _samples(
    grid: Grid, records: Sequence[Record], replicates: int, cache: Path
) -> dict[Key, dict[Any, BySeed]]:
    """(task, metric) -> fold -> seed -> sample."""
    found: dict[Key, dict[Any, BySeed]] = {}
    for record in records:
        weights = record.document["config"]["task_weights"]
        for task in record.tasks:
            wanted = grid.metrics.get(task.name, ())
            if not wanted or weights[task.name] == 0:
                continue
            for metric, sample in _sample(task, record, wanted, replicates, cache).items():
                by_fold = found.setdefault((task.name, metric), {})
                by_fold.setdefault(record.fold, {})[record.seed] = sample
    return found


def _sample(
    task: Task, record: Record, metrics: Sequence[str], replicates: int, cache: Path
) -> dict[str, Sample]:
    """The metrics of a cell on its test set and on replicates of the patients.

    That takes a second a cell, so it is kept until the predictions or this code's inputs change.
    """
    known = record.labels[task.name] >= 0
    labels, probabilities = labelled(
        task, record.labels[task.name], record.probabilities[task.name]
    )
    if not labels.size:
        nothing = Sample(np.full(1, np.nan), np.full((1, replicates), np.nan), 0)
        return dict.fromkeys(metrics, nothing)
    index = bootstrap.group_index(record.groups[known])
    groups = int(index.max()) + 1

    def values(weights: np.ndarray) -> dict[str, np.ndarray]:
        columns, _ = weighted_metrics(task, labels, probabilities, weights)
        return {name: columns[name] for name in metrics}

    made_from = [record.document["predictions_sha256"], list(metrics), replicates, __version__]
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    path = cache / f"{record.name}_{task.name}_{key}.npz"
    try:
        with np.load(path) as kept:
            both = {name: kept[name] for name in metrics}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):  # not there, or cut off
        point = values(np.ones((1, labels.size)))
        drawn = bootstrap.replicated(values, index, replicates=replicates)
        both = {name: np.concatenate([point[name], drawn[name]]) for name in metrics}
        for old in cache.glob(f"{record.name}_{task.name}_*.npz"):
            old.unlink()
        buffer = io.BytesIO()
        np.savez(buffer, **both)  # type: ignore[arg-type]
        write_whole(path, buffer.getvalue())
    return {name: Sample(v[:1], v[None, 1:], groups) for name, v in both.items()}


def _common(
    mine: Mapping[Any, BySeed], its: Mapping[Any, BySeed]
) -> tuple[list[Sample], list[Sample]]:
    """A sample a fold of two conditions, on the folds and seeds that both have."""
    pairs: tuple[list[Sample], list[Sample]] = ([], [])
    for fold in mine.keys() & its.keys():
        both = sorted(mine[fold].keys() & its[fold].keys())
        if both:
            for part, source in zip(pairs, (mine, its), strict=True):
                part.append(_stacked({seed: source[fold][seed] for seed in both}))
    return pairs


def _stacked(by_seed: BySeed) -> Sample:
    ordered = [by_seed[seed] for seed in sorted(by_seed)]
    return Sample(
        np.concatenate([s.point for s in ordered]),
        np.concatenate([s.drawn for s in ordered]),
        ordered[0].groups,
    )


def _values(samples: Mapping[Key, Mapping[Any, BySeed]]) -> dict[Key, Estimate]:
    return {
        key: _value(key, [_stacked(s) for s in by_fold.values()])
        for key, by_fold in samples.items()
    }


def _gains(
    ensemble: Mapping[Key, Mapping[Any, BySeed]], single: Mapping[Key, Mapping[Any, BySeed]]
) -> dict[Key, Estimate]:
    """Ensembles minus the mean of their seeds, fold by fold."""
    found = {}
    for key, by_fold in ensemble.items():
        if key[1] not in WITHOUT_INTERVAL:
            pairs = [(_stacked(s), _stacked(single[key][fold])) for fold, s in by_fold.items()]
            found[key] = estimate([whole - _mean_seed(seeds) for whole, seeds in pairs])
    return found


def _mean_seed(sample: Sample) -> Sample:
    point, drawn = (v.mean(axis=0, keepdims=True) for v in (sample.point, sample.drawn))
    return Sample(point, drawn, sample.groups)


def _value(key: Key, samples: Sequence[Sample]) -> Estimate:
    found = estimate(samples)
    if key[1] in WITHOUT_INTERVAL:
        return dataclasses.replace(found, low=math.nan, high=math.nan)
    lowest = {"qwk": -1.0, "mcc": -1.0}.get(key[1], 0.0)
    highest = math.inf if key[1] in ("log_loss", "brier") else 1.0
    low, high = (float(np.clip(end, lowest, highest)) for end in (found.low, found.high))
    return dataclasses.replace(found, low=low, high=high)


def _check_test_sets(records: Any) -> None:
    """Paired differences need the same images, patients and labels."""
    seen: dict[Any, Record] = {}
    for record in records:
        key = (record.document["dataset"], record.fold)
        first = seen.setdefault(key, record)
        same = np.array_equal(first.ids, record.ids) and np.array_equal(first.groups, record.groups)
        if not same or any(
            not np.array_equal(first.labels[t], record.labels[t]) for t in first.labels
        ):
            raise ValueError(
                f"records {first.name} and {record.name} have other test sets of "
                f"{key[0]}: they cannot be compared. Run one of them again on the other's data."
            )


def _of(cells: Sequence[Cell], records: Mapping[str, Record]) -> list[Record]:
    return [records[cell.name] for cell in cells if cell.name in records]


def _machine(record: Record) -> str:
    machine = record.document["machine"]
    kinds = {device.partition("(")[0].partition(":")[0].strip() for device in machine["devices"]}
    return f"{machine['processor']}, {machine['cores']} cores, {', '.join(sorted(kinds))}"
