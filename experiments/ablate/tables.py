"""``tables.md`` and ``tables.tex``: a row a condition, a block a task."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from ablate.analysis import Analysis, Row
from ablate.grid import REPEATS, Grid, count_folds
from ablate.statistics import Estimate
from wlsrl_jax.files import write_whole
from wlsrl_jax.html.markdown import escape
from wlsrl_jax.tasks import PHANTOM_NOTE

NAMES = {"auroc": "AUROC", "auprc": "AUPRC", "qwk": "QWK", "ece": "ECE", "mcc": "MCC",
         "macro_f1": "macro-F1", "ppv": "PPV", "npv": "NPV", "log_loss": "log loss"}  # fmt: skip
DASH = "-"


def write_tables(grid: Grid, analysis: Analysis, directory: Path) -> None:
    """Writes both files."""
    write_whole(directory / "tables.md", markdown(grid, analysis).encode())
    write_whole(directory / "tables.tex", latex(grid, analysis).encode())


def metric_name(metric: str) -> str:
    """A metric as people write it."""
    return NAMES.get(metric, metric.replace("_", " "))


def columns_of(grid: Grid) -> list[str]:
    """Label columns of the rows."""
    return [column for column in grid.columns if column not in REPEATS]


def baseline_text(grid: Grid) -> str:
    """The baseline's labels; those that are empty say nothing."""
    return ", ".join(f"{k} = {v}" for k, v in grid.baseline.items() if str(v))


def number(value: float, *, signed: bool = False) -> str:
    """Three decimals."""
    if math.isnan(value):
        return DASH
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def p_text(value: float) -> str:
    """A p-value."""
    if math.isnan(value):
        return DASH
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def with_interval(found: Estimate | None, *, signed: bool = False) -> str:
    """A value and its interval."""
    if found is None or math.isnan(found.value):
        return DASH
    text = number(found.value, signed=signed)
    if math.isnan(found.low):
        return text
    low, high = number(found.low, signed=signed), number(found.high, signed=signed)
    return f"{text} ({low} to {high})" if signed else f"{text} ({low}-{high})"


def cells_text(row: Row) -> str:
    """How many cells of a condition are done, and what became of the others."""
    done, total = row.states.get("finished", 0), sum(row.states.values())
    rest = [f"{count} {state}" for state, count in row.states.items() if state != "finished"]
    return ", ".join([f"{done} of {total}", *(r.replace("failed", "FAILED") for r in rest)])


def notes(grid: Grid, analysis: Analysis) -> list[str]:
    """What a reader must know."""
    unit = "patients" if analysis.has_patient_ids and not analysis.phantom else "images"
    tested = f"{analysis.images} test images"
    if analysis.groups != analysis.images:
        tested += f" in {analysis.groups} groups"
    uneven = analysis.fewest_seeds < analysis.seeds
    over = f"{analysis.seeds} seeds" if analysis.seeds > 1 else "one seed"
    if uneven:
        over = f"{analysis.fewest_seeds} to {over}"
    over += f" and {analysis.folds} folds" if analysis.folds > 1 and not grid.pooled else ""
    both = f"seeds and {unit}" if analysis.seeds > 1 else f"{unit} alone, not over seeds"
    if uneven and analysis.fewest_seeds == 1:
        both += f", of rows with one seed over {unit} alone"
    found = [PHANTOM_NOTE + "."] if analysis.phantom else []
    if grid.pooled:
        found.append(
            f"Every value is of the out-of-fold predictions of {count_folds(grid.cells)} folds "
            "together, each image predicted once, by a network that saw no image of its patient."
        )
    found += [
        grid.description,
        f"Mean over {over}, {tested}; in brackets the 95% interval over {both} (hierarchical "
        "bootstrap).",
    ]
    if any(row.differences for row in analysis.rows):
        pairs = ", on the seeds of both" if uneven else ""
        found.append(
            f"Differences are to the row with {baseline_text(grid)} and otherwise the same labels, "
            f"paired by seed and {unit[:-1]}{pairs}; p is two-sided, Holm's p is corrected for the "
            f"{analysis.comparisons} comparisons of this grid."
        )
    if any(row.ensemble for row in analysis.rows):
        found.append(
            "Ensemble: the probabilities of a condition's seeds are averaged; its gain is over the "
            f"mean of the same seeds one by one, with an interval over {unit} alone and no test."
        )
    found += [
        "ECE has no interval and no test: resampling raises it by itself.",
        "Seconds: wall time of a cell from start to test results, of cells that ran in one go.",
        "Machine: " + "; ".join(analysis.machines) + ".",
    ]
    if not any(task_metrics.count("ece") for task_metrics in map(tuple, grid.metrics.values())):
        found = [note for note in found if not note.startswith("ECE")]
    return found


def value_table(grid: Grid, analysis: Analysis, task: str) -> list[list[str]]:
    """Values of a task: the header, then a row a condition."""
    metrics = grid.metrics[task]
    table = [[*columns_of(grid), "cells", *map(metric_name, metrics), "seconds"]]
    for row in analysis.rows:
        values = [with_interval(row.values.get((task, metric))) for metric in metrics]
        seconds = DASH if math.isnan(row.seconds) else f"{row.seconds:.0f}"
        table.append([*_labels(row), cells_text(row), *values, seconds])
    return table


