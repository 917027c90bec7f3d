"""Fundus photographs: TF1 (normal or abnormal) and TF2 (diabetic retinopathy grade 0-4).

Phantoms, no download: 5.5 minutes on 2 CPU cores; test TF2 QWK 0.95, TF1 balanced accuracy
0.99.

    wlsrl train --config=configs/fundus.py

EyePACS (Kaggle 2015): 894 of its 35,126 images take 2.4 minutes on 2 CPU cores and are too
few: test TF2 QWK -0.15, TF1 AUROC 0.48, no better than chance. Small lesions need the whole set
and a larger image (--config.data.height=512 --config.data.width=512).

    wlsrl prepare --dataset=eyepacs --source=DIR --size=512x512
    wlsrl train --config=configs/fundus.py:eyepacs

APTOS 2019 (Kaggle): 760 images of grades 2, 3 and 4 alone (--allow_missing_classes to
prepare, --config.allow_missing_classes=True to train) take 4.3 minutes on 2 CPU cores with
AVX2; test TF2 balanced accuracy over these 0.40, AUROC 0.63, QWK 0.11.

    wlsrl prepare --dataset=aptos2019 --source=DIR
    wlsrl train --config=configs/fundus.py:aptos2019

Not yet measured: messidor2, idrid, deepdrid, ddr, retinamnist, and a data set of your own,
prepared with --dataset=folder --name=NAME and trained as :NAME.
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
