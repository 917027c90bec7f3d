"""The smallest real run: a few seconds from config to results."""

import importlib.util
from pathlib import Path

from wlsrl_jax.preemption import StopRequest
from wlsrl_jax.train import train

ROOT = Path(__file__).resolve().parent.parent


def load_config(name, dataset="phantom"):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(dataset)


def tiny_config(name="oct", **changes):
    config = load_config(name)
    config.update_from_flattened_dict(
        {
            "data.height": 32,
            "data.width": 32,
            "data.phantom.train": 96,
            "data.phantom.validation": 40,
            "data.phantom.test": 50,
            "model.preset": "tiny",
            "batch_size": 16,
            "eval.batch_size": 16,
            "num_epochs": 2.0,
            "checkpoint.every_steps": 5,
            "allow_missing_classes": True,
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
    )
    return config


def run(workdir, name="oct", **changes):
    return train(tiny_config(name, **changes), workdir, StopRequest())
