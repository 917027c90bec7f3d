"""Command line: python -m wlsrl_jax.main --config=configs/oct.py [--workdir=DIR]."""

# ruff: noqa: E402
from __future__ import annotations

from wlsrl_jax.runtime.huge_pages import restart_with_huge_pages
from wlsrl_jax.runtime.stop import hold_signals

if __name__ == "__main__":
    hold_signals()  # until there is somebody to look at them
    restart_with_huge_pages()  # before anything that takes time to import

import contextlib
import functools
import logging
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from ml_collections import config_flags

from wlsrl_jax.cli import (
    EXIT_MISTAKE,
    EXIT_PIPE,
    keep_compiled,
    nobody_reads,
    prepare_streams,
    what_to_tell,
)
from wlsrl_jax.config.config_file import read_config_file
from wlsrl_jax.config.fields import base_config
from wlsrl_jax.evaluate.telling import now_and_then
from wlsrl_jax.files import Mistake, flatten, is_disk_full, local_path, some
from wlsrl_jax.ops.kernels.build import load_in_background
from wlsrl_jax.runtime import interrupt, processes
from wlsrl_jax.runtime.stop import EXIT_PREEMPTED, PreemptedError, StopRequest

log = logging.getLogger(__name__)


class _PathParser(flags.ArgumentParser):
    """A path of this machine; see ``files.local_path``."""

    def parse(self, argument: str) -> Path:
        return local_path(str(argument))


def _from_environment(name: str) -> int | None:
    """A number that a launcher has set; what is no number is told as of ``name``."""
    text = os.environ.get(name, "")
    if not text:
        return None
    if not text.isdigit():
        raise Mistake(f"{name}={text!r} in the environment must be a whole number.")
    return int(text)


_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:DATASET]", lock_config=True)
_WORKDIR = flags.DEFINE(
    _PathParser(), "workdir", None, "Default: runs/<config>-<dataset>.",
    serializer=flags.ArgumentSerializer(),
)  # fmt: skip
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
    "num_processes", None, "Processes of the run; default JAX_NUM_PROCESSES."
)
_TIMEOUT = flags.DEFINE_integer(
    "initialization_timeout", 300, "Seconds to wait for the other processes at the start."
)
_INDEX = flags.DEFINE_integer(
    "process_id", None, "Of this process, from 0; default JAX_PROCESS_ID."
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
    keep_compiled()
    prepare_streams()
    threading.excepthook, sys.excepthook = _thread_error, _compiled_error
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, force=True)
    for noisy in ("absl", "asyncio", "jax", "orbax"):  # what they raise is told once, below
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    config = _CONFIG.value
    workdir = _WORKDIR.value or Path(f"runs/{config.name}-{config.data.dataset}")
    try:
        _expand_paths(config)
        processes.initialize(
            _COORDINATOR.value,
            _COUNT.value if _COUNT.value is not None else _from_environment("JAX_NUM_PROCESSES"),
            _INDEX.value if _INDEX.value is not None else _from_environment("JAX_PROCESS_ID"),
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
            if config.report and processes.is_primary():
                with stop.at_once():
                    _report(workdir)
    except PreemptedError as error:
        if processes.is_primary():
            print(f"stopped by {error}; start again with the same command", file=sys.stderr)
        return EXIT_PREEMPTED
    except KeyboardInterrupt:
        interrupt.leave("interrupted twice: left at once; the same command resumes the run")
    except Exception as error:
        return _fail(error)
    return 0


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
                "the report cannot be made (%s: %s); python -m wlsrl_jax.report %s tries again",
                type(error).__name__,
                error,
                workdir,
            )
            return
    print(f"report: {workdir / report.NAME}", flush=True)


def _expand_paths(config: Any) -> None:
    """Lets "~" be the home directory in the fields that are paths, and refuses addresses."""
    with config.unlocked():
        for node, name in ((config.data, "data_dir"), (config, "init_from")):
            if node[name]:
                node[name] = str(local_path(node[name]))


def _thread_error(args: threading.ExceptHookArgs) -> None:
    """A thread that meets a full disk is silent: the main thread meets it too, and says so."""
    if not is_disk_full(args.exc_value) and not _is_late(args.exc_value):
        threading.__excepthook__(args)


def _compiled_error(kind: Any, error: BaseException, trace: Any) -> None:
    """The same for what threads of compiled code print, which go on when a save has failed."""
    if not _is_late(error):
        sys.__excepthook__(kind, error, trace)


