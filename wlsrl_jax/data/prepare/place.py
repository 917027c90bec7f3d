"""Where a prepared data set lies, and what its files are called."""

from __future__ import annotations

import os
from pathlib import Path

import tensorflow_datasets as tfds

from wlsrl_jax.files import local_path

MANIFEST = "manifest.json"
LOOKS = "perceptual_hashes.npy"
"""uint8 ``[N, 16]`` in the order of the manifest: 128 bits an image, see audit/look.py."""
VERSION = "1.0.0"


def resolve_data_dir(data_dir: str | None) -> Path:
    """The directory of prepared data: the argument, TFDS_DATA_DIR, TFDS's default.

    Raises:
      Mistake: if it is no path of this machine.
    """
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR")
    return local_path(str(chosen or tfds.core.constants.DATA_DIR))


def dataset_dir(name: str, data_dir: str | None) -> Path:
    """Where a prepared data set lies."""
    return resolve_data_dir(data_dir) / name / VERSION
