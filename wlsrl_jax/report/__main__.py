"""The report of a finished run, or of several, compared.

wlsrl report --workdir=RUN
wlsrl report --workdir=RUN --against=RUN2,RUN3 --output=FILE.html
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence

from wlsrl_jax import cli
from wlsrl_jax.evaluate.telling import now_and_then
from wlsrl_jax.report.build import write_report


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = cli.Parser(
        "report",
        description="Report of a finished run; with --against, of several, with the paired "
        "differences of the others from it.",
    )
    cli.add_workdir(parser)
    parser.add_argument(
        "--against", type=cli.path_list, default=(), metavar="WORKDIR,...",
        help="other runs, to be compared with it",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=cli.output_file, help="HTML to write; default: report.html in the workdir"
    )
    parser.add_argument(
        "--pictures",
        type=cli.number(0),
        default=6,
        help="most confident mistakes of each task, 0: none; default: %(default)s",
    )
    parser.add_argument("--show_ids", action="store_true", help="print the ids of the images shown")
    cli.add_data_dir(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the report of a run, or of several compared."""
    args = make_parser().parse_args(argv)
    page = write_report(
        [args.workdir, *args.against],
        args.output,
        pictures=args.pictures,
        show_ids=args.show_ids,
        data_dir=args.data_dir or "",
        tell=now_and_then(functools.partial(print, file=sys.stderr, flush=True)),
    )
    print(f"report: {page} ({page.stat().st_size / 2**20:.1f} MB)")


if __name__ == "__main__":
    cli.run_command(main)
