"""A polite stop: SIGTERM and SIGINT are noted, and looked at between compiled calls."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

EXIT_PREEMPTED = 75
"""Exit status of a run that saved itself and can go on (EX_TEMPFAIL of sysexits.h)."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class PreemptedError(Exception):
    """The run was asked to stop; start it again with the same command to go on."""


class StopRequest:
    """Notes the first SIGTERM or SIGINT; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._at_once = False

    def install(self) -> None:
        """Takes over the handlers; call from the main thread."""
        for number in SIGNALS:
            signal.signal(number, self._note)
        if hasattr(signal, "pthread_sigmask"):  # not on Windows
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def ignore(self) -> None:
        """Lets signals pass unheeded; for the end, when nothing is left to be stopped.

        The interpreter gives a handler of ours back to the system while it ends, and a signal
        would then kill a run that is finished.
        """
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal:
            raise KeyboardInterrupt
        self.signal = number
        if self._at_once:
            raise PreemptedError(signal.Signals(number).name)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """For work that nobody looks up from: a stop that is asked for there interrupts it.

        Raises:
          PreemptedError: if one was asked for before or meanwhile.
        """
        self.check()
        self._at_once = True
        try:
            yield
        except BaseException:
            self.check()  # whatever became of the interruption
            raise
        finally:
            self._at_once = False

    def check(self) -> None:
        """Raises ``PreemptedError`` if a stop was asked for."""
        if self.signal:
            raise PreemptedError(signal.Signals(self.signal).name)


def hold_signals() -> None:
    """Lets signals wait for ``StopRequest.install``, also in a program that replaces this one."""
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
