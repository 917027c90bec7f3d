"""Testing a finished run: again on its own data, or on another prepared data set.

wlsrl evaluate --workdir=RUN
wlsrl evaluate --workdir=RUN --dataset=oct2017 --label_map=CNV:AMD,DRUSEN:AMD
"""

# ruff: noqa: E402
from __future__ import annotations

from wlsrl_jax.runtime.prelude import begin_run

if __name__ == "__main__":
    begin_run()  # before anything that takes time to import

from collections.abc import Sequence

from wlsrl_jax import cli
from wlsrl_jax.evaluate.external import evaluate_run, parse_label_map
from wlsrl_jax.ops.kernels.build import load_in_background
from wlsrl_jax.runtime import processes
from wlsrl_jax.runtime.stop import StopRequest
from wlsrl_jax.runtime.stoppable import run_stoppable


def make_parser() -> cli.Parser:
    """Makes the parser of the command line."""
    parser = cli.Parser(
        "evaluate",
        description="Tests a finished run, on its own data or on another prepared set, and writes "
        "evaluation-DATASET-SPLIT/ into the workdir. Several processes under SLURM or Open MPI, "
        "or with JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, share the work.",
    )
    cli.add_workdir(parser)
    parser.add_argument("--dataset", default="", help="a prepared data set; default: the run's own")
    cli.add_split(parser, of="that data set")
    cli.add_data_dir(parser)
    parser.add_argument(
        "--label_map", type=lambda text: cli.checked(lambda: parse_label_map(text)), default={},
        metavar="THEIRS:OURS,...", help="where names of classes differ; one with a comma or a "
        "colon in double quotes",
    )  # fmt: skip
    cli.add_batch_size(parser, 64)
    cli.add_choice(
        parser, "--on_leak", ["warn", "refuse"], "where images were trained on; recorded either way"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    flags = vars(make_parser().parse_args(argv))
    workdir, data_dir = flags.pop("workdir"), flags.pop("data_dir") or ""

    def work(stop: StopRequest) -> None:
        processes.initialize()
        load_in_background()  # a compiler may have to run for seconds
        evaluate_run(workdir, stop, data_dir=data_dir, **flags)

    return run_stoppable(work)


if __name__ == "__main__":
    cli.run_command(main)
