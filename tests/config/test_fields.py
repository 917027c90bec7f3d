"""Every field of a config: its row is whole, and its range is kept."""

import subprocess
import sys

import pytest

from tests.tiny import tiny_config
from wlsrl_jax.config.fields import (
    FIELDS,
    FREE_FIELDS,
    Listed,
    Range,
    base_config,
    bound_fields,
    check_fields,
    fields_of,
)
from wlsrl_jax.files import Mistake, flatten
from wlsrl_jax.training.fields_table import LISTS, main
from wlsrl_jax.training.setup import build_run

RANGED = [field for field in fields_of("oct") if isinstance(field.range, Range)]
LISTED = [field for field in FIELDS if isinstance(field.range, Listed)]
BORDERS = {  # text of a range -> values inside, values outside
    "> 0": ((1e-9, 1), (0, -1)),
    ">= 0": ((0, 1), (-1, -1e-9)),
    ">= -1": ((-1, 0), (-2,)),
    ">= 16": ((16, 17), (15, 0)),
    "in [0, 1]": ((0, 0.5, 1), (-1e-9, 1.1)),
    "in [0, 1)": ((0, 0.5), (-1e-9, 1.0)),
    "one of refuse, warn": (("refuse", "warn"), ("", "stop")),
    "one of stop, skip": (("stop", "skip"), ("", "warn")),
    "whole numbers > 0, as 16,32,64": (((), (16, 32)), ((8, 0), (8, 1.5), ("a",), (True,))),
}


def changed(name, value):
    config = tiny_config()
    with config.unlocked(), config.ignore_type():
        config.update_from_flattened_dict({name: value})
    return config


@pytest.mark.parametrize("modality", ["oct", "fundus"])
def test_every_row_is_whole(modality):
    rows = fields_of(modality)
    names = [field.name for field in rows]
    assert len(set(names)) == len(names) and set(names) == set(
        flatten(base_config(modality).to_dict())
    )
    check_fields(base_config(modality))
    for field in rows:
        assert field.meaning and field.meaning[-1] != ".", field.name
        if isinstance(field.range, Range):
            assert field.range.holds(field.default), field.name
        if isinstance(field.range, Listed) and field.default:
            assert field.default in LISTS[field.range.place], field.name
        number = isinstance(field.default, int | float) and not isinstance(field.default, bool)
        assert isinstance(field.range, Range) or not number, field.name


@pytest.mark.parametrize("field", RANGED, ids=lambda field: field.name)
def test_a_value_out_of_range_is_refused_with_the_name_of_its_field(field):
    inside, outside = BORDERS[field.range.text]
    assert all(field.range.holds(value) for value in inside)
    if isinstance(field.default, float):
        outside = (*map(float, outside), float("nan"), float("inf"), float("-inf"))
    elif isinstance(field.default, int):
        outside = tuple(v for v in outside if v == int(v))
    for value in outside:
        with pytest.raises(Mistake) as caught:
            check_fields(changed(field.name, value))
        wanted = f"config.{field.name}={value!r} must be {field.range.text}."
        assert str(caught.value) == wanted


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("augment.flip", 1.1), ("loss.smoothing", 1.1), ("optimizer.final_fraction", 2.0),
        ("model.dropout", 1.0), ("loss.beta", 1.0), ("optimizer.momentum", 1.0),
        ("optimizer.b2", 1.0), ("optimizer.ema_decay", 1.0), ("batch_size", 0),
        ("optimizer.learning_rate", 0.0), ("mesh.fsdp", 0), ("data.width", 15),
        ("data.fold", -2), ("task_weights.TO2", -1.0), ("model.widths", (8, 0)),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(name, value):
    with pytest.raises(Mistake, match=rf"^config\.{name}=.* must be"):
        check_fields(changed(name, value))


@pytest.mark.parametrize("field", LISTED, ids=lambda field: field.name)
def test_a_name_that_is_not_listed_is_refused_where_it_is_used(field):
    name = field.name.replace("TASK", "TO1")
    with pytest.raises(Mistake) as caught:
        config = changed(name, "no_such")
        check_fields(config)
        build_run(config)
    assert "'no_such'" in str(caught.value)
    assert ", ".join(LISTS[field.range.place]) in str(caught.value)


def test_all_wrong_fields_are_listed_at_once():
    with pytest.raises(Mistake, match=r"batch_size=0 .*loss\.smoothing=2\.0 must be in \[0, 1\]\."):
        check_fields(tiny_config(batch_size=0, loss__smoothing=2.0))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_epoch", 3.0, "config.num_epoch does not exist; is it config.num_epochs[?]"),
        ("num_epochs", None, "config.num_epochs=None must be of type float"),
        ("report", None, "config.report=None must be of type bool"),
        ("batch_size", 1.5, "config.batch_size=1.5 must be of type int"),
        ("model.widths", "16", "config.model.widths='16' must be of type tuple"),
        ("modality", "ct", "config.modality='ct' must be one of oct, fundus"),
    ],
)
def test_names_and_types(name, value, message):
    with pytest.raises(Mistake, match=message):
        check_fields(changed(name, value))


def test_a_field_that_is_missing():
    config = tiny_config()
    with config.unlocked():
        del config.seed, config.eval
    with pytest.raises(Mistake, match=r"config\.eval\.batch_size is missing; .*seed is missing"):
        check_fields(config)


def test_what_may_change_when_a_run_is_resumed():
    assert set(FREE_FIELDS) == {
        "log_every", "on_nan", "require_accelerator", "report", "log_example_ids",
        "data.data_dir", "data.num_threads", "data.cache_mib",
        "checkpoint.every_steps", "checkpoint.keep",
        "eval.batch_size", "mesh.fsdp",
    }  # fmt: skip
    flat = flatten(base_config("oct").to_dict())
    assert set(flat) - set(bound_fields(flat)) == set(FREE_FIELDS)
    assert bound_fields({"seed": 3, "log_every": 1}) == {"seed": 3}


def test_the_table_shows_every_field(capsys):
    main([])
    printed = capsys.readouterr().out
    for field in FIELDS:
        assert f" {field.name} " in printed, field.name
    assert "one of wlsrl, ce" in printed and "float in [0, 1)" in printed


def test_reading_the_table_needs_no_jax():
    code = "import sys, wlsrl_jax.config.fields; print({'jax', 'grain', 'flax'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done
