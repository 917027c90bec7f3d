"""Ctrl-C that does not get lost.

Python raises KeyboardInterrupt wherever the program is. In a function that compiled code calls,
such as JAX's at a garbage collection, the exception is printed and dropped, and the program goes
on. Here it is raised again until the program unwinds.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from wlsrl_jax.runtime.start import EXIT_INTERRUPTED

_AT_ONCE_SECONDS = 1.0  # a second Ctrl-C later than this does not wait for anything
_LOOK_SECONDS = 0.25


class _State:
    asked_at = 0.0
    settled = False
    raising_again = False


def install() -> None:
    """Takes SIGINT over, unless the process was started to ignore it; from the main thread."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return
    signal.signal(signal.SIGINT, _raise)
    sys.unraisablehook = _dropped


def asked() -> bool:
    """Whether Ctrl-C was pressed."""
    return _State.asked_at > 0


def settle() -> None:
    """Ends it: the command is over, and what comes now would only disturb its end."""
    _State.settled = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def leave(message: str) -> None:
    """Says a line and ends the process; threads, which may be busy, are not waited for."""
    settle()
    say(message)
    os._exit(EXIT_INTERRUPTED)


def say(message: str) -> None:
    """Says a line on standard error, whatever was drawn there."""
    if sys.stderr is not None:
        shown = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor, which a bar hides
        print(f"{shown}{message}", file=sys.stderr, flush=True)


def _raise(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    again, _State.raising_again = _State.raising_again, False
    if not again and asked():
        if now - _State.asked_at > _AT_ONCE_SECONDS:
            leave("interrupted twice: left at once")
        return
    if not asked():
        _State.asked_at = now
        _thread.start_new_thread(_watch, ())  # ``threading`` takes locks that may be held here
    raise KeyboardInterrupt


def _dropped(unraisable: Any) -> None:
    if not (asked() and issubclass(unraisable.exc_type, KeyboardInterrupt)):
        sys.__unraisablehook__(unraisable)


def _watch() -> None:
    """Raises it again where it was dropped: twice in a row the main thread does not unwind."""
    main, idle = threading.main_thread().ident or 0, 0
    while not _State.settled:
        time.sleep(_LOOK_SECONDS)
        idle = 0 if _unwinds(sys._current_exceptions().get(main)) else idle + 1
        if idle == 2 and not _State.settled:
            idle, _State.raising_again = 0, True
            _thread.interrupt_main()


def _unwinds(error: Any) -> bool:
    if isinstance(error, tuple):  # Python 3.11
        error = error[1]
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False