def _is_late(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def _fail(error: Exception) -> int:
    """Says what is wrong; the traceback only where it is no mistake of the user's."""
    if isinstance(error, BrokenPipeError) and nobody_reads():
        os._exit(EXIT_PIPE)
    message = what_to_tell(error)
    expected = message is not None
    alone = not jax.distributed.is_initialized()  # JAX may have no device to ask
    status = EXIT_MISTAKE if expected else 1
    if not alone and processes.is_lost(error):
        processes.leave(f"another process has gone ({str(error).strip().splitlines()[0][:300]})")
    if os.environ.get("WLSRL_TRACEBACK") or not expected:
        traceback.print_exc()
    if is_disk_full(error) and not isinstance(error, Mistake):  # which says more
        workdir = _WORKDIR.value or "runs/..."
        named = error.filename if isinstance(error, OSError) and error.filename else None
        message = (
            f"the disk of --workdir={workdir} is full"
            + (f" ({named})" if named else "")
            + ". Its checkpoints are whole. When there is room again, the same command resumes "
            "from the last one."
        )
    agreed = not alone and isinstance(error, processes.AgreedError)
    if expected and not (agreed and not processes.is_primary()):
        print(f"error: {message}", file=sys.stderr, flush=True)
    if not agreed:
        # Without an orderly end: other processes would be waited for, and wait for this one; and
        # what runs at exit, such as the flush of a log to a full disk, has only noise to add.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        if not alone:
            processes.tell_others(status, message or str(error))
        os._exit(status)
    return status


def main() -> None:
    """Parses the flags, then trains or evaluates; exit status 75 or 76 means "start me again"."""
    app.run(_main, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; what is wrong with a config is one line that lists the valid choices."""
    try:
        argv = _last_counts(argv)
        if not _asks_for_help(argv):
            argv = _with_config(argv)
        message = _unknown_field(argv)
        if not message:
            return flags.FLAGS(argv)
    except flags.Error as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        message = lines[-1] if "Traceback" in str(error) else str(error)
    except (AttributeError, KeyError) as error:
        message = f"the config has no field {error.args[0]}"
    except (ValueError, TypeError) as error:  # of a value that does not fit its field
        message = str(error)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_MISTAKE)


def _asks_for_help(argv: list[str]) -> bool:
    return any(a.lstrip("-").split("=")[0] in ("help", "helpshort", "helpfull") for a in argv[1:])


def _with_config(argv: list[str]) -> list[str]:
    """The arguments with the config file as a path that is there, and fit to be read.

    Raises:
      Mistake: if none is named, or it is not there or wrong.
    """
    value, rest = "", list(argv[:1])
    arguments = iter(argv[1:])
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if name.startswith("-") and name.lstrip("-") == "config":
            value = text if equals else next(arguments, "")
        else:
            rest.append(argument)
    if not value:
        raise Mistake("--config is needed, such as --config=configs/oct.py")
    name, colon, dataset = value.partition(":")
    if name[1:2] == ":" or "://" in value:  # a drive of Windows, or an address
        name, colon, dataset = value, "", ""
    path = local_path(name)
    if not path.is_file():
        beside = sorted(str(p) for p in path.parent.glob("*.py"))
        there = f"; there is {', '.join(some(beside))}" if beside else ""
        raise Mistake(f"--config={path} " + ("is a folder" if path.is_dir() else "does not exist")
                      + there)  # fmt: skip
    read_config_file(path, dataset if colon else None)
    return [*rest[:1], f"--config={path}{colon}{dataset}", *rest[1:]]


def _last_counts(argv: list[str]) -> list[str]:
    """Drops all but the last of a flag for several numbers, which would be added up."""
    several = {
        f"config.{name}"
        for name, default in flatten(base_config("oct").to_dict()).items()
        if isinstance(default, tuple)
    }
    given: list[tuple[str, list[str]]] = []
    arguments = iter(argv)
    for argument in arguments:
        flag, equals, _ = argument.partition("=")
        name = flag.lstrip("-") if flag.startswith("-") else ""
        value = [next(arguments, "")] if name in several and not equals else []
        given.append((name, [argument, *value]))
    last = {name: k for k, (name, _) in enumerate(given) if name in several}
    return [w for k, (name, words) in enumerate(given) if last.get(name, k) == k for w in words]


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
