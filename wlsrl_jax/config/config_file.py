"""A config file, checked as flags are: what is wrong with it is told with its line."""

from __future__ import annotations

import difflib
import sys
import traceback
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from wlsrl_jax.config.fields import base_config
from wlsrl_jax.files import Mistake, flatten
from wlsrl_jax.tasks import MODALITIES


def read_config_file(path: Path, argument: str | None) -> ConfigDict:
    """Reads a config file and checks that its fields are those of every config.

    Args:
      path: a Python file with a function ``get_config``.
      argument: of ``get_config``, what follows the colon in ``--config=FILE:ARGUMENT``.

    Returns:
      The config.

    Raises:
      Mistake: naming the file, its line where there is one, and what is wrong.
    """
    module = types.ModuleType("wlsrl_config_file")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # a dataclass of the file looks for it
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
        get_config = getattr(module, "get_config", None)
        if not callable(get_config):
            raise Mistake(f"{path} has no function get_config that returns the config.")
        config = get_config() if argument is None else get_config(argument)
    except SyntaxError as error:
        where = f"{error.filename or path}, line {error.lineno}"
        raise Mistake(f"{where}: {error.msg}: {(error.text or '').strip()}") from None
    except Mistake:
        raise
    except (Exception, SystemExit) as error:  # the file is a program: it may raise anything
        raise Mistake(f"{_place(path, error)}: {_one_line(error)}") from error
    finally:
        del sys.modules[module.__name__]
    if not isinstance(config, ConfigDict):
        raise Mistake(f"{path}: get_config returns {config!r:.80}, not a ConfigDict.")
    if wrong := wrong_fields(config):
        raise Mistake("\n".join([f"{path}:", *(f"  {line}" for line in wrong)]))
    return config


def _place(path: Path, error: BaseException) -> str:
    """Where in the file it happened, or in what the file imports."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [f for f in frames if f.filename == str(path)]
    if mine:
        return f"{path}, line {mine[-1].lineno}"
    return str(path)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def wrong_fields(config: ConfigDict) -> list[str]:
    """What is wrong with the names and types of a config's fields.

    Args:
      config: from a file, flags or a program.

    Returns:
      A line for each field that no config has, that is missing, or that has another type than
      its default.
    """
    fields = config.to_dict()
    modality = fields.get("modality")
    if not isinstance(modality, str) or modality not in MODALITIES:
        return [f"config.modality={modality!r} must be one of {', '.join(MODALITIES)}"]
    known = flatten(base_config(modality).to_dict())
    found = flatten(fields)
    lines = []
    for name in sorted(found.keys() - known.keys()):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; is it config.{near[0]}?" if near else ""
        lines.append(f"config.{name} does not exist{hint}")
    lines += [f"config.{name} is missing" for name in sorted(known.keys() - found.keys())]
    for name in sorted(known.keys() & found.keys()):
        if not _fits(found[name], known[name]):
            kind = type(known[name]).__name__
            lines.append(f"config.{name}={found[name]!r} must be of type {kind}")
    return lines


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, tuple | list)
    if isinstance(value, bool) or isinstance(default, bool):
        return type(value) is type(default)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default)) and not isinstance(value, Mapping)
