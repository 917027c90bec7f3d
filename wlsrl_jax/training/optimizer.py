"""Optimisers: AdamW or SGD, warm-up and cosine decay, clipping, decay masks."""

from __future__ import annotations

from typing import Any

import jax
import optax

from wlsrl_jax.files import Mistake

OPTIMIZERS = ("adamw", "sgd")


def decay_mask(params: Any) -> Any:
    """Marks what weight decay applies to: kernels, not biases or normalisation scales.

    Args:
      params: pytree of arrays.

    Returns:
      The same structure with ``True`` for arrays of two or more dimensions.
    """
    return jax.tree.map(lambda p: p.ndim > 1, params)


def learning_rate_schedule(
    peak: float, total_steps: int, warmup_steps: int, final_fraction: float
) -> optax.Schedule:
    """Linear warm-up to ``peak``, then cosine decay to ``peak * final_fraction``.

    Step k of a warm-up of w steps has the rate ``peak * (k + 1) / (w + 1)``: a step of rate 0
    would do nothing.

    Args:
      peak: largest learning rate.
      total_steps: optimiser steps of the whole run.
      warmup_steps: steps of the warm-up, fewer than ``total_steps``.
      final_fraction: where the decay ends, at ``total_steps``, as a fraction of ``peak``.

    Returns:
      A map from step to learning rate.

    Raises:
      Mistake: if the warm-up is as long as the run.
    """
    if not 0 <= warmup_steps < total_steps:
        raise Mistake(
            f"config.optimizer.warmup_epochs gives {warmup_steps} warm-up steps, but the run "
            f"has {total_steps} steps; shorten the warm-up or raise config.num_epochs."
        )
    return optax.warmup_cosine_decay_schedule(
        peak / (warmup_steps + 1), peak, warmup_steps, total_steps, peak * final_fraction
    )


def make_optimizer(
    name: str,
    schedule: optax.Schedule,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    b2: float = 0.999,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Builds the gradient transformation of a run.

    Args:
      name: "adamw" (Loshchilov and Hutter 2019) or "sgd" (Nesterov momentum, decoupled
        weight decay).
      schedule: learning rate by step.
      weight_decay: strength for kernels; see ``decay_mask``.
      momentum: momentum of SGD, first moment's decay of AdamW.
      b2: second moment's decay of AdamW.
      clip_norm: largest global gradient norm; 0 does not clip.

    Returns:
      An optax transformation.

    Raises:
      Mistake: for an unknown name.
    """
    if name == "adamw":
        rule = optax.adamw(schedule, b1=momentum, b2=b2, weight_decay=weight_decay, mask=decay_mask)
    elif name == "sgd":
        rule = optax.chain(
            optax.trace(decay=momentum, nesterov=True),
            optax.add_decayed_weights(weight_decay, decay_mask),
            optax.scale_by_learning_rate(schedule),
        )
    else:
        raise Mistake(
            f"config.optimizer.name={name!r} is unknown; choose one of {', '.join(OPTIMIZERS)}."
        )
    return optax.chain(optax.clip_by_global_norm(clip_norm), rule) if clip_norm else rule
