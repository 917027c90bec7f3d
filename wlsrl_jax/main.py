"""Command line: python -m wlsrl_jax.main --config=configs/oct.py [--workdir=DIR]."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from wlsrl_jax.preemption import EXIT_PREEMPTED, PreemptedError, StopRequest

_CONFIG = config_flags.DEFINE_config_file("config", None, "FILE[:DATASET]", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Default: runs/<config>-<dataset>.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")


def _cache_directory() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "wlsrl_jax", "xla")


def _main(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; every flag starts with --")
    stop = StopRequest()
    stop.install()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _cache_directory())
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, force=True)
    for noisy in ("absl", "jax", "orbax"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
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
    flags.mark_flag_as_required("config")
    app.run(_main, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; what is wrong with a config is one line that lists the valid choices."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        # A config file that raises arrives as a traceback in text; its last line is the reason.
        lines = [line for line in str(error).splitlines() if line.strip()]
        message = lines[-1].strip() if "Traceback" in str(error) else str(error)
    except (ValueError, AttributeError, KeyError, TypeError, OSError) as error:
        message = str(error.args[0]) if error.args else repr(error)
    print(f"error: {message}{_valid_fields(argv)}", file=sys.stderr)
    sys.exit(2)


def _valid_fields(argv: list[str]) -> str:
    """Where an overridden field does not exist, the fields that do."""
    from wlsrl_jax.defaults import base_config

    for argument in argv[1:]:
        name = argument.lstrip("-").split("=")[0]
        if not name.startswith("config."):
            continue
        node, path = base_config(), name.split(".")[1:]
        for depth, part in enumerate(path):
            if not hasattr(node, "keys") or (part not in node and len(node)):
                where = ".".join(["config", *path[:depth]])
                fields = ", ".join(sorted(node.keys())) if hasattr(node, "keys") else "no fields"
                return f"\n{name} does not exist; {where} has: {fields}"
            node = node[part] if part in node else None
            if node is None:
                break
    return ""


if __name__ == "__main__":
    main()
