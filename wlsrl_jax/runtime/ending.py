"""How a command ends: its exit statuses, and what a person is told of an error."""

from __future__ import annotations

import contextlib
import os
import select
import sys

from wlsrl_jax.files import message_of

EXIT_MISTAKE = 2
"""Exit status where the message says what to correct."""
EXIT_PIPE = 141
"""Exit status where nobody reads the output any more (``| head -1``), as a shell gives it."""


def what_to_tell(error: BaseException) -> str | None:
    """What to tell a person about an error that ended a command; None for a fault of ours."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and (reason := _no_backend(error)) is not None:
        return (
            f"JAX_PLATFORMS={platforms}: JAX has no such device here"
            + (f" ({reason})" if reason else "")
            + ". Unset it to use what there is; the extra 'cuda' is for NVIDIA GPUs, 'tpu' for "
            "TPUs."
        )
    return message_of(error)


def _no_backend(error: BaseException) -> str | None:
    """Why JAX has no device, or "" where it does not say; None if it has, or it is not that."""
    if not isinstance(error, RuntimeError | AssertionError) or "jax" not in sys.modules:
        return None
    try:
        sys.modules["jax"].devices()
    except Exception as reason:  # an AssertionError for a platform without its plugin
        return str(reason).partition("\n")[0].partition(" (set JAX_PLATFORMS")[0]
    return None


def nobody_reads() -> bool:
    """Whether a reader of what we print has gone, and it is not some other pipe that broke."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # no file, as in a notebook
            poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
