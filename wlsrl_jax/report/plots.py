"""Plots of the report: SVG that follows the page's colours, in a figure with title and legend.

What people have named (classes, runs) stands in the HTML around a plot and never in it: there it
wraps, is escaped and has the browser's fonts, on the screen and on paper, whatever its alphabet
and length. Matplotlib would read ``$x$`` as mathematics, skip ``_other``, draw boxes for Chinese
and let a long legend leave the plot.
"""

from __future__ import annotations

import functools
import io
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#8c564b", "#7f7f7f")
"""Okabe and Ito (2008), which colour-blind readers can tell apart; the yellow is darkened."""
_SOLID = 4  # of the colours; the others are dashed, so that a grey printer shows more than four
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
}


def _figure(width: float = 4.6, height: float = 3.7) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # a second to import: not before it is needed

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _style(k: int) -> dict[str, Any]:
    return {"color": COLOURS[k], "ls": "-" if k < _SOLID else "--"}


def _legend(names: Sequence[str]) -> Markup:
    """The names beside the colours and dashes of ``_style``."""
    # A border, since browsers leave backgrounds off the paper.
    row = '<li><span class="key" style="border-top: 3px {} {}"></span><bdi>{}</bdi></li>'
    rows = [
        Markup(row).format("solid" if k < _SOLID else "dashed", COLOURS[k], name)
        for k, name in enumerate(names)
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(rows))


def _with_title(svg: str, title: str, legend: Sequence[str] = ()) -> Markup:
    return Markup("<figure><figcaption>{}</figcaption>{}{}</figure>").format(
        title, Markup(svg), _legend(legend) if legend else ""
    )


def panels(names: Sequence[str]) -> list[list[str]]:
    """Divides names evenly, so that no panel needs a colour twice."""
    count = -(-len(names) // len(COLOURS))
    return [part.tolist() for part in np.array_split(np.asarray(names, object), count or 1)]


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
    label = Markup('<svg role="img" aria-label="{}" ').format(description)
    return text.replace("<svg ", label, 1)


def rank_curve(task: str, curves: Mapping[str, Any], kind: str) -> list[Markup]:
    """ROC ("roc") or precision-recall ("pr") curves of the classes of a task, with bands.

    Args:
      task: its name.
      curves: class -> result of ``evaluate.curves.rank_curves``.
      kind: "roc" or "pr".

    Returns:
      Figures, each of as many classes as there are colours.
    """
    from wlsrl_jax.evaluate.curves import GRID

    labels = {
        "roc": ("ROC", "1 - specificity", "sensitivity"),
        "pr": ("precision-recall", "recall (sensitivity)", "precision (PPV)"),
    }
    title, across, up = labels[kind]

    def draw(names: Sequence[str]) -> Any:
        figure, axes = _figure()
        for k, name in enumerate(names):
            line = curves[name][kind]
            axes.fill_between(GRID, line["low"], line["high"], color=COLOURS[k], alpha=0.15, lw=0)
            axes.plot(GRID, line["y"], lw=1.6, **_style(k))
        if kind == "roc":
            axes.plot([0, 1], [0, 1], color=_INK, lw=0.8, ls=":")
        axes.set(xlabel=across, ylabel=up, xlim=(0, 1), ylim=(0, 1.02))
        return figure

    found, parts = [], panels(list(curves))
    for number, names in enumerate(parts, 1):
        description = f"{title} curves of task {task} for {', '.join(names)} with 95% bands"
        svg = _svg(functools.partial(draw, names), f"{kind}-{task}", description)
        part = f", {number} of {len(parts)}" if len(parts) > 1 else ""
        found.append(_with_title(svg, f"{task}: {title}{part}", names))
    return found


def reliability(task: str, curves: Sequence[Sequence[Mapping[str, float]]]) -> Markup:
    """Accuracy against confidence, before and after temperature scaling.

    Args:
      task: its name.
      curves: bins before and after, as ``evaluate.curves.reliability`` gives them.
    """

    def draw() -> Any:
        figure, axes = _figure()
        axes.plot([0, 1], [0, 1], color=_INK, lw=0.8, ls=":")
        for k, bins in enumerate(curves):
            x, y = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
            most = max((b["count"] for b in bins), default=1)
            sizes = [12 + 120 * b["count"] / most for b in bins]
            axes.plot(x, y, lw=1.2, **_style(k))
            axes.scatter(x, y, s=sizes, color=COLOURS[k], alpha=0.6, lw=0)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
        return figure

    description = f"accuracy against confidence of task {task}, raw and temperature-scaled"
    svg = _svg(draw, f"reliability-{task}", description)
    return _with_title(svg, f"{task}: reliability", ["raw", "temperature-scaled"])


def training(lines: Sequence[Mapping[str, Any]], selected: int) -> Markup:
    """Training loss and validation score against the step.

    Args:
      lines: of ``metrics.jsonl``.
      selected: step of the selected checkpoint.
    """

    def draw() -> Any:
        figure, axes = _figure(6.4, 3.2)
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

    svg = _svg(draw, "training", "training loss and validation score against the step")
    return _with_title(svg, "training loss and validation score")


def differences(task: str, rows: Sequence[Mapping[str, Any]], first: str, second: str) -> Markup:
    """Paired differences of two runs with their intervals.

    Args:
      task: its name.
      rows: with "name", "difference", "low", "high".
      first: name of the run.
      second: name of the one that is taken off.
    """

    def draw() -> Any:
        figure, axes = _figure(5.6, 0.7 + 0.32 * len(rows))
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

    description = f"differences of task {task} between {first} and {second}"
    svg = _svg(draw, f"difference-{task}", description)
    return _with_title(svg, f"{task}: {first} minus {second}; orange: the interval excludes 0")
