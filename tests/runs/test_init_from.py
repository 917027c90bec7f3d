"""Weights of another run are taken by what they mean: head columns by the name of the class."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.tiny import tiny_config
from wlsrl_jax.runs.init_from import take_over
from wlsrl_jax.runs.open import load_trained
from wlsrl_jax.tasks import Task
from wlsrl_jax.training.setup import build_run


@pytest.fixture(scope="module")
def source(finished):
    return load_trained(finished)


@pytest.fixture(scope="module")
def fresh():
    return build_run(tiny_config(seed=9)).init_state()


def taken(fresh, source, tasks):
    params, _, told = take_over(tasks, fresh.params, fresh.batch_stats, source)
    return params, told


def test_the_same_classes_give_the_same_bits(fresh, source):
    params, told = taken(fresh, source, source.tasks)
    assert told == []
    jax.tree.map(np.testing.assert_array_equal, params, source.variables["params"])


def test_classes_in_another_order_are_taken_by_name(fresh, source):
    names = ("NORMAL", "DRUSEN", "DME", "CNV")
    own = (Task("TO1", names, (0, 1, 2, 3)), source.tasks[1])
    params, told = taken(fresh, source, own)
    for leaf in ("kernel", "bias"):
        theirs = source.variables["params"]["head_TO1"][leaf]
        np.testing.assert_array_equal(params["head_TO1"][leaf], theirs[..., ::-1])
    assert told == ["head_TO1: classes stand in another order there; taken by name"]


def test_classes_that_are_not_known_there_start_afresh_and_are_named(fresh, source):
    own = (Task("TO1", ("AMD", "DME", "CNV", "NO"), (0, 1, 2, 3)), source.tasks[1])
    params, told = taken(fresh, source, own)
    kernel, theirs = params["head_TO1"]["kernel"], source.variables["params"]["head_TO1"]["kernel"]
    np.testing.assert_array_equal(kernel[:, 1], theirs[:, 1])
    np.testing.assert_array_equal(kernel[:, 2], theirs[:, 0])
    for k in (0, 3):
        np.testing.assert_array_equal(kernel[:, k], fresh.params["head_TO1"]["kernel"][:, k])
    assert told[0] == "head_TO1: AMD, NO start afresh (not a class there)"
    assert told[1] == "head_TO1: DRUSEN, NORMAL are classes there only, and left out"


def test_another_number_of_classes(fresh, source):
    """Its shape is another, and the classes that both know are taken all the same."""
    names = ("CNV", "DME", "DRUSEN", "NORMAL", "VID")
    head = {"kernel": np.zeros((source.variables["params"]["head_TO1"]["kernel"].shape[0], 5), "f"),
            "bias": np.zeros(5, "f")}  # fmt: skip
    mine = {**fresh.params, "head_TO1": jax.tree.map(jax.numpy.asarray, head)}
    own = (Task("TO1", names, (0, 1, 2, 3, 4)), source.tasks[1])
    params, _, told = take_over(own, mine, fresh.batch_stats, source)
    np.testing.assert_array_equal(
        params["head_TO1"]["kernel"][:, :4], source.variables["params"]["head_TO1"]["kernel"]
    )
    assert not np.any(params["head_TO1"]["kernel"][:, 4])
    assert told == ["head_TO1: VID start afresh (not a class there)"]


def test_a_head_that_was_not_trained_there_is_not_taken(fresh, source):
    half = dataclasses.replace(source, tasks=source.tasks[:1], untrained=("TO2",))
    params, told = taken(fresh, half, source.tasks)
    for leaf in ("kernel", "bias"):
        np.testing.assert_array_equal(params["head_TO2"][leaf], fresh.params["head_TO2"][leaf])
    assert told == ["head_TO2 starts afresh (it was not trained there)"]
