"""One optimisation step as a pure function: (state, batch) -> (state, metrics)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from wlsrl_jax.losses import Loss, multitask_mean, safe_ratio
from wlsrl_jax.models.dual_stream import Grader
from wlsrl_jax.models.predictor import normalize
from wlsrl_jax.training.mixup import mixup

Batch = dict[str, Any]


@flax.struct.dataclass
class TrainState:
    """Everything that a run needs to go on, beside the position of its input stream.

    Attributes:
      step: int32 scalar, optimiser steps done; also the global batches consumed.
      params: model parameters, float32.
      batch_stats: running statistics of the normalisation layers.
      opt_state: state of the optax transformation.
      ema: exponential moving average of ``params`` and ``batch_stats``; evaluated.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any


def init_state(
    model: Grader,
    optimizer: optax.GradientTransformation,
    image_shape: tuple[int, int, int],
    seed: int,
) -> TrainState:
    """Initialises a run; a function of its arguments only.

    Args:
      model: the network.
      optimizer: gradient transformation.
      image_shape: (height, width, channels) of one image.
      seed: seed of the parameters.

    Returns:
      The state at step 0.
    """
    images_1xHxWxC = jnp.zeros((1, *image_shape), jnp.float32)
    variables = model.init(jax.random.key(seed), images_1xHxWxC, train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats}),
    )


def make_train_step(
    model: Grader,
    optimizer: optax.GradientTransformation,
    losses: Mapping[str, Loss],
    task_weights: Mapping[str, float],
    *,
    seed: int,
    ema_decay: float = 0.0,
    accumulation: int = 1,
    skip_not_finite: bool = False,
    mixup_alpha: float = 0.0,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds the step that minimises ``sum_t lambda_t * sum(m l_t) / sum(m d_t)``.

    The denominators depend on labels alone and are taken over the global batch before any
    gradient, so ``accumulation`` micro-batches add up to exactly the gradient of the
    whole batch (up to BatchNorm, whose statistics are those of a micro-batch).

    Args:
      model: the network.
      optimizer: gradient transformation.
      losses: task -> loss.
      task_weights: task -> lambda; 0 leaves a task out.
      seed: seed of dropout; step ``s`` uses ``fold_in(key(seed), s)``.
      ema_decay: decay of the moving average, warmed up; 0 keeps the last parameters.
      accumulation: number of micro-batches; divides the batch.
      skip_not_finite: leave everything but the step count as it is where the loss or the
        gradient's norm is not finite.
      mixup_alpha: of ``mixup``; 0 mixes nothing.

    Returns:
      A pure function of (state, batch) where batch holds "image" uint8
      ``[B, H, W, C]`` and "labels", task -> int32 ``[B]``. Its metrics are scalars.
    """
    active = [task for task in losses if task_weights[task] > 0]

    def objective(params, batch_stats, images, labels, denominators, key):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = model.apply(
            variables,
            normalize(images),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        values = {t: losses[t](logits[t], labels[t])[0] for t in active}
        parts = {t: (jnp.sum(values[t]), denominators[t]) for t in active}
        per_task = {t: safe_ratio(*part) for t, part in parts.items()}
        return multitask_mean(parts, task_weights), (per_task, updated.get("batch_stats", {}))

    gradient = jax.value_and_grad(objective, has_aux=True)

    def step_fn(state: TrainState, batch: Batch):
        images, labels = batch["image"], batch["labels"]
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if mixup_alpha:
            # Of the same family as a micro-batch's key, and no micro-batch has this number.
            mix_key = jax.random.fold_in(key, accumulation)
            widths = dict(model.heads)
            images, labels = mixup(images, labels, widths, mixup_alpha, mix_key)
        denominators = {t: jnp.sum(losses[t].weights(labels[t])) for t in active}
        if accumulation == 1:
            (loss, (per_task, stats)), grads = gradient(
                state.params, state.batch_stats, images, labels, denominators, key
            )
        else:
            # Micro-batch k takes rows k, k+A, ...: every device keeps the rows it holds.
            micro = jax.tree.map(
                lambda x: jnp.moveaxis(x.reshape(-1, accumulation, *x.shape[1:]), 1, 0),
                {"image": images, "labels": labels},
            )

            def accumulate(carry, xs):
                stats, total = carry
                index, part = xs
                (loss, (per_task, stats)), grads = gradient(
                    state.params,
                    stats,
                    part["image"],
                    part["labels"],
                    denominators,
                    jax.random.fold_in(key, index),
                )
                return (stats, jax.tree.map(jnp.add, total, (loss, per_task, grads))), None

            zeros = (
                jnp.zeros(()),
                {t: jnp.zeros(()) for t in active},
                jax.tree.map(jnp.zeros_like, state.params),
            )
            (stats, (loss, per_task, grads)), _ = jax.lax.scan(
                accumulate, (state.batch_stats, zeros), (jnp.arange(accumulation), micro)
            )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        done = state.step.astype(jnp.float32)
        decay = jnp.minimum(ema_decay, (1.0 + done) / (10.0 + done))
        ema = jax.tree.map(
            lambda old, new: decay * old + (1.0 - decay) * new,
            state.ema,
            {"params": params, "batch_stats": stats},
        )
        metrics = {"loss": loss, "gradient_norm": optax.tree.norm(grads)}
        metrics |= {f"loss/{task}": value for task, value in per_task.items()}
        new = TrainState(state.step + 1, params, stats, opt_state, ema)
        if skip_not_finite:
            good = jnp.isfinite(loss) & jnp.isfinite(metrics["gradient_norm"])
            kept = jax.tree.map(lambda after, before: jnp.where(good, after, before), new, state)
            new = kept.replace(step=new.step)
        return new, metrics

    return step_fn
