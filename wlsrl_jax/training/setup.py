"""From a config to the pieces of a run: data, tasks, model, losses, optimiser, devices."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import optax

from wlsrl_jax.data.augment import Augmentation
from wlsrl_jax.data.dataset import Dataset, class_table, load_dataset
from wlsrl_jax.data.prepare.groups import SPLITS
from wlsrl_jax.data.sampling import epoch_labels
from wlsrl_jax.files import Mistake
from wlsrl_jax.losses import LOSSES, Loss, make_loss
from wlsrl_jax.models.by_name import build_model, image_shape
from wlsrl_jax.models.dual_stream import Grader
from wlsrl_jax.runtime.mesh import check_batch_size, make_mesh
from wlsrl_jax.tasks import Task, class_counts, make_tasks, tasks_document
from wlsrl_jax.training import step as steps
from wlsrl_jax.training.class_weights import class_weights
from wlsrl_jax.training.optimizer import learning_rate_schedule, make_optimizer


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that a config resolves to.

    Attributes:
      config: the config.
      dataset: opened data.
      tasks: its tasks.
      model: the network.
      losses: task -> loss.
      class_weights: task -> weights used, for the record.
      optimizer: gradient transformation.
      mesh: devices.
      total_steps: optimiser steps of the run.
      steps_per_epoch: global batches an epoch, a fraction.
    """

    config: Any
    dataset: Dataset
    tasks: tuple[Task, ...]
    model: Grader
    losses: dict[str, Loss]
    class_weights: dict[str, list[float]]
    optimizer: optax.GradientTransformation
    mesh: Any
    total_steps: int
    steps_per_epoch: float

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the model's input, pixels."""
        return self.config.data.height, self.config.data.width

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the model's input."""
        return image_shape(self.config)

    @property
    def augmentation(self) -> Augmentation:
        """Ranges of the random changes."""
        return Augmentation(**self.config.augment)

    @functools.cached_property
    def init_state(self) -> Any:
        """Function of nothing that gives the initial train state; traced once."""
        return jax.jit(
            lambda: steps.init_state(self.model, self.optimizer, self.image_shape, self.config.seed)
        )

    @functools.cached_property
    def state_shapes(self) -> Any:
        """Shapes and dtypes of the train state, nothing computed."""
        return jax.eval_shape(self.init_state)

    @property
    def seen_in_epoch(self) -> dict[str, int]:
        """Class -> how often an epoch of training shows it."""
        labels = epoch_labels(self.dataset.splits["train"].labels(), self.config.data.sampling)
        return {name: int((labels == k).sum()) for k, name in enumerate(self.dataset.classes)}

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """The content of ``data.json``."""
        return {
            "dataset": self.dataset.name,
            "modality": self.dataset.modality,
            "phantom": self.dataset.is_phantom,
            "fingerprint": self.dataset.fingerprint,
            "classes": self.dataset.classes,
            "normal": self.dataset.normal,
            "prepared_size": self.dataset.prepared_size,
            "preprocess": self.dataset.preprocess,
            "pixel_bits": self.dataset.pixel_bits,
            "tasks": tasks_document(self.tasks),
            "class_weights": self.class_weights,
            "seen_in_epoch": self.seen_in_epoch,
            "examples": {name: len(source) for name, source in self.dataset.splits.items()},
            "class_table": class_table(self.dataset),
            "has_patient_ids": self.dataset.has_patient_ids,
            "audit": self.dataset.audit,
        }

    def every(self, epochs: float) -> int:
        """Epochs as a number of steps, at least one."""
        return max(1, round(epochs * self.steps_per_epoch))


def build_losses(
    config: Any, tasks: tuple[Task, ...], counts: Any
) -> tuple[dict[str, Loss], dict[str, list[float]]]:
    """The loss of every task, with class weights from training counts only.

    Args:
      config: the config.
      tasks: the tasks.
      counts: task -> ``[C]`` training examples of each class, as an epoch shows them.

    Returns:
      (task -> loss, task -> class weights).

    Raises:
      Mistake: for a wrong field, or a class without examples.
    """
    losses, weights = {}, {}
    for task in tasks:
        name = config.loss.by_task.get(task.name) or config.loss.name
        weights[task.name] = class_weights(
            counts[task.name],
            config.loss.class_weights,
            beta=config.loss.beta,
            allow_missing=config.allow_missing_classes,
            task=task.name,
            class_names=task.classes,
        )
        known = LOSSES[name].parameters if name in LOSSES else ()
        try:
            losses[task.name] = make_loss(
                name,
                num_classes=task.num_classes,
                class_weights=weights[task.name],
                ordinal=task.ordinal,
                **{p: config.loss[p] for p in known},
            )
        except ValueError as error:
            raise Mistake(f"config.loss, task {task.name}: {error}") from None
    return losses, {name: w.tolist() for name, w in weights.items()}


def build_run(config: Any) -> Run:
    """Resolves a config.

    Raises:
      Mistake: names the field that is wrong.
      Mistake: if the data set is not prepared.
    """
    mesh = make_mesh(config.mesh.fsdp)
    check_batch_size("config.batch_size", config.batch_size, mesh)
    check_batch_size("config.eval.batch_size", config.eval.batch_size, mesh)
    parts = config.optimizer.accumulation
    if parts < 1 or config.batch_size % (parts * mesh.size):
        raise Mistake(
            f"config.optimizer.accumulation={parts} must divide the {config.batch_size} rows "
            f"of a batch into multiples of the {mesh.size} devices."
        )
    dataset = load_dataset(config.data, config.modality)
    lacking = [name for name in SPLITS if not len(dataset.splits.get(name, ()))]
    if lacking:
        raise Mistake(
            f"{dataset.name} was prepared without a {' and a '.join(lacking)} split: too few "
            "patients. Prepare it again with more."
        )
    tasks = make_tasks(dataset.modality, dataset.classes, dataset.normal)
    if not any(config.task_weights.values()):
        raise Mistake("config.task_weights: one task at least needs a weight > 0.")
    labels = dataset.splits["train"].labels()
    # Weights from what is seen: what sampling has evened out is not evened out twice.
    seen = epoch_labels(labels, config.data.sampling)
    losses, weights = build_losses(config, tasks, class_counts(tasks, seen))
    steps_per_epoch = len(labels) / config.batch_size
    # The small part taken off is for rounding: 30 epochs of 62 / 30 steps are 62, not 63.
    total = max(1, math.ceil(config.num_epochs * steps_per_epoch - 1e-6))
    o = config.optimizer
    schedule = learning_rate_schedule(
        o.learning_rate, total, round(o.warmup_epochs * steps_per_epoch), o.final_fraction
    )
    optimizer = make_optimizer(
        o.name,
        schedule,
        weight_decay=o.weight_decay,
        momentum=o.momentum,
        b2=o.b2,
        clip_norm=o.clip_norm,
    )
    return Run(
        config,
        dataset,
        tasks,
        build_model(config, tasks),
        losses,
        weights,
        optimizer,
        mesh,
        total,
        steps_per_epoch,
    )
