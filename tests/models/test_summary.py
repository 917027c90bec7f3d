import sys

import jax
import pytest

from wlsrl_jax.cli import status_of
from wlsrl_jax.models import summary as model_summary
from wlsrl_jax.models.by_name import PRESETS, make_model

HEADS = {"TO1": 4, "TO2": 2}


@pytest.mark.parametrize("streams", ["dual", "separable", "standard"])
def test_parameters_are_all_counted(streams):
    model = make_model("tiny", HEADS, streams=streams)
    variables = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jax.numpy.zeros((1, 32, 48, 1)), train=False)
    )
    rows = model_summary.stages(model, (32, 48, 1))
    assert sum(r.parameters for r in rows) == sum(
        p.size for p in jax.tree.leaves(variables["params"])
    )
    heads = {r.name: r for r in rows if r.name.startswith("head")}
    assert heads["head_TO1"].shape == (4,) and heads["head_TO2"].shape == (2,)


def test_flops_agree_with_the_compiler():
    """XLA counts elementwise work as well, but not the products with padding."""
    model = make_model("small", HEADS, conv_implementation="lax", norm="batch")
    shape = (64, 64, 1)
    variables = model.init(jax.random.key(0), jax.numpy.zeros((1, *shape)), train=False)
    forward = jax.jit(lambda v, x: model.apply(v, x, train=False))
    compiled = forward.lower(variables, jax.numpy.zeros((1, *shape))).compile()
    theirs = compiled.cost_analysis()["flops"]
    ours = sum(r.flops for r in model_summary.stages(model, shape))
    assert 0.9 < ours / theirs < 1.1


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_prints(preset, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", f"--preset={preset}", "--size=64x64x3"])
    model_summary.main()
    out = capsys.readouterr().out
    assert "separable stage1" in out and "head_TF2" in out and "total" in out


def test_other_networks_print(monkeypatch, capsys):
    flags = ["--streams=standard", "--standard=resnet18", "--widths=4,8,8,12", "--size=64x96x1"]
    monkeypatch.setattr(sys, "argv", ["x", *flags])
    model_summary.main()
    lines = {line[:20].strip(): line[20:].split() for line in capsys.readouterr().out.splitlines()}
    assert [lines[f"resnet18 {k}"][0] for k in ("stem", "stage0", "stage3")] == [
        "32x48x4", "16x24x4", "2x3x12"]  # fmt: skip
    # Stem: 49 weights and 2 of the normalisation a channel; products at 32x48 places.
    assert lines["resnet18 stem"][1:] == ["204", f"{2 * 49 * 4 * 32 * 48 / 1e6:.2f}"]
    for wrong, message in (("--widths=4,8", "four numbers"), ("--space_to_depth=2", "not read")):
        assert status_of(model_summary.main, [*flags[:2], wrong]) == 2
        assert message in capsys.readouterr().err
