"""``import wlsrl_jax`` is light, and its example is right."""

import doctest
import subprocess
import sys

import pytest

import wlsrl_jax as wj
from tests.tiny import ROOT
from wlsrl_jax.files import Mistake


def test_the_example():
    found = doctest.testmod(wj)
    assert found.attempted >= 6 and not found.failed


def test_importing_loads_nothing_of_weight():
    code = """
import sys, numpy
before = set(sys.modules)
import wlsrl_jax as wj
assert wj.__version__
new = {name for name in set(sys.modules) - before if not name.startswith("wlsrl_jax")}
assert not new & {"jax", "flax", "cv2", "PIL", "ml_collections"}, new
wj.losses.wlsrl, wj.metrics.evaluate_task
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_config_is_read_as_the_command_reads_it():
    config = wj.read_config(ROOT / "configs" / "oct.py")
    assert config.data.dataset == "phantom"
    assert wj.read_config(f"{ROOT}/configs/oct.py:octdl").data.dataset == "octdl"
    with pytest.raises(Mistake, match=r"nowhere\.py does not exist"):
        wj.read_config("nowhere.py")
    with pytest.raises(AttributeError, match="no attribute 'loose'"):
        wj.loose  # noqa: B018
