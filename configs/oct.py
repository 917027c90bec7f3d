"""OCT B-scans: TO1 (disease class) and TO2 (normal or abnormal).

python -m wlsrl_jax.main --config=configs/oct.py           phantoms, no download
python -m wlsrl_jax.main --config=configs/oct.py:octdl     OCTDL, seven classes
python -m wlsrl_jax.main --config=configs/oct.py:oct2017   Kermany et al., four classes
"""

from ml_collections import ConfigDict

from wlsrl_jax.defaults import base_config

DATASETS = ("phantom", "octdl", "oct2017")


def get_config(dataset: str = "phantom") -> ConfigDict:
    """Returns the config for one data set."""
    if dataset not in DATASETS:
        raise ValueError(f"configs/oct.py has no data set {dataset!r}: {', '.join(DATASETS)}.")
    c = base_config()
    c.name = "oct"
    c.modality = "oct"
    c.data.dataset = dataset
    c.loss.by_task = {"TO1": "", "TO2": ""}
    c.task_weights = {"TO1": 1.0, "TO2": 1.0}

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
    c.data.height, c.data.width = 96, 192
    c.model.dropout = 0.2
    c.optimizer.ema_decay = 0.995
    c.num_epochs = 30.0 if dataset == "octdl" else 10.0
    return c
