"""Fundus photographs: TF1 (normal or abnormal) and TF2 (diabetic retinopathy grade 0-4).

python -m wlsrl_jax.main --config=configs/fundus.py             phantoms, no download
python -m wlsrl_jax.main --config=configs/fundus.py:eyepacs     Kaggle 2015
python -m wlsrl_jax.main --config=configs/fundus.py:aptos2019   Kaggle 2019
"""

from ml_collections import ConfigDict

from wlsrl_jax.defaults import base_config

DATASETS = ("phantom", "eyepacs", "aptos2019")


def get_config(dataset: str = "phantom") -> ConfigDict:
    """Returns the config for one data set."""
    if dataset not in DATASETS:
        raise ValueError(f"configs/fundus.py has no data set {dataset!r}: {', '.join(DATASETS)}.")
    c = base_config()
    c.name = "fundus"
    c.modality = "fundus"
    c.data.dataset = dataset
    c.loss.by_task = {"TF1": "", "TF2": ""}
    c.task_weights = {"TF1": 1.0, "TF2": 1.0}
    c.loss.class_weights = "sqrt_inverse"

    c.augment.flip = 0.5
    c.augment.rotation = 180.0
    c.augment.shift = 0.04
    c.augment.scale = 0.08
    c.augment.brightness = 0.06
    c.augment.contrast = 0.15
    c.augment.gamma = 0.15

    if dataset == "phantom":
        c.num_epochs = 24.0
        c.data.phantom.train = 2400
        return c
    c.model.preset = "medium"
    c.data.height, c.data.width = 128, 128
    c.model.dropout = 0.2
    c.optimizer.ema_decay = 0.995
    c.num_epochs = 30.0
    return c
