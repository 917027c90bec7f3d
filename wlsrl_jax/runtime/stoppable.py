"""Work that saves itself when it is asked to stop, in one process or in several: how it ends.

``wlsrl train`` and ``wlsrl evaluate`` run like this. Exit statuses: 0, or 75 after SIGTERM or
Ctrl-C, 76 where another process was lost, 130 after a second Ctrl-C, 141 where nobody reads, 2 for
a mistake of the user's, else 1.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import jax

from wlsrl_jax.files import is_disk_full
from wlsrl_jax.runtime import interrupt, processes
from wlsrl_jax.runtime.ending import EXIT_MISTAKE, EXIT_PIPE, nobody_reads, what_to_tell
from wlsrl_jax.runtime.stop import EXIT_PREEMPTED, PreemptedError, StopRequest

Tell = Callable[[Exception], str | None]


def run_stoppable(work: Callable[[StopRequest], Any], tell: Tell = what_to_tell) -> int:
    """Runs the work of a process, of one or of several that were started alike.

    Args:
      work: joins the others (``processes.initialize``), and looks at the request to stop between
        compiled calls.
      tell: what to tell a person about an error; None for a fault of ours.

    Returns:
      The exit status. Where others must not be waited for, the process ends here with it.
    """
    stop = StopRequest()
    stop.install()
    threading.excepthook, sys.unraisablehook = _thread_error, _without_late(sys.unraisablehook)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, force=True)
    for noisy in ("absl", "asyncio", "jax", "orbax"):  # what they raise is told once, below
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    status = _status(work, stop, tell)
    stop.ignore()
    processes.finish(status)
    return status


def _status(work: Callable[[StopRequest], Any], stop: StopRequest, tell: Tell) -> int:
    try:
        work(stop)
    except PreemptedError as error:
        if processes.is_primary():
            print(f"stopped by {error}; start again with the same command", file=sys.stderr)
        return EXIT_PREEMPTED
    except KeyboardInterrupt:
        interrupt.leave("interrupted twice: left at once; start again with the same command")
    except Exception as error:
        return _fail(error, tell)
    return 0


def _thread_error(args: threading.ExceptHookArgs) -> None:
    """A thread that meets a full disk is silent: the main thread meets it too, and says so."""
    if not is_disk_full(args.exc_value) and not _is_late(args.exc_value):
        threading.__excepthook__(args)


def _without_late(hook: Callable[[Any], Any]) -> Callable[[Any], None]:
    """The same for what compiled code reports, whose threads go on when a save has failed."""

    def tell(unraisable: Any) -> None:
        if not _is_late(unraisable.exc_value):
            hook(unraisable)

    return tell


def _is_late(error: BaseException | None) -> bool:
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"


def _fail(error: Exception, tell: Tell) -> int:
    """Says what is wrong; the traceback only where it is no mistake of the user's."""
    if isinstance(error, BrokenPipeError) and nobody_reads():
        os._exit(EXIT_PIPE)
    message = tell(error)
    expected = message is not None
    alone = not jax.distributed.is_initialized()  # JAX may have no device to ask
    status = EXIT_MISTAKE if expected else 1
    if not alone and processes.is_lost(error):
        processes.leave(f"another process has gone ({str(error).strip().splitlines()[0][:300]})")
    if os.environ.get("WLSRL_TRACEBACK") or not expected:
        traceback.print_exc()
    agreed = not alone and isinstance(error, processes.AgreedError)
    if expected and not (agreed and not processes.is_primary()):
        print(f"error: {message}", file=sys.stderr, flush=True)
    if not agreed:
        # Without an orderly end: other processes would be waited for, and wait for this one; and
        # what runs at exit, such as the flush of a log to a full disk, has only noise to add.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        if not alone:
            processes.tell_others(status, message or str(error))
        os._exit(status)
    return status
