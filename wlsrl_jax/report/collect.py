"""What the report of a run is made from: the files of its workdir, and its data where needed."""

from __future__ import annotations

import dataclasses
import functools
import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wlsrl_jax.data.dataset import Dataset
from wlsrl_jax.evaluate.predictions import Predictions, read_predictions
from wlsrl_jax.evaluate.statistics import NAME, write_statistics
from wlsrl_jax.evaluate.telling import Tell, silent
from wlsrl_jax.files import Mistake, flatten, json_lines, read_json
from wlsrl_jax.runs import provenance
from wlsrl_jax.runs import shipped as pretrained
from wlsrl_jax.runs.documents import read_document
from wlsrl_jax.runs.open import TrainedRun, load_trained
from wlsrl_jax.runs.open_data import open_dataset
from wlsrl_jax.runs.packed import is_packed
from wlsrl_jax.runs.provenance import TrainedOn

_PARTS = ("splits", "calibration", "reliability", "operating_points", "curves", "agreement")

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """A finished run.

    Attributes:
      name: of its workdir.
      trained: model and config.
      metrics: content of ``metrics.json``.
      statistics: content of ``statistics.json``.
      environment: content of ``environment.json``.
      predictions: split -> predictions; none of a packed run.
      lines: of ``metrics.jsonl``.
      dataset: its data, or None where they are not here any more.
      problem: why there are no data.
      provenance: whether what was tested was trained on, a document each time it was asked.
      seen: reads what its weights have seen, once.
    """

    name: str
    trained: TrainedRun
    metrics: dict[str, Any]
    statistics: dict[str, Any]
    environment: dict[str, Any]
    predictions: dict[str, Predictions]
    lines: list[dict[str, Any]]
    dataset: Dataset | None
    problem: str
    provenance: list[dict[str, Any]]
    seen: Callable[[], TrainedOn]

    @property
    def command(self) -> str:
        """The command that the run was started with."""
        words = self.environment.get("command", [])[1:]
        return shlex.join(["wlsrl", "train", *words])

    @property
    def fields(self) -> dict[str, Any]:
        """The config, flat."""
        return flatten(self.trained.config.to_dict())


def _predictions(run: TrainedRun) -> dict[str, Predictions]:
    path = run.workdir / "predictions.csv"
    found = read_predictions(path, run.tasks)
    lacking = [split for split in ("validation", "test") if split not in found]
    if lacking:
        raise Mistake(f"{path} is damaged (no row of {lacking[0]}).")
    return found


def _asked(
    run: TrainedRun, dataset: Dataset | None, seen: Callable[[], TrainedOn]
) -> list[dict[str, Any]]:
    """What the run's own test split, start and later evaluations say of what it trained on."""
    found = []
    if dataset is not None and not dataset.is_phantom:
        found.append(provenance.ask(seen(), dataset, "test").document())
    documents = [run.workdir / "metrics.json"]
    documents += sorted(run.workdir.glob("evaluation-*/metrics.json"))
    documents += sorted(run.workdir.glob("uncertainty-*/referral.json"))
    for path in documents:
        found += read_json(path, remedy="delete it").get("provenance", [])
    return list({entry["text"]: entry for entry in found}.values())


def collect(workdir: Path, data_dir: str = "", *, tell: Tell = silent) -> RunFacts:
    """Reads a finished run; statistics that it lacks are computed and written to it.

    Args:
      workdir: of the run.
      data_dir: of prepared data, where it has moved since; "" is the run's own.
      tell: is told how far it is.

    Returns:
      What is known of it.

    Raises:
      Mistake: if it is not finished, or a file is damaged, naming it.
    """
    workdir = pretrained.resolve(workdir)
    if not (workdir / "metrics.json").exists():
        raise Mistake(f"{workdir} holds no finished run; train it to its end first.")
    trained = load_trained(workdir)
    predictions = {} if is_packed(workdir) else _predictions(trained)
    dataset, problem = None, ""
    try:
        dataset = open_dataset(trained, data_dir)
    except (Mistake, OSError) as error:
        problem = str(error)
    if not (workdir / NAME).exists():  # of a run of an older version
        if dataset is None:
            raise Mistake(f"{workdir} has no {NAME}, and it cannot be made: {problem}")
        write_statistics(workdir, trained.tasks, predictions, dataset, tell=tell)
    statistics = read_document(workdir / NAME)
    tested = statistics.get("splits", {}).get("test", {})
    if lacking := [
        name
        for name in (*_PARTS, *(t.name for t in trained.tasks))
        if name not in statistics and name not in tested
    ]:
        raise Mistake(f"{workdir / NAME} is damaged (it has no {lacking[0]}); restore it.")
    log_path = workdir / "metrics.jsonl"
    seen = functools.cache(functools.partial(provenance.trained_on, workdir, data_dir))
    return RunFacts(
        workdir.resolve().name,
        trained,
        read_document(workdir / "metrics.json"),
        statistics,
        read_document(workdir / "environment.json"),
        predictions,
        [line for _, line in json_lines(log_path)] if log_path.exists() else [],
        dataset,
        problem,
        _asked(trained, dataset, seen),
        seen,
    )
