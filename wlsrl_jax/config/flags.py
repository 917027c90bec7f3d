"""The flags of ``wlsrl train``: absl's parser, with what is wrong told in one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from wlsrl_jax import cli
from wlsrl_jax.config.config_file import find_config_file, read_config_file
from wlsrl_jax.config.fields import OF_TASKS, all_fields, base_config, check_fields
from wlsrl_jax.files import Mistake, local_path


class _PathParser(flags.ArgumentParser):
    """A path of this machine; see ``files.local_path``."""

    def parse(self, argument: str) -> Path:
        return local_path(str(argument))


_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "FILE[:DATASET], such as configs/oct.py:octdl", lock_config=True
)
_WORKDIR = flags.DEFINE(
    _PathParser(), "workdir", None, "of the run; default: runs/<config>-<dataset>",
    serializer=flags.ArgumentSerializer(),
)  # fmt: skip
_DETECT = flags.DEFINE_bool(
    "distributed", False, "join other processes that only JAX can find, as on Cloud TPU VMs"
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address", None, "HOST:PORT of process 0, in a run of several processes; found by "
    "itself under SLURM, Open MPI and on TPU pods; default: JAX_COORDINATOR_ADDRESS",
)  # fmt: skip
_COUNT = flags.DEFINE_integer(
    "num_processes", None, "processes of the run; default: JAX_NUM_PROCESSES"
)
_INDEX = flags.DEFINE_integer(
    "process_id", None, "of this process, from 0; default: JAX_PROCESS_ID"
)
_TIMEOUT = flags.DEFINE_integer(
    "initialization_timeout", 300, "seconds to wait for the other processes; default: 300"
)
_ALL = (_CONFIG, _WORKDIR, _DETECT, _COORDINATOR, _COUNT, _INDEX, _TIMEOUT)


@dataclasses.dataclass(frozen=True)
class TrainFlags:
    """What a command line says.

    Attributes:
      config: of the run.
      workdir: of the run.
      together: arguments of ``processes.initialize``.
    """

    config: Any
    workdir: Path
    together: dict[str, Any]


def make_parser() -> cli.Parser:
    """Makes a parser that shows the flags as those of other verbs; absl's reads them."""
    parser = cli.Parser(
        "train",
        description="Trains a network, or resumes the run of the workdir, and reports on it.",
        epilog="--config.FIELD=VALUE sets any field; wlsrl fields lists them.",
    )
    for flag in (flags.FLAGS[holder.name] for holder in _ALL):
        options: dict[str, Any] = {"help": flag.help}
        if flag.boolean:
            options["action"] = "store_true"
        elif flag.name in ("config", "workdir"):
            options["type"] = cli.path
        parser.add_argument(f"--{flag.name}", **options)
    return parser


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether one of the arguments is a flag for help."""
    names = ("h", "help", "helpshort", "helpfull")
    return any(a.startswith("-") and a.lstrip("-").split("=")[0] in names for a in arguments)


def parse_flags(arguments: Sequence[str]) -> TrainFlags:
    """Parses a command line.

    Args:
      arguments: without the name of the program.

    Returns:
      What it says; paths in the config have no "~" any more.

    Raises:
      Mistake: for a wrong flag or config, with the valid choices where there are some.
    """
    try:
        argv = with_config(last_counts(arguments))
        if message := unknown_field(argv):
            raise Mistake(message)
        surplus = flags.FLAGS(["wlsrl train", *argv])[1:]
    except flags.Error as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise Mistake(lines[-1] if "Traceback" in str(error) else str(error)) from None
    except (AttributeError, KeyError) as error:
        raise Mistake(f"the config has no field {error.args[0]}") from None
    except (ValueError, TypeError) as error:  # of a value that does not fit its field
        raise Mistake(str(error)) from None
    if surplus:
        raise Mistake(f"unexpected argument {surplus[0]!r}; every flag starts with --")
    config = _CONFIG.value
    check_fields(config)
    with config.unlocked():
        for node, name in ((config.data, "data_dir"), (config, "init_from")):
            if node[name]:
                node[name] = str(local_path(node[name]))
    return TrainFlags(
        config,
        _WORKDIR.value or Path(f"runs/{config.name}-{config.data.dataset}"),
        {
            "coordinator": _COORDINATOR.value,
            "count": _COUNT.value,
            "index": _INDEX.value,
            "detect": _DETECT.value,
            "timeout": _TIMEOUT.value,
        },
    )


def with_config(arguments: Sequence[str]) -> list[str]:
    """The arguments with the config file first, as a path that is there, and fit to be read.

    Raises:
      Mistake: if none is named, or it is not there or wrong.
    """
    value, rest = "", []
    words = iter(arguments)
    for argument in words:
        name, equals, text = argument.partition("=")
        if name.startswith("-") and name.lstrip("-") == "config":
            value = text if equals else next(words, "")
        else:
            rest.append(argument)
    if not value:
        raise Mistake("--config is needed, such as --config=configs/oct.py")
    path, dataset = find_config_file(value)
    read_config_file(path, dataset)
    argument = "" if dataset is None else f":{dataset}"
    return [f"--config={path}{argument}", *rest]


def last_counts(arguments: Sequence[str]) -> list[str]:
    """Drops all but the last of a flag for several numbers, which would be added up."""
    several = {f"config.{field.name}" for field in all_fields() if isinstance(field.default, tuple)}
    given: list[tuple[str, list[str]]] = []
    words = iter(arguments)
    for argument in words:
        flag, equals, _ = argument.partition("=")
        name = flag.lstrip("-") if flag.startswith("-") else ""
        value = [next(words, "")] if name in several and not equals else []
        given.append((name, [argument, *value]))
    last = {name: k for k, (name, _) in enumerate(given) if name in several}
    return [w for k, (name, parts) in enumerate(given) if last.get(name, k) == k for w in parts]


def unknown_field(arguments: Sequence[str]) -> str:
    """Where an overridden field does not exist: the fields that do, or ""."""
    fields = base_config("oct")
    for argument in arguments:
        name = argument.lstrip("-").split("=")[0]
        if not name.startswith("config."):
            continue
        # Fields named after tasks are those of the modality, which is not known yet.
        if name.startswith(tuple(f"config.{of}." for of in OF_TASKS)):
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
