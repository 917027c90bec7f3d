import pytest

from ablate.matched_widths import BUDGETS, matched_widths
from wlsrl_jax.models.by_name import PRESETS, make_model
from wlsrl_jax.models.summary import stages

HEADS = {"TO1": 4, "TO2": 2}
SHAPE = (32, 48, 1)
OPTIONS = {"heads": HEADS, "image_shape": SHAPE}


def cost(by, preset, **fields):
    rows = stages(make_model(preset, HEADS, conv_implementation="lax", **fields), SHAPE)
    return sum(getattr(row, by) for row in rows)


@pytest.mark.parametrize("by", BUDGETS)
@pytest.mark.parametrize("streams", ["separable", "standard"])
@pytest.mark.parametrize("multiple", [4, 8])
def test_a_single_stream_gets_the_budget_of_the_dual_net(streams, by, multiple):
    target = cost(by, "small")
    widths = matched_widths(streams, target, by, preset="small", multiple=multiple, **OPTIONS)
    assert all(w % multiple == 0 for w in widths) and list(widths) == sorted(widths)
    assert cost(by, "small", streams=streams, widths=widths) == pytest.approx(target, rel=0.05)


def test_a_preset_matches_itself():
    for by in BUDGETS:
        target = cost(by, "tiny", streams="standard")
        found = matched_widths("standard", target, by, preset="tiny", **OPTIONS)
        assert found == PRESETS["tiny"]["widths"]


def test_the_smallest_widths_and_less():
    smallest = cost("parameters", "tiny", streams="separable", widths=(4, 4, 4))
    find = dict(preset="tiny", **OPTIONS)
    assert matched_widths("separable", smallest, **find) == (4, 4, 4)
    with pytest.raises(ValueError, match=r"below .*smallest widths \(4, 4, 4\)"):
        matched_widths("separable", smallest - 1, **find)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dual", 9, "parameters", "tiny"), "choose one of separable, standard"),
        (("standard", 9, "time", "tiny"), "choose one of parameters, flops"),
        (("standard", 9, "flops", "huge"), "tiny, small, medium, base"),
    ],
)
def test_wrong_choices_are_named(arguments, message):
    *first, preset = arguments
    with pytest.raises(ValueError, match=message):
        matched_widths(*first, preset=preset, **OPTIONS)
