"""What comes before the imports of a command that saves itself when it is asked to stop."""

from __future__ import annotations

from wlsrl_jax.runtime.huge_pages import restart_with_huge_pages
from wlsrl_jax.runtime.stop import hold_signals


def begin_run() -> None:
    """Lets signals wait for ``run_stoppable``, and restarts the process with large pages."""
    hold_signals()
    restart_with_huge_pages()
