"""Widths that give a single stream the parameters or the FLOPs of another network."""

from __future__ import annotations

import bisect
import functools
from collections.abc import Mapping
from typing import Any

from wlsrl_jax.models.by_name import PRESETS, make_model
from wlsrl_jax.models.layers import check_choice
from wlsrl_jax.models.summary import stages

BUDGETS = ("parameters", "flops")


def matched_widths(
    streams: str,
    target: int,
    by: str = "parameters",
    *,
    preset: str,
    heads: Mapping[str, int],
    image_shape: tuple[int, int, int],
    multiple: int = 4,
    **fields: Any,
) -> tuple[int, ...]:
    """Scales the widths of a preset's single stream to a budget.

    All widths are scaled by one factor and rounded to multiples, so the proportions of the
    preset stay; of all factors, the one whose budget comes closest.

    Args:
      streams: "separable" or "standard".
      target: the budget: parameters of the whole network, or FLOPs of an image.
      by: "parameters" or "flops", as ``models.summary.stages`` counts them.
      preset: a key of ``PRESETS``.
      heads: task -> number of classes.
      image_shape: (height, width, channels); parameters depend on the channels alone.
      multiple: what every width is a multiple of.
      **fields: others of ``make_model``, such as ``hidden``.

    Returns:
      Channels of each stage.

    Raises:
      ValueError: for an unknown choice, or a target that is below the smallest network's.
    """
    check_choice("streams", streams, ("separable", "standard"))
    check_choice("by", by, BUDGETS)
    check_choice("preset", preset, PRESETS)
    base: tuple[int, ...] = PRESETS[preset]["widths"]

    def scaled(factor: float) -> tuple[int, ...]:
        return tuple(multiple * max(1, int(factor * w / multiple + 0.5)) for w in base)

    # The plain convolution is traced fastest, and counts the same.
    fields = {**fields, "conv_implementation": "lax"}

    @functools.cache
    def cost(factor: float) -> int:
        model = make_model(preset, heads, streams=streams, widths=scaled(factor), **fields)
        return sum(getattr(row, by) for row in stages(model, image_shape))

    top = 1.0
    while cost(top) < target:
        top *= 2
    # Between two of these factors no width changes; each stands at the begin of its step.
    steps = sorted(
        {0.0}
        | {
            (k + 0.5) * multiple / w * (1 + 1e-9)
            for w in base
            for k in range(1, int(top * w / multiple) + 2)
        }
    )
    if cost(0.0) > target:
        raise ValueError(
            f"matched_widths: {by}={target:,} is below {cost(0.0):,}, of the smallest widths "
            f"{scaled(0.0)}; choose a smaller multiple or preset."
        )
    above = bisect.bisect_left(steps, target, key=cost)
    near = steps[max(above - 1, 0) : above + 1]
    return scaled(min(near, key=lambda factor: abs(cost(factor) - target)))
