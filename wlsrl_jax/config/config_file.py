"""A config file: what is wrong with it is told with its name, and its line where there is one."""

from __future__ import annotations

import sys
import traceback
import types
from pathlib import Path

from ml_collections import ConfigDict

from wlsrl_jax.config.fields import check_fields
from wlsrl_jax.files import Mistake, local_path, some


def find_config_file(text: str) -> tuple[Path, str | None]:
    """Resolves "FILE" or "FILE:DATASET".

    Returns:
      (the file, what its ``get_config`` is called with, None for its default).

    Raises:
      Mistake: if there is no such file, naming those beside it.
    """
    name, colon, dataset = text.partition(":")
    if name[1:2] == ":" or "://" in text:  # a drive of Windows, or an address
        name, colon, dataset = text, "", ""
    path = local_path(name)
    if not path.is_file():
        beside = sorted(str(p) for p in path.parent.glob("*.py"))
        there = f"; there is {', '.join(some(beside))}" if beside else ""
        what = "is a folder" if path.is_dir() else "does not exist"
        raise Mistake(f"--config={path} {what}{there}")
    return path, dataset if colon else None


def read_config_file(path: Path, argument: str | None) -> ConfigDict:
    """Runs a config file and checks the fields that it gives.

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
    try:
        check_fields(config)
    except Mistake as error:
        raise Mistake(f"{path}: {error}") from None
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
