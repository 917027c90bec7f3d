"""Plots of the report as SVG text that follows the page's colours."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#8c564b", "#7f7f7f")
"""Okabe and Ito (2008), which colour-blind readers can tell apart; the yellow is darkened."""
_INK = "#010203"  # stands for the colour of the page's text
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def _figure(title: str, width: float = 4.6, height: float = 3.9) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # a second to import: not before it is needed

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    return figure, axes


def _svg(draw: Any, name: str, description: str) -> str:
    """SVG of what ``draw`` makes, with a description for those who cannot see it."""
    import matplotlib

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = draw()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    # Names are only unique within a plot: the page holds many, of several runs too.
    own = f"{name}-{zlib.crc32(text.encode()):08x}"
    for kind in ('id="', "url(#", 'href="#'):
        text = text.replace(kind, f"{kind}{own}-")
    safe = description.replace("&", "and").replace('"', "'").replace("<", " ")
    return text.replace("<svg ", f'<svg role="img" aria-label="{safe}" ', 1)


def rank_curve(task: str, curves: Mapping[str, Any], kind: str) -> str:
    """ROC ("roc") or precision-recall ("pr") curves of the classes of a task, with bands.

    Args:
      task: its name.
      curves: class -> result of ``evaluate.curves.rank_curves``.
      kind: "roc" or "pr".
    """
    from wlsrl_jax.evaluate.curves import GRID

    labels = {
        "roc": ("ROC", "1 - specificity", "sensitivity"),
        "pr": ("precision-recall", "recall (sensitivity)", "precision (PPV)"),
    }
    title, across, up = labels[kind]

    def draw() -> Any:
        figure, axes = _figure(f"{task}: {title}")
        for k, (name, found) in enumerate(curves.items()):
            colour = COLOURS[k % len(COLOURS)]
            line = found[kind]
            axes.fill_between(GRID, line["low"], line["high"], color=colour, alpha=0.15, lw=0)
            axes.plot(GRID, line["y"], color=colour, lw=1.6, label=name)
        if kind == "roc":
            axes.plot([0, 1], [0, 1], color=_INK, lw=0.8, ls=":")
        axes.set(xlabel=across, ylabel=up, xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(loc="lower right" if kind == "roc" else "lower left")
        return figure

    description = f"{title} curve of task {task} for {', '.join(curves)} with 95% bands"
    return _svg(draw, f"{kind}-{task}", description)


def reliability(task: str, curves: Sequence[Sequence[Mapping[str, float]]]) -> str:
    """Accuracy against confidence, before and after temperature scaling.

    Args:
      task: its name.
      curves: bins before and after, as ``evaluate.curves.reliability`` gives them.
    """

    def draw() -> Any:
        figure, axes = _figure(f"{task}: reliability")
        axes.plot([0, 1], [0, 1], color=_INK, lw=0.8, ls=":")
        for k, (bins, name) in enumerate(zip(curves, ("raw", "temperature-scaled"), strict=True)):
            x, y = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
            most = max((b["count"] for b in bins), default=1)
            sizes = [12 + 120 * b["count"] / most for b in bins]
            axes.plot(x, y, color=COLOURS[k], lw=1.2, label=name)
            axes.scatter(x, y, s=sizes, color=COLOURS[k], alpha=0.6, lw=0)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
        axes.legend(loc="upper left")
        return figure

    description = f"accuracy against confidence of task {task}, raw and temperature-scaled"
    return _svg(draw, f"reliability-{task}", description)


def training(lines: Sequence[Mapping[str, Any]], selected: int) -> str:
    """Training loss and validation score against the step.

    Args:
      lines: of ``metrics.jsonl``.
      selected: step of the selected checkpoint.
    """

    def draw() -> Any:
        figure, axes = _figure("training", 6.4, 3.4)
        train = [(x["step"], x["loss"]) for x in lines if x["kind"] == "train" and x["loss"]]
        score = [(x["step"], x["score"]) for x in lines if x["kind"] == "validation"]
        axes.plot(*np.asarray(train).reshape(-1, 2).T, color=COLOURS[0], lw=1.2)
        axes.set_xlabel("step")
        axes.set_ylabel("training loss", color=COLOURS[0])
        other = axes.twinx()
        other.spines["right"].set_visible(True)
        other.plot(*np.asarray(score).reshape(-1, 2).T, color=COLOURS[1], lw=1.6, marker=".")
        other.set_ylabel("validation score", color=COLOURS[1])
        axes.axvline(selected, color=_INK, lw=0.8, ls="--")
        axes.annotate(
            "selected", (selected, 1), xycoords=("data", "axes fraction"), ha="right", va="top",
            rotation=90, xytext=(-2, -2), textcoords="offset points", fontsize=9,
        )  # fmt: skip
        return figure

    return _svg(draw, "training", "training loss and validation score against the step")


def differences(task: str, rows: Sequence[Mapping[str, Any]], first: str, second: str) -> str:
    """Paired differences of two runs with their intervals.

    Args:
      task: its name.
      rows: with "name", "difference", "low", "high".
      first: name of the run.
      second: name of the one that is taken off.
    """

    def draw() -> Any:
        figure, axes = _figure(f"{task}: {first} minus {second}", 5.6, 0.9 + 0.32 * len(rows))
        for k, row in enumerate(rows):
            clear = row["low"] > 0 or row["high"] < 0
            colour = COLOURS[1] if clear else COLOURS[0]
            axes.plot([row["low"], row["high"]], [k, k], color=colour, lw=2)
            axes.plot(row["difference"], k, "o", color=colour, ms=5)
        axes.axvline(0, color=_INK, lw=0.8, ls=":")
        axes.set_yticks(range(len(rows)), [r["name"] for r in rows])
        axes.invert_yaxis()
        axes.set_xlabel("difference, 95% interval")
        return figure

    return _svg(
        draw, f"difference-{task}", f"differences of task {task} between {first} and {second}"
    )
