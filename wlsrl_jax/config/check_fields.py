"""Ranges of the config's numbers and some of its choices, checked before anything else happens."""

from __future__ import annotations

import math
from typing import Any

from wlsrl_jax.config.config_file import wrong_fields
from wlsrl_jax.data.sampling import POWERS
from wlsrl_jax.files import Mistake, flatten

POSITIVE = (
    "num_epochs", "batch_size", "log_every", "data.height", "data.width", "data.num_threads",
    "data.phantom.train", "data.phantom.validation", "data.phantom.test", "loss.sigma",
    "loss.scale", "optimizer.learning_rate", "optimizer.accumulation", "checkpoint.every_steps",
    "checkpoint.keep", "eval.every_epochs", "eval.batch_size", "mesh.fsdp",
    "model.space_to_depth",
)  # fmt: skip
NOT_NEGATIVE = (
    "seed", "mixup", "data.phantom.seed", "augment.rotation", "augment.shift", "augment.scale",
    "augment.brightness", "augment.contrast", "augment.gamma", "augment.speckle",
    "augment.noise", "loss.gamma", "optimizer.warmup_epochs", "optimizer.weight_decay",
    "optimizer.clip_norm", "model.blocks", "model.hidden", "data.cache_mib",
)  # fmt: skip
FRACTION = ("augment.flip", "loss.smoothing", "optimizer.final_fraction")
FROM_MINUS_ONE = ("data.fold",)
BELOW_ONE = ("model.dropout", "loss.beta", "optimizer.momentum", "optimizer.b2",
             "optimizer.ema_decay")  # fmt: skip


def check_fields(config: Any) -> None:
    """Checks every number of a config, and the choices that are not checked where they are used.

    Args:
      config: the config.

    Raises:
      Mistake: lists each field that does not exist, or is of another type or out of range.
    """
    if wrong := wrong_fields(config):
        raise Mistake("; ".join(wrong) + ".")
    flat = flatten(config.to_dict())
    rules = [
        (POSITIVE, "> 0", lambda v: v > 0),
        (
            (*NOT_NEGATIVE, *(n for n in flat if n.startswith("task_weights."))),
            ">= 0",
            lambda v: v >= 0,
        ),
        (FROM_MINUS_ONE, ">= -1", lambda v: v >= -1),
        (FRACTION, "in [0, 1]", lambda v: 0 <= v <= 1),
        (BELOW_ONE, "in [0, 1)", lambda v: 0 <= v < 1),
    ]
    wrong = [
        f"config.{name}={flat[name]} must be {text}"
        for names, text, fits in rules
        for name in names
        if not (math.isfinite(flat[name]) and fits(flat[name]))
    ]
    if config.on_nan not in ("stop", "skip"):
        wrong.append(f"config.on_nan={config.on_nan!r} must be stop or skip")
    if config.on_leak not in ("refuse", "warn"):
        wrong.append(f"config.on_leak={config.on_leak!r} must be refuse or warn")
    if config.data.sampling not in POWERS:
        wrong.append(
            f"config.data.sampling={config.data.sampling!r} must be one of {', '.join(POWERS)}"
        )
    if wrong:
        raise Mistake("; ".join(wrong) + ".")
