"""The fields that every config has, with their defaults and what they mean.

The default of a field that is added must be what was done before there was one: a run that was
started without the field goes on as if it had the default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from wlsrl_jax.data.published import all_specs
from wlsrl_jax.data.published.folder import is_dataset_name
from wlsrl_jax.files import Mistake
from wlsrl_jax.losses import loss_parameters
from wlsrl_jax.tasks import MODALITIES

OF_TASKS = ("task_weights", "loss.by_task")  # a field a task: no default makes up for a head


def dataset_names(modality: str) -> tuple[str, ...]:
    """Returns the data sets of a modality: phantoms, and one for each builder file."""
    return ("phantom", *(s.name for s in all_specs().values() if s.modality == modality))


def base_config(modality: str, dataset: str = "phantom") -> ConfigDict:
    """Returns the defaults; files under ``configs/`` set what depends on the data.

    Args:
      modality: "oct" or "fundus".
      dataset: one of ``dataset_names``, or the name under which one of your own is prepared.

    Raises:
      Mistake: for a set of another modality or what is no name, listing the known ones. That
        a name is prepared is seen where it is opened: only then is the directory known.
    """
    names = dataset_names(modality)
    if dataset not in names and (dataset in all_specs() or not is_dataset_name(dataset)):
        raise Mistake(
            f"configs/{modality}.py has no data set {dataset!r}; choose one of {', '.join(names)}."
        )
    c = ConfigDict()
    c.name = modality  # part of the default workdir, runs/<name>-<dataset>
    c.modality = modality
    c.seed = 0  # of initialisation, order, augmentation and dropout
    c.num_epochs = 10.0
    c.batch_size = 32  # global, over all devices
    c.require_accelerator = False  # True: running on CPU is an error
    c.allow_missing_classes = False  # True: train although a class has no example
    c.init_from = ""  # workdir whose weights to start from, or "pretrained:octdl"
    c.on_leak = "refuse"  # weights of init_from that saw images tested here, or "warn": record it
    c.on_nan = "stop"  # at a loss that is not finite, or "skip": leave such steps out
    c.log_every = 10  # steps
    c.report = True  # make report.html at the end
    c.log_example_ids = False  # True: write the ids of every batch to example_ids.jsonl

    c.data = ConfigDict()
    c.data.dataset = dataset
    c.data.data_dir = ""  # of prepared data; "" is TFDS_DATA_DIR, then TFDS's default
    c.data.fold = -1  # of a cross-validation that was prepared; -1 is the main division
    c.data.height = 64  # pixels, of the model's input
    c.data.width = 64
    c.data.num_threads = 2  # that read and augment
    c.data.cache_mib = 512.0  # of memory for decoded images of prepared data; 0 keeps none
    c.data.sampling = "natural"  # classes as they occur; "sqrt", "balanced": rare ones more often
    c.data.phantom = ConfigDict()  # sizes of the phantom splits
    c.data.phantom.train = 2000
    c.data.phantom.validation = 400
    c.data.phantom.test = 1000
    c.data.phantom.seed = 0

    c.augment = ConfigDict()  # see data/augment.py; 0 switches one off
    c.augment.flip = 0.5  # probability
    c.augment.rotation = 0.0  # degrees
    c.augment.shift = 0.0  # fraction of the side
    c.augment.scale = 0.0  # relative
    c.augment.brightness = 0.0  # fraction of full range
    c.augment.contrast = 0.0  # relative
    c.augment.gamma = 0.0  # of log gamma
    c.augment.speckle = 0.0  # standard deviation, multiplicative
    c.augment.noise = 0.0  # standard deviation, fraction of full range

    c.mixup = 0.0  # alpha of the Beta distribution of mixup, on the device; 0 mixes nothing

    tasks = [rule.name for rule in MODALITIES[modality].tasks]
    c.model = ConfigDict()  # see models/by_name.py
    c.model.streams = "dual"  # "dual", "separable" or "standard"
    c.model.separable = "plain"  # what the separable stream is
    c.model.standard = "plain"  # what the standard stream is, or "resnet18"
    c.model.preset = "small"
    c.model.widths = ()  # channels of each stage, as 16,32,64; () is the trunk's, or the preset's
    c.model.blocks = 0  # convolutions of each stage; 0 is the preset's
    c.model.space_to_depth = 1  # side of pixel blocks made channels first; 1 is none
    c.model.hidden = 0  # of the shared dense layer; 0 is the preset's
    c.model.fusion = "concat"  # "concat", "sum" or "gated"
    c.model.norm = "batch"  # "batch" or "group"
    c.model.dropout = 0.0
    c.model.dtype = "float32"  # or "bfloat16", of the computation
    c.model.conv_implementation = "auto"  # "xla": no compiled kernels; "lax": plain

    c.loss = ConfigDict()  # see losses.py; a loss reads the parameters it has
    c.loss.name = "wlsrl"
    c.loss.by_task = dict.fromkeys(tasks, "")  # another loss for this task; "" is loss.name
    c.loss.variant = "target"
    c.loss.smoothing = 0.1
    c.loss.gamma = 2.0
    c.loss.sigma = 1.0
    c.loss.scale = 1.0
    c.loss.class_weights = "inverse"  # "none", "inverse", "sqrt_inverse", "effective_number"
    c.loss.beta = 0.999  # of "effective_number"
    for parameter, default in loss_parameters().items():
        if parameter not in c.loss:  # of a loss that was added
            c.loss[parameter] = default
    c.task_weights = dict.fromkeys(tasks, 1.0)  # lambda; 0 switches the task's loss off

    c.optimizer = ConfigDict()
    c.optimizer.name = "adamw"  # or "sgd"
    c.optimizer.learning_rate = 2e-3
    c.optimizer.final_fraction = 0.01  # of the learning rate, at the last step
    c.optimizer.warmup_epochs = 1.0
    c.optimizer.weight_decay = 0.05
    c.optimizer.momentum = 0.9
    c.optimizer.b2 = 0.999
    c.optimizer.clip_norm = 1.0  # 0 does not clip
    c.optimizer.ema_decay = 0.99  # of the weights that are evaluated; 0 is no average
    c.optimizer.accumulation = 1  # micro-batches a step

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = 100  # besides every evaluation
    c.checkpoint.keep = 2  # recent ones; the selected one is kept as well

    c.eval = ConfigDict()
    c.eval.every_epochs = 1.0
    c.eval.batch_size = 64
    c.eval.mirror = False  # True: probabilities are the mean over an image and its mirror image

    c.mesh = ConfigDict()
    c.mesh.fsdp = 1  # devices that share one copy of the parameters
    return c.lock()  # so that a misspelt field of a config file is an error there


def completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Adds to the config of an earlier run the fields that there were not yet, by their defaults.

    Args:
      saved: content of its ``config.json``.

    Returns:
      The config; as it is where it names no modality that is known.
    """
    if saved.get("modality") not in MODALITIES:
        return dict(saved)
    # As JSON has them, like what was saved: a tuple is a list there.
    defaults = json.loads(base_config(saved["modality"]).to_json())
    return _filled(saved, defaults, "")


def _filled(saved: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    filled = dict(saved)
    for key, default in defaults.items():
        name = f"{prefix}{key}"
        if name in OF_TASKS:
            continue
        if key not in filled:
            filled[key] = default
        elif isinstance(default, Mapping) and isinstance(filled[key], Mapping):
            filled[key] = _filled(filled[key], default, f"{name}.")
    return filled
