"""Command line: python -m wlsrl_jax.report WORKDIR [WORKDIR...] [--output=FILE.html]."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from wlsrl_jax.cli import run_command
from wlsrl_jax.evaluate.telling import now_and_then
from wlsrl_jax.report.build import write_report


def main(argv: Sequence[str] | None = None) -> None:
    """Writes the report of a run, or of several compared."""
    parser = argparse.ArgumentParser(
        prog="python -m wlsrl_jax.report",
        description="Report of a finished run; of several, with the paired differences of each "
        "from the first.",
    )
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    parser.add_argument("--output", type=Path, help="default: report.html in the workdir")
    parser.add_argument(
        "--pictures", type=int, default=6, help="most confident mistakes of each task; 0: none"
    )
    parser.add_argument("--show_ids", action="store_true", help="print the ids of the images shown")
    args = parser.parse_args(argv)
    tell = now_and_then(functools.partial(print, file=sys.stderr, flush=True))
    path = write_report(
        args.workdirs, args.output, pictures=args.pictures, show_ids=args.show_ids, tell=tell
    )
    print(f"report: {path} ({path.stat().st_size / 2**20:.1f} MB)")


if __name__ == "__main__":
    run_command(main)
