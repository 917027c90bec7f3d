"""Command line: python -m wlsrl_jax.main --config=configs/oct.py [--workdir=DIR]."""

# ruff: noqa: E402
from __future__ import annotations

from wlsrl_jax.runtime.huge_pages import restart_with_huge_pages
from wlsrl_jax.runtime.stop import hold_signals

if __name__ == "__main__":
    hold_signals()  # until there is somebody to look at them
    restart_with_huge_pages()  # before anything that takes time to import

import itertools
import logging
import os
import sys
import threading
import traceback
from pathlib import Path

import jax
from absl import app, flags
from ml_collections import config_flags

from wlsrl_jax.config.fields import base_config
from wlsrl_jax.files import cache_directory, is_disk_full, message_of
from wlsrl_jax.ops.kernels.build import load_in_background
from wlsrl_jax.runtime import processes
from wlsrl_jax.runtime.stop import EXIT_PREEMPTED, PreemptedError, StopRequest

EXIT_MISTAKE = 2
"""Exit status of a run that would fail again: the message says what to correct."""

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:DATASET]", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Default: runs/<config>-<dataset>.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join other processes that only JAX can find, as on Cloud TPU VMs."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", os.environ.get("JAX_COORDINATOR_ADDRESS"),
    "HOST:PORT of process 0, in a run of several processes; found by itself under SLURM, Open MPI "
    "and on TPU pods.",
)  # fmt: skip
_COUNT = flags.DEFINE_integer(
    "num_processes", os.environ.get("JAX_NUM_PROCESSES"), "Processes of the run."
)
_TIMEOUT = flags.DEFINE_integer(
    "initialization_timeout", 300, "Seconds to wait for the other processes at the start."
)
_INDEX = flags.DEFINE_integer(
    "process_id", os.environ.get("JAX_PROCESS_ID"), "Of this process, from 0."
)


def _main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; every flag starts with --")
    stop = StopRequest()
    stop.install()
    status = _run(stop)
    stop.ignore()
    processes.finish(status)
    return status


def _run(stop: StopRequest) -> int:
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", cache_directory("xla"))
    threading.excepthook = _thread_error
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, force=True)
    for noisy in ("absl", "asyncio", "jax", "orbax"):  # what they raise is told once, below
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    config = _CONFIG.value
    workdir = Path(_WORKDIR.value or f"runs/{config.name}-{config.data.dataset}")
    try:
        processes.initialize(
            _COORDINATOR.value,
            _COUNT.value,
            _INDEX.value,
            detect=_DISTRIBUTED.value,
            timeout=_TIMEOUT.value,
        )
        if jax.default_backend() == "cpu" and jax.device_count() == 1:
            load_in_background()  # a compiler may have to run for seconds
        if _MODE.value == "evaluate":
            from wlsrl_jax.evaluate.external import evaluate_workdir

            evaluate_workdir(config, workdir, stop)
        else:
            from wlsrl_jax.train.loop import train

            train(config, workdir, stop)
    except PreemptedError as error:
        if processes.is_primary():
            print(f"stopped by {error}; start again with the same command", file=sys.stderr)
        return EXIT_PREEMPTED
    except Exception as error:
        return _fail(error)
    return 0


def _thread_error(args: threading.ExceptHookArgs) -> None:
    """A thread that meets a full disk is silent: the main thread meets it too, and says so."""
    if not is_disk_full(args.exc_value):
        threading.__excepthook__(args)


def _fail(error: Exception) -> int:
    """Says what is wrong; the traceback only where it is no mistake of the user's."""
    message = message_of(error)
    expected = message is not None
    alone = jax.process_count() == 1
    status = EXIT_MISTAKE if expected else 1
    if processes.is_lost(error):
        processes.leave(f"another process has gone ({str(error).strip().splitlines()[0][:300]})")
    if os.environ.get("WLSRL_TRACEBACK") or not expected:
        traceback.print_exc()
    if is_disk_full(error):
        workdir = _WORKDIR.value or "runs/..."
        message = (
            f"the disk of --workdir={workdir} is full. When there is room again, the same command "
            "goes on from the last checkpoint."
        )
    if expected and (processes.is_primary() or not isinstance(error, processes.AgreedError)):
        print(f"error: {message}", file=sys.stderr, flush=True)
    if alone or not isinstance(error, processes.AgreedError):
        # Without an orderly end: other processes would be waited for, and wait for this one; and
        # what runs at exit, such as the flush of a log to a full disk, has only noise to add.
        sys.stdout.flush()
        processes.tell_others(status, message or str(error))
        os._exit(status)
    return status


def main() -> None:
    """Parses the flags, then trains or evaluates; exit status 75 or 76 means "start me again"."""
    app.run(_main, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; what is wrong with a config is one line that lists the valid choices."""
    message = _check_config_file(argv) or _unknown_field(argv)
    if not message:
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            # A config file that raises arrives as a traceback in text; its last line is why.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            message = lines[-1] if "Traceback" in str(error) else str(error)
        except (AttributeError, KeyError) as error:
            message = f"the config has no field {error.args[0]}"
        except (ValueError, TypeError, OSError) as error:
            message = str(error)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_MISTAKE)


def _check_config_file(argv: list[str]) -> str:
    """Why there is no config to read, or ""."""
    if any(a.lstrip("-").split("=")[0] in ("help", "helpshort", "helpfull") for a in argv[1:]):
        return ""
    values = [a.partition("=")[2] for a in argv[1:] if a.lstrip("-").startswith("config=")]
    after = [b for a, b in itertools.pairwise(argv[1:]) if a.lstrip("-") == "config"]
    if not any(values + after):
        return "--config is needed, such as --config=configs/oct.py"
    path = Path((values + after)[-1].partition(":")[0])
    if path.is_file():
        return ""
    beside = sorted(str(p) for p in path.parent.glob("*.py"))
    return f"--config={path} does not exist" + (f"; there is {', '.join(beside)}" if beside else "")


def _unknown_field(argv: list[str]) -> str:
    """Where an overridden field does not exist: the fields that do, or ""."""
    fields = base_config("oct")
    for argument in argv[1:]:
        name = argument.lstrip("-").split("=")[0]
        if not name.startswith("config."):
            continue
        # Fields named after tasks are those of the modality, which is not known yet.
        if name.startswith(("config.task_weights.", "config.loss.by_task.")):
            continue
        node, path = fields, name.split(".")[1:]
        for depth, part in enumerate(path):
            if part in node:
                node = node[part]
                if depth < len(path) - 1 and not hasattr(node, "keys"):
                    where = ".".join(["config", *path[: depth + 1]])
                    return f"--{name} does not exist; {where} has no fields"
                continue
            where = ".".join(["config", *path[:depth]])
            return f"--{name} does not exist; {where} has: {', '.join(sorted(node.keys()))}"
    return ""


if __name__ == "__main__":
    main()
