"""How far a long computation is, for whoever waits."""

from __future__ import annotations

import time
from collections.abc import Callable

Tell = Callable[[str], None]
"""Is told in a few words how far something is, perhaps many times a second."""


def silent(text: str) -> None:
    """Tells nobody."""


def now_and_then(say: Tell, seconds: float = 5.0) -> Tell:
    """Passes on what is told, no sooner than so many seconds after the last time.

    Args:
      say: prints a line.
      seconds: from now, and between lines; what is fast says nothing.
    """
    last = time.monotonic()

    def tell(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            say(text)

    return tell
