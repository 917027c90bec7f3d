"""Training, a run from its flags to its report.

wlsrl train --config=configs/oct.py [--workdir=DIR] [--config.FIELD=VALUE ...]
"""

# ruff: noqa: E402
from __future__ import annotations

from wlsrl_jax.runtime.prelude import begin_run

if __name__ == "__main__":
    begin_run()  # before anything that takes time to import

import functools
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wlsrl_jax import cli
from wlsrl_jax.config.flags import asks_for_help, make_parser, parse_flags
from wlsrl_jax.evaluate.telling import now_and_then
from wlsrl_jax.files import Mistake, is_disk_full
from wlsrl_jax.ops.kernels.build import load_in_background
from wlsrl_jax.runtime import processes
from wlsrl_jax.runtime.ending import what_to_tell
from wlsrl_jax.runtime.stop import PreemptedError, StopRequest
from wlsrl_jax.runtime.stoppable import run_stoppable

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains; returns the exit status, of which 75 and 76 mean "start me again"."""
    arguments = sys.argv[1:] if argv is None else argv
    if asks_for_help(arguments):
        make_parser().print_help()
        return 0
    given = parse_flags(arguments)

    def work(stop: StopRequest) -> None:
        processes.initialize(**given.together)
        load_in_background()  # a compiler may have to run for seconds
        train_and_report(given.config, given.workdir, stop)

    return run_stoppable(work, functools.partial(_what_to_tell, given.workdir))


def train_and_report(config: Any, workdir: Path, stop: StopRequest) -> None:
    """Trains, tests and reports, as far as that is not done yet.

    Args:
      config: of the run.
      workdir: of the run.
      stop: looked at between steps.

    Raises:
      Mistake: for what the user has to correct.
      PreemptedError: if it was asked to stop; what was done is saved.
    """
    from wlsrl_jax.training.loop import train  # takes seconds to import

    train(config, workdir, stop)
    if config.report and processes.is_primary():
        with stop.at_once():
            _report(workdir)


def _report(workdir: Path) -> None:
    """Makes the report where there is none; the results are safe, whatever comes of it."""
    from wlsrl_jax.report import build as report  # not before it is needed

    if not (workdir / report.NAME).exists():
        try:
            report.write_report([workdir], tell=now_and_then(functools.partial(print, flush=True)))
        except PreemptedError:
            raise
        except Exception as error:
            if os.environ.get("WLSRL_TRACEBACK"):
                traceback.print_exc()
            log.warning(
                "the report cannot be made (%s: %s); wlsrl report --workdir=%s tries again",
                type(error).__name__,
                error,
                workdir,
            )
            return
    print(f"report: {workdir / report.NAME}", flush=True)


def _what_to_tell(workdir: Path, error: Exception) -> str | None:
    if not is_disk_full(error) or isinstance(error, Mistake):  # which says more
        return what_to_tell(error)
    named = error.filename if isinstance(error, OSError) and error.filename else None
    return (
        f"the disk of --workdir={workdir} is full"
        + (f" ({named})" if named else "")
        + ". Its checkpoints are whole. When there is room again, the same command resumes from "
        "the last one."
    )


if __name__ == "__main__":
    cli.run_command(main)
