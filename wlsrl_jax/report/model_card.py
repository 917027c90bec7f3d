"""The model card of a finished run, or of a packed one.

wlsrl card --workdir=RUN [--output=FILE.md]
"""

from __future__ import annotations

import argparse
import datetime
import math
from collections.abc import Sequence
from pathlib import Path

import jax

from wlsrl_jax import cli
from wlsrl_jax.data.published import all_specs
from wlsrl_jax.files import write_whole
from wlsrl_jax.html.page import templates
from wlsrl_jax.report.build import FILTERS, TITLES, results
from wlsrl_jax.report.collect import collect
from wlsrl_jax.runs.input import input_spec
from wlsrl_jax.runs.packed import CARD as NAME
from wlsrl_jax.runs.packed import is_packed, read_mark, write_mark
from wlsrl_jax.runs.provenance import NAME as TRAINED_ON
from wlsrl_jax.runs.shipped import resolve, results_dir
from wlsrl_jax.runtime.version import VERSION
from wlsrl_jax.tasks import MODALITIES, PHANTOM_NOTE

FEW = 20
"""Test images of a class below which the card warns."""


def model_card(workdir: Path, data_dir: str = "") -> str:
    """Writes the model card of a finished run as Markdown.

    Args:
      workdir: of the run.
      data_dir: of prepared data, if they have moved.

    Returns:
      The text.

    Raises:
      Mistake: if it is not finished or damaged.
    """
    run = collect(workdir, data_dir)
    rows = results(run, with_plots=False)
    for row in rows:
        row["few"] = [c for c, v in row["per_class"].items() if 0 < v["count"] < FEW]
    packed = read_mark(run.trained.workdir) if is_packed(run.trained.workdir) else None
    leaves = jax.tree.leaves(run.trained.variables["params"])
    return (
        templates(markdown=True, filters=FILTERS)
        .get_template("model_card.md.j2")
        .render(
            run=run,
            packed=packed,
            hashes=(run.trained.workdir / TRAINED_ON).exists(),
            prepared=input_spec(run.trained),
            config=run.trained.config,
            data=run.trained.data,
            shape=run.trained.image_shape,
            modality=MODALITIES[run.trained.modality],
            spec=all_specs().get(run.trained.data["dataset"]),
            s=run.statistics,
            results=rows,
            titles=TITLES,
            metrics=[m for m in TITLES if any(m in row["metrics"] for row in rows)],
            parameters=sum(math.prod(p.shape) for p in leaves),
            phantom_note=PHANTOM_NOTE,
            version=VERSION,
            date=datetime.date.today().isoformat(),
        )
    )


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = cli.Parser("card", description="Model card of a finished run.")
    cli.add_workdir(parser)
    parser.add_argument(
        "--output", type=cli.output_file, help=f"Markdown to write; default: {NAME} in the workdir"
    )
    cli.add_data_dir(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the card."""
    args = make_parser().parse_args(argv)
    text = model_card(args.workdir, args.data_dir or "")
    output = args.output or results_dir(resolve(args.workdir)) / NAME
    write_whole(output, text.encode())
    if is_packed(output.parent) and output.name == NAME:
        write_mark(output.parent, read_mark(output.parent)["note"])  # which has its digest
    print(f"model card: {output}")
