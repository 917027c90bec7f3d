"""The first moments of a command, before anything of weight is imported."""

from __future__ import annotations

import os
import sys

EXIT_INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, as a shell gives it."""


def begin() -> None:
    """Puts the working directory last among the places of modules, and makes Ctrl-C one line.

    ``python -m`` puts it first, so that a user's own ``jax.py`` or ``random.py`` would be taken
    for the package, and ``wlsrl`` not at all. Last, the neighbours that a config file imports are
    found.
    """
    own_modules_last()
    import signal  # not before: it imports what a user's file might be named after

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not in the background
        signal.signal(signal.SIGINT, lambda number, frame: _leave())


def own_modules_last() -> None:
    """Puts the working directory at the end of ``sys.path``, wherever it stands in it."""
    try:
        here = os.getcwd()
    except OSError:  # it was deleted
        return
    if not sys.flags.safe_path:
        sys.path[:] = [entry for entry in sys.path if entry not in ("", here)] + [here]


def _leave() -> None:
    """Nothing was begun, so there is nothing to tidy up; and no exception can get lost."""
    os.write(2, b"interrupted\n")
    os._exit(EXIT_INTERRUPTED)
