"""Axes that several grids share."""

from __future__ import annotations

from ablate.grid import Axis

_WLSRL = {"loss.name": "wlsrl"}

BASELINES: Axis = {
    "ce": {"loss.name": "ce"},
    "ls": {"loss.name": "ls"},
    "weighted-ce": {"loss.name": "weighted_ce"},
    "focal": {"loss.name": "focal"},
}
"""Losses that WLSRL must be compared with, for tasks of any kind."""

WLSRL: Axis = {
    f"wlsrl-{variant}": {**_WLSRL, "loss.variant": variant}
    for variant in ("target", "regularizer", "classwise", "prior")
}
"""The variants of WLSRL."""

MAIN: Axis = {**BASELINES, **{k: WLSRL[k] for k in ("wlsrl-target", "wlsrl-regularizer")}}
"""What every grid on real data compares."""

ORDINAL: Axis = {
    name: {"loss.name": "ce", "loss.by_task.TF2": name} for name in ("gaussian", "sord")
}
"""Losses for ordered classes: of TF2 alone, the other head has cross-entropy."""

STREAMS: Axis = {name: {"model.streams": name} for name in ("dual", "separable", "standard")}
"""The two streams and each of them alone."""

EQUAL_STREAMS: Axis = {
    "separable, wider": {
        "model.streams": "separable",
        "model.widths": (48, 100, 196, 296, 392),
    },
    "standard, wider": {
        "model.streams": "standard",
        "model.widths": (16, 36, 68, 104, 136),
    },
}
"""One stream with the parameters of two, preset medium; by ``matched_widths``. Its FLOPs are the
same too, within 4%, and so are the widths that match these."""

NETWORKS: Axis = {
    "dual": {},
    "resnet18": {
        "model.streams": "standard",
        "model.standard": "resnet18",
        "model.space_to_depth": 1,
        "optimizer.learning_rate": 7e-4,
    },
}
"""The dual-stream network of a config, and a ResNet-18, which has a stem of its own and the
learning rate that was the best for it on validation (experiments/README.md)."""

OCTDL_REDUCED = {
    "data.height": 96,
    "data.width": 192,
    "model.space_to_depth": 2,
    "eval.mirror": False,
    "num_epochs": 40.0,
    "eval.every_epochs": 4.0,
    "model.preset": "medium",
    "model.dropout": 0.2,
    "optimizer.ema_decay": 0.995,
    "augment.rotation": 5.0,
    "augment.shift": 0.08,
    "augment.scale": 0.08,
    "augment.brightness": 0.08,
    "augment.contrast": 0.15,
    "augment.gamma": 0.15,
    "augment.speckle": 0.10,
}
"""A reduced recipe for grids on OCTDL, written out: a better default must not move their cells."""

FUNDUS_REDUCED = {
    "data.height": 96,
    "data.width": 96,
    "model.preset": "small",
    "num_epochs": 20.0,
    "eval.every_epochs": 2.0,
}
"""The same for grids on fundus photographs."""
