"""What a run ran on: devices, versions, the commit of the code."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax

from wlsrl_jax.files import Mistake

log = logging.getLogger(__name__)

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "tensorflow-datasets",
    "ml-collections",
    "numpy",
    "scikit-learn",
    "opencv-python-headless",
)


def unused_accelerator() -> str:
    """Names an accelerator that this machine has and JAX does not use, or returns ""."""
    if jax.default_backend() != "cpu":
        return ""
    if any(Path("/dev").glob("nvidia[0-9]*")) or Path("/proc/driver/nvidia/version").exists():
        return "an NVIDIA GPU (install the extra 'cuda')"
    if Path("/dev/kfd").exists():
        return "an AMD GPU"
    if any(Path("/dev").glob("accel[0-9]*")) or os.environ.get("TPU_NAME"):
        return "a TPU (install the extra 'tpu')"
    return ""


def check_devices(require_accelerator: bool) -> str:
    """Describes the devices of this run.

    Args:
      require_accelerator: whether running on CPU is an error.

    Returns:
      A line such as "2 x cpu (cpu)".

    Raises:
      Mistake: if an accelerator is required and JAX has none.
    """
    unused = unused_accelerator()
    if unused:
        log.warning("This machine has %s, but JAX runs on the CPU: training will be slow.", unused)
    if require_accelerator and jax.default_backend() == "cpu":
        raise Mistake(
            "config.require_accelerator is set, but JAX found only CPUs"
            + (f" while the machine has {unused}." if unused else ".")
        )
    device = jax.devices()[0]
    return f"{jax.device_count()} x {device.device_kind} ({device.platform})"


def describe() -> dict[str, Any]:
    """Versions, devices, command and commit, for ``environment.json``."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": [
            str(d) if d.platform == "cpu" else f"{d.device_kind} ({d})" for d in jax.devices()
        ],
        "processes": jax.process_count(),
        "versions": versions,
        "commit": git_commit(),
    }


def processor_facts() -> dict[str, str]:
    """What Linux says of the (last) processor, as "model name" and "flags"; {} elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def git_commit() -> str | None:
    """Commit of the checkout that the package lies in, "-dirty" if it was changed."""
    root = Path(__file__).resolve().parent
    try:
        result = subprocess.run(
            [
                "git",
                "-C",
                str(root),
                "describe",
                "--always",
                "--dirty",
                "--abbrev=40",
                "--exclude=*",
            ],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
