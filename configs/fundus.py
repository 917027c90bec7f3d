"""Fundus photographs: TF1 (normal or abnormal) and TF2 (diabetic retinopathy grade 0-4).

Phantoms, no download:

    python -m wlsrl_jax.main --config=configs/fundus.py

A prepared data set (eyepacs, aptos2019, messidor2, idrid, deepdrid, ddr, retinamnist), or your own,
prepared with --dataset=folder --name=NAME and trained as :NAME. Small lesions need a large image:

    wlsrl prepare --dataset=eyepacs --source=DIR --size=512x512
    wlsrl train --config=configs/fundus.py:eyepacs --config.data.height=512 --config.data.width=512

A set that lacks grades needs --allow_missing_classes in prepare and
--config.allow_missing_classes=True in train. What to expect: "Results" in README.md.
"""

from ml_collections import ConfigDict

from wlsrl_jax.config.fields import base_config


def get_config(dataset: str = "phantom") -> ConfigDict:
    """Returns the config for one data set."""
    c = base_config("fundus", dataset)
    c.loss.class_weights = "sqrt_inverse"

    c.augment.flip = 0.5
    c.augment.rotation = 180.0
    c.augment.shift = 0.04
    c.augment.scale = 0.08
    c.augment.brightness = 0.06
    c.augment.contrast = 0.15
    c.augment.gamma = 0.15

    if dataset == "phantom":
        c.num_epochs = 40.0
        c.data.phantom.train = 2400
        return c
    c.model.preset = "medium"
    c.data.height, c.data.width = 128, 128
    c.model.dropout = 0.2
    c.optimizer.ema_decay = 0.995
    c.num_epochs = 30.0
    return c
