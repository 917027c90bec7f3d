"""The temperatures of a run, by which its probabilities are calibrated."""

from __future__ import annotations

from wlsrl_jax.evaluate.calibration import fit_temperature
from wlsrl_jax.evaluate.predictions import read_predictions
from wlsrl_jax.evaluate.statistics import NAME as STATISTICS
from wlsrl_jax.files import Mistake
from wlsrl_jax.runs.documents import read_temperatures
from wlsrl_jax.runs.open import TrainedRun


def temperatures(run: TrainedRun) -> dict[str, float]:
    """Temperature of each task, from the run's statistics or its validation predictions.

    Raises:
      Mistake: if it has neither, or if a task has no temperature.
    """
    path = run.workdir / STATISTICS
    if path.exists():
        found = read_temperatures(path)
    else:
        rows = read_predictions(run.workdir / "predictions.csv", run.tasks)["validation"]
        found = {
            t.name: fit_temperature(rows.labels[t.name], rows.probabilities[t.name])
            for t in run.tasks
        }
    known = {name: value for name, value in found.items() if value}
    lacking = [t.name for t in run.tasks if t.name not in known]
    if lacking:
        raise Mistake(
            f"--calibrated: {run.workdir} has no temperature for {', '.join(lacking)}, because its "
            "validation split has one class only."
        )
    return {t.name: known[t.name] for t in run.tasks}
