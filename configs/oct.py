"""OCT B-scans: TO1 (disease class) and TO2 (normal or abnormal).

Phantoms, no download:

    python -m wlsrl_jax.main --config=configs/oct.py

A prepared data set (octdl with seven classes, oct2017 with four, octid, duke_srinivasan, oct_c8,
octmnist), or your own, prepared with --dataset=folder --name=NAME and trained as :NAME:

    wlsrl prepare --dataset=octdl --source=DIR
    wlsrl train --config=configs/oct.py:octdl

What to expect: "Results" in README.md.
"""

from ml_collections import ConfigDict

from wlsrl_jax.config.fields import base_config


def get_config(dataset: str = "phantom") -> ConfigDict:
    """Returns the config for one data set."""
    c = base_config("oct", dataset)

    c.augment.flip = 0.5
    c.augment.rotation = 5.0
    c.augment.shift = 0.08
    c.augment.scale = 0.08
    c.augment.brightness = 0.08
    c.augment.contrast = 0.15
    c.augment.gamma = 0.15
    c.augment.speckle = 0.10

    if dataset == "phantom":
        c.num_epochs = 16.0
        return c
    c.model.preset = "medium"
    c.data.height, c.data.width = 128, 256
    c.model.space_to_depth = 2
    c.model.dropout = 0.2
    c.optimizer.ema_decay = 0.995
    c.eval.mirror = True
    large = ("oct2017", "oct_c8", "octmnist")
    c.num_epochs = 10.0 if dataset in large else 100.0
    c.eval.every_epochs = 1.0 if dataset in large else 5.0
    return c
