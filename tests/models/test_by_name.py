"""Which network a config names, and what a config must not say."""

import inspect
import json
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from tests.tiny import ROOT, tiny_config
from wlsrl_jax.config.fields import base_config, completed
from wlsrl_jax.models.by_name import DTYPES, PRESETS, build_model, make_model
from wlsrl_jax.models.trunks import TRUNKS, PlainTrunk, ResNet18
from wlsrl_jax.tasks import make_tasks

HEADS = {"TO1": 4, "TO2": 2}
TASKS = make_tasks("oct", ("CNV", "DME", "DRUSEN", "NORMAL"), "NORMAL")


def built(**fields):
    return build_model(tiny_config(**{f"model__{k}": v for k, v in fields.items()}), TASKS)


def test_the_default_is_the_preset():
    assert built() == make_model("tiny", HEADS)
    for trunk in built().trunks:
        assert isinstance(trunk, PlainTrunk)
        assert (trunk.widths, trunk.blocks) == ((8, 16, 16), 1)
    assert built().streams == ("separable", "standard")


def test_widths_blocks_and_hidden_replace_the_presets():
    found = built(streams="separable", widths=(4, 12), blocks=3, hidden=7)
    (trunk,) = found.trunks
    assert (trunk.widths, trunk.blocks, found.hidden) == ((4, 12), 3, 7)
    assert built(widths=(4, 12)).trunks[1].blocks == PRESETS["tiny"]["blocks"]


def test_resnet18():
    found = built(streams="standard", standard="resnet18", dropout=0.2)
    (trunk,) = found.trunks
    assert isinstance(trunk, ResNet18) and trunk.widths == (64, 128, 256, 512)
    assert (found.hidden, found.dropout) == (PRESETS["tiny"]["hidden"], 0.2)
    found = built(streams="standard", standard="resnet18", widths=(4, 8, 8, 8), hidden=9)
    assert (found.trunks[0].widths, found.hidden) == ((4, 8, 8, 8), 9)


def test_each_stream_is_the_trunk_that_is_named():
    found = built(standard="resnet18", norm="group", space_to_depth=2)
    separable, standard = found.trunks
    assert isinstance(separable, PlainTrunk) and isinstance(standard, ResNet18)
    assert (separable.separable, separable.norm, separable.space_to_depth) == (True, "group", 2)
    assert (separable.widths, standard.widths) == ((8, 16, 16), (64, 128, 256, 512))
    assert found.streams == ("separable", "resnet18")


RESNET = {"streams": "standard", "standard": "resnet18"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"standard": "vgg"}, "standard='vgg' is unknown; choose one of plain, resnet18"),
        ({"separable": "resnet18"}, "separable='resnet18' is unknown; choose one of plain"),
        ({"streams": "triple"}, "streams='triple' is unknown; choose one of dual, separable"),
        ({"preset": "huge", **RESNET}, "tiny, small, medium, base"),
        ({"widths": (8, 0)}, r"widths=\(8, 0\) must be positive whole numbers"),
        ({"widths": ("a",)}, r"widths=\('a',\) must be positive whole numbers"),
        ({"widths": (8, 1.5)}, "must be positive whole numbers"),
        ({**RESNET, "widths": (8, 8)}, r"widths=\(8, 8\) must be four numbers"),
        ({"standard": "resnet18", "fusion": "sum"}, "separable has 16, resnet18 has 512"),
        *(
            ({**RESNET, name: value}, f"does not read config.model.{name}=")
            for name, value in (("blocks", 2), ("space_to_depth", 2), ("fusion", "sum"),
                                ("norm", "group"))
        ),
        ({"streams": "separable", "standard": "resnet18"}, "separable=plain.*does not read config."
                                                           "model.standard='resnet18'"),
        ({"streams": "separable", "fusion": "sum"}, "does not read config.model.fusion='sum'"),
        (
            {**RESNET, "blocks": 2, "norm": "group"},
            r"blocks=2 \(its default is 0\), config.model.norm='group' \(its default is 'batch'\)",
        ),
    ],
)  # fmt: skip
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        built(**fields)


def test_every_field_has_the_default_of_a_config():
    """Else a config that leaves alone what its network does not read would be refused."""
    parameters = inspect.signature(make_model).parameters
    for modality in ("oct", "fundus"):
        model = dict(base_config(modality).model)
        assert DTYPES[model.pop("dtype")] == parameters["dtype"].default
        assert model.pop("preset") in PRESETS
        assert model == {n: p.default for n, p in parameters.items()
                         if n not in ("preset", "heads", "dtype")}  # fmt: skip


@pytest.mark.parametrize("row", TRUNKS, ids=lambda row: f"{row.kind}-{row.name}")
def test_a_row_tells_what_its_trunk_reads(row):
    """Each field that it names changes the network, and the network has what it names."""
    fields = {"streams": row.kind, row.kind: row.name}
    other = {"widths": (4, 4, 8, 8), "blocks": 2, "norm": "group", "space_to_depth": 2}
    plain = built(**fields)
    assert plain.streams == (row.scope,)
    for name, value in other.items():
        if name in row.reads:
            (trunk,) = built(**fields, **{name: value}).trunks
            assert trunk != plain.trunks[0] and getattr(trunk, name) == value
        else:
            with pytest.raises(ValueError, match=f"does not read config.model.{name}="):
                built(**fields, **{name: value})


def test_a_run_of_before_has_the_network_that_it_had():
    old = json.loads(json.dumps(tiny_config().to_dict()))
    for name in ("separable", "standard", "widths", "blocks", "hidden"):
        del old["model"][name]
    config = tiny_config()
    config.update(completed(old))
    assert build_model(config, TASKS) == make_model("tiny", HEADS)


@pytest.mark.parametrize(
    ("text", "widths"),
    [("16,32", (16, 32)), ("(16,32)", (16, 32)), ("[16, 32]", (16, 32)), ("16", (16,)), ("()", ())],
)
def test_widths_on_the_command_line(text, widths, monkeypatch):
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True)
    argv = ["x", f"--config={ROOT}/configs/oct.py", f"--config.model.widths={text}"]
    monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for fields
    values(argv)
    assert values["config"].value.model.widths == widths
