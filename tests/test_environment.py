import logging
from pathlib import Path

import jax
import pytest

from wlsrl_jax import environment


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
