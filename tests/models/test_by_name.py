"""Which network a config names, and what a config must not say."""

import json
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from tests.tiny import ROOT, tiny_config
from wlsrl_jax.config.fields import base_config, completed
from wlsrl_jax.models.by_name import ARCHITECTURES, make_network
from wlsrl_jax.models.dual_stream import PRESETS, DualStream, make_model
from wlsrl_jax.models.resnet import ResNet18
from wlsrl_jax.tasks import make_tasks
from wlsrl_jax.train.setup import build_model

HEADS = {"TO1": 4, "TO2": 2}
TASKS = make_tasks("oct", ("CNV", "DME", "DRUSEN", "NORMAL"), "NORMAL")


def built(**fields):
    return build_model(tiny_config(**{f"model__{k}": v for k, v in fields.items()}), TASKS)


def test_the_default_is_the_preset():
    assert built() == make_model("tiny", HEADS)
    for preset in PRESETS:
        assert make_network("dual_stream", preset, HEADS) == make_model(preset, HEADS)


def test_widths_blocks_and_hidden_replace_the_presets():
    found = built(streams="separable", widths=(4, 12), blocks=3, hidden=7)
    assert isinstance(found, DualStream)
    assert (found.widths, found.blocks, found.hidden) == ((4, 12), 3, 7)
    assert built(widths=(4, 12)).blocks == PRESETS["tiny"]["blocks"]


def test_resnet18():
    found = built(architecture="resnet18", dropout=0.2)
    assert isinstance(found, ResNet18) and found.widths == (64, 128, 256, 512)
    assert (found.hidden, found.dropout) == (PRESETS["tiny"]["hidden"], 0.2)
    found = built(architecture="resnet18", widths=(4, 8, 8, 8), hidden=9)
    assert (found.widths, found.hidden) == ((4, 8, 8, 8), 9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "vgg"}, "architecture='vgg' is unknown; choose one of dual_stream, "),
        ({"preset": "huge", "architecture": "resnet18"}, "tiny, small, medium, base"),
        ({"widths": (8, 0)}, r"widths=\(8, 0\) must be positive whole numbers"),
        ({"widths": ("a",)}, r"widths=\('a',\) must be positive whole numbers"),
        ({"widths": (8, 1.5)}, "must be positive whole numbers"),
        ({"architecture": "resnet18", "widths": (8, 8)}, r"widths=\(8, 8\) must be four numbers"),
        *(
            ({"architecture": "resnet18", name: value}, f"does not read config.model.{name}=")
            for name, value in (("blocks", 2), ("space_to_depth", 2), ("streams", "separable"),
                                ("fusion", "sum"), ("norm", "group"))
        ),
        (
            {"architecture": "resnet18", "blocks": 2, "norm": "group"},
            r"blocks=2 \(its default is 0\), config.model.norm='group' \(its default is 'batch'\)",
        ),
    ],
)  # fmt: skip
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        built(**fields)


def test_the_unread_fields_have_the_configs_defaults():
    """Else a config that leaves them alone would be refused."""
    for modality in ("oct", "fundus"):
        model = dict(base_config(modality).model)
        model.pop("dtype")
        for architecture in ARCHITECTURES:
            make_network(heads=HEADS, **{**model, "architecture": architecture})


def test_a_run_of_before_has_the_network_that_it_had():
    old = json.loads(json.dumps(tiny_config().to_dict()))
    for name in ("architecture", "widths", "blocks", "hidden"):
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
