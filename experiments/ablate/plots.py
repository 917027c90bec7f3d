"""Plots of a grid: differences to the baseline with their intervals, and a dot a seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablate.analysis import Analysis, Row
from ablate.grid import Grid
from ablate.tables import baseline_text, compared, metric_name
from wlsrl_jax.report.plots import COLOURS
from wlsrl_jax.tasks import PHANTOM_NOTE

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ablation",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write_plots(grid: Grid, analysis: Analysis, directory: Path) -> None:
    """Writes ``plots/TASK-differences.svg`` and ``plots/TASK-seeds.svg``.

    The first only with differences, the second only with several conditions or seeds.
    """
    folder = directory / "plots"
    folder.mkdir(exist_ok=True)
    for task in grid.metrics:
        if compared(grid, analysis, task):
            _draw(grid, analysis, task, compared(grid, analysis, task), _differences,
                  folder / f"{task}-differences.svg")  # fmt: skip
        if analysis.seeds > 1 or len(analysis.rows) > 1:
            _draw(grid, analysis, task, list(grid.metrics[task]), _seeds,
                  folder / f"{task}-seeds.svg")  # fmt: skip


def _draw(
    grid: Grid,
    analysis: Analysis,
    task: str,
    metrics: list[str],
    panel: Callable[[Any, list[Row], tuple[str, str]], None],
    path: Path,
) -> None:
    import matplotlib
    from matplotlib.figure import Figure  # a second to import: not before it is needed

    rows = [r for r in analysis.rows if any(key[0] == task for key in r.values)]
    if panel is _differences:
        rows = [r for r in rows if any(key[0] == task for key in r.differences)]
    with matplotlib.rc_context(STYLE):
        figure = Figure((1.8 + 2.4 * len(metrics), 1.3 + 0.22 * len(rows)), layout="constrained")
        title = f"{task}: difference to {baseline_text(grid)}, 95% interval (orange: Holm p < 0.05)"
        if panel is _seeds:
            title = f"{task}: a dot a seed, the bar is their mean"
        figure.suptitle(f"{title}\n{PHANTOM_NOTE}" if analysis.phantom else title, fontsize=10)
        axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
        for one, metric in zip(axes, metrics, strict=True):
            panel(one, rows, (task, metric))
            one.set_title(metric_name(metric), fontsize=9)
            one.grid(axis="x", lw=0.4, alpha=0.5)
            one.locator_params(axis="x", nbins=4)  # more labels meet
        axes[0].set_yticks(range(len(rows)), [_label(row) for row in rows])
        axes[0].set_ylim(len(rows) - 0.4, -0.6)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _differences(axes: Any, rows: list[Row], key: tuple[str, str]) -> None:
    axes.axvline(0, color="black", lw=0.8, ls=":")
    for k, row in enumerate(rows):
        if key in row.differences:
            found, corrected = row.differences[key].estimate, row.differences[key].corrected
            colour = COLOURS[1] if corrected < 0.05 else COLOURS[0]
            axes.plot([found.low, found.high], [k, k], color=colour, lw=1.6)
            axes.plot(found.value, k, "o", color=colour, ms=4)


def _seeds(axes: Any, rows: list[Row], key: tuple[str, str]) -> None:
    for k, row in enumerate(rows):
        if key in row.values:
            found = row.values[key]
            axes.plot(found.seeds, [k] * len(found.seeds), "o", color=COLOURS[0], ms=4, alpha=0.6)
            axes.plot(found.value, k, "|", color=COLOURS[1], ms=10, mew=1.6)


def _label(row: Row) -> str:
    return ", ".join(str(value) for _, value in row.condition if str(value))
