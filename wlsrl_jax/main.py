"""Command line: python -m wlsrl_jax.main --config=configs/oct.py [--workdir=DIR]."""

# ruff: noqa: E402
from __future__ import annotations

from wlsrl_jax.huge_pages import restart_with_huge_pages

if __name__ == "__main__":
    restart_with_huge_pages()  # before anything that takes time to import

import itertools
import logging
import os
import sys
import traceback
from pathlib import Path

import jax
from absl import app, flags
from ml_collections import config_flags

from wlsrl_jax.defaults import base_config
from wlsrl_jax.environment import cache_directory
from wlsrl_jax.kernels.build import load_in_background
from wlsrl_jax.preemption import EXIT_PREEMPTED, PreemptedError, StopRequest

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:DATASET]", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Default: runs/<config>-<dataset>.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")


def _main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; every flag starts with --")
    stop = StopRequest()
    stop.install()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", cache_directory("xla"))
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, force=True)
    for noisy in ("absl", "jax", "orbax"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if jax.default_backend() == "cpu":
        load_in_background()  # a compiler may have to run for seconds
    config = _CONFIG.value
    workdir = Path(_WORKDIR.value or f"runs/{config.name}-{config.data.dataset}")
    try:
        if _MODE.value == "evaluate":
            from wlsrl_jax.external import evaluate_workdir

            evaluate_workdir(config, workdir, stop)
        else:
            from wlsrl_jax.train import train

            train(config, workdir, stop)
    except PreemptedError as error:
        print(f"stopped by {error}; start again with the same command", file=sys.stderr)
        return EXIT_PREEMPTED
    except (ValueError, OSError) as error:
        if os.environ.get("WLSRL_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def main() -> None:
    """Parses the flags, then trains or evaluates; exit status 75 means "start me again"."""
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
    sys.exit(2)


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
