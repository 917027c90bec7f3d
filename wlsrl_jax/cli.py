"""What the smaller command lines share: errors in one line, tables that fit a log."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

import jax
from rich.console import Console
from rich.table import Table

from wlsrl_jax.files import cache_directory, message_of


def status_of(
    main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None
) -> int:
    """Runs a command; a mistake of the user's is one line on standard error.

    Args:
      main: parses the arguments, does the work and returns the exit status, None for 0.
      argv: the arguments; None: those of the process.

    Returns:
      The exit status, 2 for a mistake.

    Raises:
      Exception: what is no mistake of the user's, for its traceback.
    """
    try:
        return main(argv) or 0
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        if os.environ.get("WLSRL_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {message}", file=sys.stderr)
        return 2


def run_command(main: Callable[[Sequence[str] | None], int | None]) -> NoReturn:
    """Runs a command on the arguments of the process and ends it; see ``status_of``."""
    for noisy in ("absl", "orbax"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", cache_directory("xla"))
    sys.exit(status_of(main))


def print_table(table: Table) -> None:
    """Prints a table; a log has no width, so there it is not folded to 80 columns."""
    console = Console(highlight=False)
    (console if console.is_terminal else Console(width=140, highlight=False)).print(table)
