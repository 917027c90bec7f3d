"""wlsrl_jax: dual-stream retinal disease grading with weighted label smoothing.

The Python door; nothing of weight is imported before it is asked for.

>>> import wlsrl_jax as wj
>>> model = wj.load("pretrained:octdl")
>>> model.classes["TO2"]
('normal', 'abnormal')
>>> from wlsrl_jax.data.phantoms.source import PhantomSource
>>> scan = PhantomSource("oct", "test", 8, 128, 256)[0]["image"]
>>> {task: p.shape for task, p in model.predict([scan, scan]).items()}
{'TO1': (2, 7), 'TO2': (2, 2)}
>>> model.explain(scan, "TO1").shape
(128, 256)
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from wlsrl_jax.runtime.version import VERSION as __version__

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from wlsrl_jax import losses, metrics
    from wlsrl_jax.predict.model import Model

__all__ = ["__version__", "load", "losses", "metrics", "read_config", "train"]

if sys.argv[:1] == ["-m"]:  # so it reads while ``python -m`` looks for the module
    from wlsrl_jax.runtime.start import begin

    begin()


def load(workdir: str | os.PathLike[str] = "pretrained:octdl") -> Model:
    """Opens a trained run; see ``predict/model.py`` for what it can do.

    Args:
      workdir: of a run, a packed run, or "pretrained:NAME" for a model of the package.

    Returns:
      The model. Research use only.

    Raises:
      Mistake: if there is no run, or it is damaged.
    """
    from wlsrl_jax.predict.model import load

    return load(workdir)


def read_config(file: str | os.PathLike[str]) -> ConfigDict:
    """Reads a config file, whose fields may then be set.

    Args:
      file: "FILE" or "FILE:DATASET", such as "configs/oct.py:octdl".

    Returns:
      The config.

    Raises:
      Mistake: if there is no such file, or it is wrong.
    """
    from wlsrl_jax.config.config_file import find_config_file, read_config_file

    path, dataset = find_config_file(str(file))
    return read_config_file(path, dataset)


def train(config: ConfigDict, workdir: str | os.PathLike[str]) -> Model:
    """Trains a network, or resumes the run of the workdir, tests it and makes its report.

    Args:
      config: of the run, as from ``read_config``.
      workdir: of the run.

    Returns:
      The trained model, as ``load`` gives it.

    Raises:
      Mistake: for a wrong field, data that are not there, or a workdir of another run.
    """
    from wlsrl_jax.files import local_path
    from wlsrl_jax.main import train_and_report
    from wlsrl_jax.runtime.stop import StopRequest

    train_and_report(config, local_path(str(workdir)), StopRequest())
    return load(workdir)


def __getattr__(name: str) -> ModuleType | Any:
    if name == "losses":
        import wlsrl_jax.losses as losses

        return losses
    if name == "metrics":
        import wlsrl_jax.metrics as metrics

        return metrics
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