def difference_table(grid: Grid, analysis: Analysis, task: str) -> list[list[str]]:
    """Differences of a task to the baseline: the header, then a row a condition."""
    metrics = compared(grid, analysis, task)
    header = columns_of(grid)
    for metric in metrics:
        header += [metric_name(metric), "p", "Holm's p"]
    table = [header]
    for row in analysis.rows:
        if not any(key[0] == task for key in row.differences):
            continue
        cells = list(_labels(row))
        for metric in metrics:
            found = row.differences.get((task, metric))
            if found is None:
                cells += [DASH] * 3
            else:
                cells += [
                    with_interval(found.estimate, signed=True),
                    p_text(found.estimate.p),
                    p_text(found.corrected),
                ]
        table.append(cells)
    return table


def ensemble_table(grid: Grid, analysis: Analysis, task: str) -> list[list[str]]:
    """Ensembles of a task: the header, then a row a condition that has one."""
    rows = [row for row in analysis.rows if any(key[0] == task for key in row.ensemble)]
    with_gain = {key[1] for row in rows for key in row.gains if key[0] == task}
    header = [*columns_of(grid), "seeds"]
    for metric in grid.metrics[task]:
        header += [metric_name(metric), *(["gain"] if metric in with_gain else [])]
    table = [header]
    for row in rows:
        cells = [*_labels(row), str(row.seeds)]
        for metric in grid.metrics[task]:
            cells.append(with_interval(row.ensemble.get((task, metric))))
            if metric in with_gain:
                cells.append(with_interval(row.gains.get((task, metric)), signed=True))
        table.append(cells)
    return table


def further_tables(
    grid: Grid, analysis: Analysis, task: str
) -> list[tuple[str, str, list[list[str]]]]:
    """What follows the values of a task where there is any: (label, title, table)."""
    found = []
    if compared(grid, analysis, task):
        title = f"difference to {baseline_text(grid)}"
        found.append(("differences", title, difference_table(grid, analysis, task)))
    if any(key[0] == task for row in analysis.rows for key in row.ensemble):
        found.append(("ensembles", "ensembles of seeds", ensemble_table(grid, analysis, task)))
    return found


def compared(grid: Grid, analysis: Analysis, task: str) -> list[str]:
    """Metrics of a task that are compared with the baseline."""
    found = {key[1] for row in analysis.rows for key in row.differences if key[0] == task}
    return [metric for metric in grid.metrics[task] if metric in found]


def markdown(grid: Grid, analysis: Analysis) -> str:
    """The tables in Markdown."""
    lines = "\n".join(f"- {escape(note)}" for note in notes(grid, analysis))
    parts = [f"# Ablation {escape(grid.name)}", lines]
    left = len(columns_of(grid))
    for task in grid.metrics:
        parts += [f"## {escape(task)}", _markdown(value_table(grid, analysis, task), left)]
        for _, title, table in further_tables(grid, analysis, task):
            parts += [f"{escape(title[0].upper() + title[1:])}:", _markdown(table, left)]
    return "\n\n".join(parts) + "\n"


def latex(grid: Grid, analysis: Analysis) -> str:
    """The tables in LaTeX, for the package booktabs; each one can be taken out alone."""
    caption, left = " ".join(notes(grid, analysis)), len(columns_of(grid))
    parts = [f"% Ablation {grid.name}. Needs \\usepackage{{booktabs}}."]
    for task in grid.metrics:
        label = f"{grid.name}-{task}"
        table = value_table(grid, analysis, task)
        parts.append(_latex(table, f"{task}. {caption}", label, left))
        for name, title, table in further_tables(grid, analysis, task):
            parts.append(_latex(table, f"{task}: {title}. {caption}", f"{label}-{name}", left))
    return "\n\n".join(parts) + "\n"


def _labels(row: Row) -> list[str]:
    return [str(value) for _, value in row.condition]


def _markdown(table: Sequence[Sequence[str]], left: int) -> str:
    marks = ["---" if k < left else "---:" for k in range(len(table[0]))]
    header, *rows = [map(escape, row) for row in table]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, marks, *rows])


def _latex(table: Sequence[Sequence[str]], caption: str, label: str, left: int) -> str:
    align = "".join("l" if k < left else "r" for k in range(len(table[0])))
    header, *rows = [" & ".join(map(escaped, row)) + r" \\" for row in table]
    return "\n".join([
        r"\begin{table}", r"\centering", f"\\caption{{{escaped(caption)}}}",
        f"\\label{{tab:{label.replace('_', '-')}}}", f"\\begin{{tabular}}{{{align}}}", r"\toprule",
        header, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}", r"\end{table}",
    ])  # fmt: skip


def escaped(text: str) -> str:
    """Text for LaTeX: its special characters as they are, ranges and minus signs set right."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
               "<": "$<$", ">": "$>$", **{c: f"\\{c}" for c in "&%$#_{}"}}  # fmt: skip
    text = "".join(special.get(c, c) for c in " ".join(text.splitlines()))  # no paragraph ends
    text = re.sub(r"(?<=\d)-(?=\d)", "--", text)
    return re.sub(r"(?<![\w.$-])([+-])(?=\d)", r"$\1$", text)
