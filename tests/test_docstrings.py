"""Every public function of the modules that others build on says what it takes and gives."""

import doctest
import inspect

import pytest

from wlsrl_jax import losses, metrics, tasks
from wlsrl_jax.data import sampling
from wlsrl_jax.models import by_name, layers
from wlsrl_jax.ops import convolution as ops
from wlsrl_jax.training import class_weights

MODULES = (losses, metrics, by_name, layers, tasks, ops, class_weights, sampling)
PUBLIC = [
    pytest.param(f, id=f"{m.__name__.split('.')[1]}.{n}")
    for m in MODULES
    for n, f in inspect.getmembers(m, inspect.isfunction)
    if f.__module__ == m.__name__ and not n.startswith("_")
]


@pytest.mark.parametrize("function", PUBLIC)
def test_docstring(function):
    text = inspect.getdoc(function) or ""
    parameters = inspect.signature(function).parameters
    assert "Returns:" in text or inspect.signature(function).return_annotation == "None"
    assert not parameters or "Args:" in text
    for name in parameters:
        assert f"{name}:" in text or f"{name}`" in text or "**" in text, name
    if "raise ValueError" in inspect.getsource(function):
        assert "Raises:" in text
    assert "[" in text or "shape" in text or not any(
        "Array" in str(p.annotation) or "ndarray" in str(p.annotation) for p in parameters.values()
    ), "arrays without shapes"  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_are_true(module):
    failed, _ = doctest.testmod(module)
    assert not failed


def test_every_loss_has_a_source():
    for name, spec in losses.LOSSES.items():
        make = getattr(spec.make, "func", spec.make)  # of a partial
        assert "References:" in (inspect.getdoc(make) or ""), name
