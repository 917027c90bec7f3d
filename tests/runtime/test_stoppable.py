"""What is printed where a run ends."""

import os
import subprocess
import sys

from tests.tiny import ROOT

# An error in a destructor goes the way of those that compiled code reports of its threads.
CODE = """
from wlsrl_jax.files import Mistake
from wlsrl_jax.runtime.stoppable import run_stoppable

class Late:
    def __init__(self, text):
        self.text = text
    def __del__(self):
        raise RuntimeError(self.text)

def work(stop):
    for text in ("Event loop is closed", "something else"):
        Late(text)
    raise Mistake("the disk is full")

run_stoppable(work)
"""


def test_an_event_loop_that_was_closed_is_silent_and_nothing_else_is():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "Event loop is closed" not in done.stderr
    assert "RuntimeError: something else" in done.stderr
    assert done.stderr.endswith("error: the disk is full\n")
