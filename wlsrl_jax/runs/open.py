"""Opening a finished or packed run: its model, weights and what it was trained on.

Every command that reads a run comes through here: its documents, its weights and its marks are
compared with each other before anything is computed.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wlsrl_jax.files import Mistake
from wlsrl_jax.models.by_name import build_model, image_shape
from wlsrl_jax.models.dual_stream import Grader
from wlsrl_jax.models.predictor import make_predict_step
from wlsrl_jax.runs import checkpoint, packed
from wlsrl_jax.runs import shipped as pretrained
from wlsrl_jax.runs.documents import read_config, read_data, read_document
from wlsrl_jax.runs.weights import read_weights
from wlsrl_jax.tasks import PHANTOM_NOTE, Task


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A model with its weights and the data that it knows.

    Attributes:
      workdir: of the run, or the folder of a packed one.
      config: the run's own, with the defaults of fields that there were not yet.
      data: content of its ``data.json``: dataset, modality, classes, normal, phantom, ...
      tasks: those that it was trained for.
      untrained: names of tasks whose ``config.task_weights`` was 0: their heads answer nothing.
      model: the network, with a head for these as well.
      variables: {"params": ..., "batch_stats": ...}, the averaged weights of the selected
        checkpoint, host arrays.
    """

    workdir: Path
    config: Any
    data: dict[str, Any]
    tasks: tuple[Task, ...]
    untrained: tuple[str, ...]
    model: Grader
    variables: dict[str, Any]

    @property
    def modality(self) -> str:
        """What its images are, a name in ``tasks.MODALITIES``."""
        return self.data["modality"]

    @property
    def note(self) -> str:
        """``PHANTOM_NOTE`` where it knows phantoms alone, else ""."""
        return PHANTOM_NOTE if self.data["phantom"] else ""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the model's input."""
        return image_shape(self.config)

    def predictor(self) -> Callable[[jax.Array], dict[str, jax.Array]]:
        """Compiled function of uint8 images ``[B, H, W, C]`` giving task -> probabilities."""
        step = jax.jit(make_predict_step(self.model, mirror=self.config.eval.mirror))
        variables = jax.device_put(self.variables)
        trained = [task.name for task in self.tasks]

        def predict(images: jax.Array) -> dict[str, jax.Array]:
            found = step(variables, images)
            return {name: found[name] for name in trained}

        return predict


def open_run(workdir: Path) -> TrainedRun:
    """Opens a run and says on standard error what it is, where that is not plain.

    Raises:
      Mistake: see ``load_trained``.
    """
    run = load_trained(workdir)
    if line := introduction(run):
        print(line, file=sys.stderr, flush=True)
    return run


def load_trained(workdir: Path) -> TrainedRun:
    """Opens a run that has weights.

    Args:
      workdir: of the run, a packed run, or "pretrained:NAME". If a run is not finished, the
        best checkpoint so far is read, or the newest when none has been evaluated.

    Raises:
      Mistake: if the workdir holds no run, its files are damaged, or one contradicts another,
        naming them.
    """
    workdir = pretrained.resolve(workdir)
    if not workdir.is_dir():
        raise Mistake(f"{workdir} is not a workdir: there is no such directory.")
    is_packed = packed.is_packed(workdir)
    if is_packed:
        packed.check_documents(workdir)
    elif not checkpoint.complete_steps(workdir / "checkpoints"):
        raise Mistake(f"{workdir} holds no checkpoint.")
    config = read_config(workdir)
    data, tasks = read_data(workdir, config.modality)
    weights = {task.name: config.task_weights.get(task.name) for task in tasks}
    if unknown := [name for name, weight in weights.items() if weight is None]:
        raise Mistake(f"{workdir}/config.json: task_weights.{unknown[0]} is missing; restore it.")
    if not any(weights.values()):
        raise Mistake(f"{workdir}/config.json: task_weights: no task was trained.")
    model = build_model(config, tasks)
    image = jnp.zeros((1, *image_shape(config)))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
    shapes = {"params": shapes["params"], "batch_stats": shapes.get("batch_stats", {})}
    if is_packed:
        _selected_step(workdir, data)
        variables = packed.read_weights(workdir, shapes)
    else:
        directory = workdir / "checkpoints" / str(_step(workdir, data))
        variables = read_weights(directory, shapes, config.to_dict(), data)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not np.isfinite(leaf).all():
            name = checkpoint.leaf_name(path)
            raise Mistake(f"{workdir}: the weights {name} hold what is no number; restore them.")
    trained = tuple(task for task in tasks if weights[task.name])
    untrained = tuple(task.name for task in tasks if not weights[task.name])
    return TrainedRun(workdir, config, data, trained, untrained, model, variables)


def _step(workdir: Path, data: dict[str, Any]) -> int:
    """The checkpoint that a run's results were made with, or would be made with now."""
    steps = checkpoint.complete_steps(workdir / "checkpoints")
    # Without the other processes: a report is made by one of them.
    best = checkpoint.best_saved(checkpoint.stored_history(workdir), steps)
    if not (workdir / "metrics.json").exists():
        return steps[-1] if best is None else best
    step = _selected_step(workdir, data)
    if step not in steps:
        raise Mistake(
            f"{workdir}/checkpoints/{step}, the selected checkpoint, is not there; restore it."
        )
    if best is not None and step != best:
        raise Mistake(
            f"{workdir}/metrics.json names step {step}, but {checkpoint.HISTORY} selects step "
            f"{best}: one of them is not of this run; restore them."
        )
    return step


def _selected_step(workdir: Path, data: dict[str, Any]) -> int:
    """What ``metrics.json`` says was selected.

    Raises:
      Mistake: if it says nothing, or is of other data than ``data.json``.
    """
    path = workdir / "metrics.json"
    metrics = read_document(path)
    selected = metrics.get("selected")
    if not isinstance(selected, dict) or type(selected.get("step")) is not int:
        raise Mistake(f"{path} does not say which step was selected; restore it.")
    told = {"dataset": data["dataset"], "data_fingerprint": data["fingerprint"]}
    for name, value in told.items():
        if metrics.get(name) != value:
            raise Mistake(
                f"{path}: {name}={metrics.get(name)!r}, but data.json says {value!r}; restore them."
            )
    return selected["step"]


def untrained_note(run: TrainedRun) -> str:
    """Which tasks are left out of every answer, and why; "" where none is."""
    if not run.untrained:
        return ""
    names = ", ".join(run.untrained)
    return f"left out: {names}, whose head was not trained (its config.task_weights is 0)"


def introduction(run: TrainedRun) -> str:
    """A line on a model that came with the package, and on heads that answer nothing, or ""."""
    if not pretrained.is_shipped(run.workdir):
        return untrained_note(run)
    note = packed.read_mark(run.workdir)["note"]
    return " ".join(
        filter(
            None,
            [
                f"model: {pretrained.PREFIX}{run.workdir.name}, trained on {run.data['dataset']} "
                f"({', '.join(run.data['classes'])}). {note}".strip(),
                "Research use only; not a medical device, not for decisions about patients.",
            ],
        )
    )
