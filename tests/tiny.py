"""The smallest real run: a few seconds from config to results."""

import csv
import importlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests import sources
from wlsrl_jax.__main__ import VERBS
from wlsrl_jax.cli import status_of
from wlsrl_jax.data.prepare import __main__ as prepare
from wlsrl_jax.report.build import NAME as REPORT
from wlsrl_jax.report.build import write_report
from wlsrl_jax.runs import checkpoint
from wlsrl_jax.runtime.stop import StopRequest
from wlsrl_jax.training import example_ids
from wlsrl_jax.training.loop import train

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
            "report": False,
            **{key.replace("__", "."): value for key, value in changes.items()},
        }
    )
    return config


def run(workdir, name="oct", **changes):
    """Trains, and makes the report where the config asks for it, as ``main`` does."""
    config = tiny_config(name, **changes)
    document = train(config, workdir, StopRequest())
    if config.report and not (workdir / REPORT).exists():
        write_report([workdir])
    return document


def start(workdir, *flags, **options):
    """Starts a run in a process of its own."""
    return start_verb("train", f"--config={ROOT}/configs/oct.py", f"--workdir={workdir}", *flags,
                      **options)  # fmt: skip


def start_verb(verb, *flags, env=None, **options):
    """Starts a verb in a process of its own."""
    return subprocess.Popen([sys.executable, "-m", "wlsrl_jax", verb, *flags], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            cwd=ROOT, env={**os.environ, **(env or {})}, **options)  # fmt: skip


def wlsrl(verb, *arguments):
    """The exit status of a verb, run in this process."""
    module = importlib.import_module(f"wlsrl_jax.{VERBS[verb][0]}")
    return status_of(module.main, [str(a) for a in arguments])


def tiny_flags(**changes):
    flat = tiny_config(**changes)
    keys = ["data.height", "data.width", "data.phantom.train", "data.phantom.validation",
            "data.phantom.test", "model.preset", "batch_size", "eval.batch_size", "num_epochs",
            "checkpoint.every_steps", "allow_missing_classes", "report", *(
                k.replace("__", ".") for k in changes)]  # fmt: skip
    values = flat.to_dict()

    def get(key):
        node = values
        for part in key.split("."):
            node = node[part]
        return node

    return [f"--config.{key}={get(key)}" for key in keys]


class StopAfter(StopRequest):
    """Asks to stop at the n-th look."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    def check(self):
        self.looks -= 1
        if self.looks <= 0:
            self.signal = signal.SIGTERM
        super().check()


def state_of(workdir):
    return checkpoint.read_arrays(workdir / "checkpoints")


def assert_same_run(a, b):
    left, right = state_of(a), state_of(b)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
    assert example_ids.read(a) == example_ids.read(b)
    for name in ("predictions.csv", "metrics.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


def read_predictions(workdir):
    with (workdir / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def damaged_octdl(folder):
    """A prepared OCTDL with one damaged record in its training split; returns its data_dir."""
    source = sources.octdl(folder / "octdl")
    manifest = prepare.prepare("octdl", source, str(folder / "data"), size=(32, 32))
    (records,) = manifest.parent.glob("*train*array_record*")
    content = bytearray(records.read_bytes())
    pixels = content.rindex(b"\x89PNG") + 300
    content[pixels : pixels + 40] = bytes(40)
    records.write_bytes(content)
    return folder / "data"
