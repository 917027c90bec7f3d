import logging
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from wlsrl_jax.runtime import environment


def test_what_a_run_ran_on():
    found = environment.describe()
    assert found["versions"]["jax"] == jax.__version__
    assert set(found["versions"]) == set(environment.PACKAGES) and all(found["versions"].values())
    assert found["commit"] is None or len(found["commit"].removesuffix("-dirty")) == 40


def test_an_unused_accelerator_is_a_loud_warning(monkeypatch, caplog):
    monkeypatch.setattr(environment.jax, "default_backend", lambda: "cpu")
    glob = Path.glob
    monkeypatch.setattr(
        Path,
        "glob",
        lambda self, pattern: (
            iter([Path("/dev/nvidia0")]) if "nvidia" in pattern else glob(self, pattern)
        ),
    )
    with caplog.at_level(logging.WARNING):
        environment.check_devices(False)
    assert "NVIDIA GPU (install the extra 'cuda')" in caplog.text
    with pytest.raises(ValueError, match="only CPUs while the machine has an NVIDIA GPU"):
        environment.check_devices(True)
    monkeypatch.setattr(environment.jax, "default_backend", lambda: "gpu")
    assert environment.unused_accelerator() == ""
    environment.check_devices(True)


def test_training_starts_without_what_only_its_end_needs():
    """Each takes a good part of a second to import."""
    late = ("scipy.stats", "sklearn", "matplotlib", "jinja2", "pydicom", "tensorflow_datasets")
    code = f"import sys, wlsrl_jax.training.loop; print([m for m in {late} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
