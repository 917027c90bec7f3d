"""Opening a finished or packed run: its model, weights and what it was trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from wlsrl_jax.runs import checkpoint, packed, shipped as pretrained
from wlsrl_jax.models.by_name import Network
from wlsrl_jax.config.fields import completed
from wlsrl_jax.train.setup import CHANNELS, build_model
from wlsrl_jax.tasks import Task
from wlsrl_jax.train.step import make_predict_step
from wlsrl_jax.files import read_json


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A model with its weights and the data that it knows.

    Attributes:
      workdir: of the run, or the folder of a packed one.
      config: the run's own, with the defaults of fields that there were not yet.
      data: content of its ``data.json``: dataset, modality, classes, normal, phantom, ...
      tasks: its tasks.
      model: the network.
      variables: {"params": ..., "batch_stats": ...}, the averaged weights of the selected
        checkpoint, host arrays.
    """

    workdir: Path
    config: Any
    data: dict[str, Any]
    tasks: tuple[Task, ...]
    model: Network
    variables: dict[str, Any]

    @property
    def modality(self) -> str:
        """What its images are: "oct" or "fundus"."""
        return self.data["modality"]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the model's input."""
        return self.config.data.height, self.config.data.width, CHANNELS[self.modality]

    def predictor(self) -> Callable[[jax.Array], dict[str, jax.Array]]:
        """Compiled function of uint8 images ``[B, H, W, C]`` giving task -> probabilities."""
        step = jax.jit(make_predict_step(self.model, mirror=self.config.eval.mirror))
        variables = jax.device_put(self.variables)
        return lambda images: step(variables, images)


def load_trained(workdir: Path) -> TrainedRun:
    """Opens a run that has weights; see ``checkpoint.read_weights`` for which.

    Raises:
      Mistake: if the workdir holds no run or its files are damaged, naming them.
    """
    workdir = pretrained.resolve(workdir)
    variables = checkpoint.read_weights(workdir)
    config = ConfigDict(completed(read_json(workdir / "config.json")))
    data = read_json(workdir / "data.json")
    tasks = tuple(
        Task(name, tuple(t["classes"]), tuple(t["label_map"]), t["ordinal"])
        for name, t in data["tasks"].items()
    )
    return TrainedRun(workdir, config, data, tasks, build_model(config, tasks), variables)


def introduction(run: TrainedRun) -> str:
    """A line on a model that came with the package; "" for a run of one's own."""
    if not pretrained.is_shipped(run.workdir):
        return ""
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
