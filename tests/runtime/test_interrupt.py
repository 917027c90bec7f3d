"""Ctrl-C and a closed pipe, in real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests import sources
from tests.tiny import ROOT
from wlsrl_jax.runtime.stop import PreemptedError, StopRequest


def start(*arguments, **options):
    def as_from_a_terminal():  # pytest may have been started with SIGINT ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)

    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, preexec_fn=as_from_a_terminal, **options,
    )  # fmt: skip


def interrupted_after(seconds, folder, *arguments):
    process = start(*arguments)
    time.sleep(seconds)
    late = process.poll() is not None
    if not late:
        process.send_signal(signal.SIGINT)
    asked = time.time()
    output, errors = process.communicate(timeout=120)
    if process.returncode == 0 and not late:  # it was over, if all was written when it was asked
        late = all(path.stat().st_mtime < asked + 0.1 for path in folder.rglob("*"))
    return late, process.returncode, output, errors


def command(tmp_path, name):
    source = tmp_path / "octdl"
    if not source.exists():
        sources.octdl(source, patients=30)
    where = ["--dataset=octdl", f"--source={source}"]
    return {
        "prepare": ["-m", "wlsrl_jax.data.prepare", *where, f"--data_dir={tmp_path / 'd'}",
                    "--overwrite"],
        "audit": ["-m", "wlsrl_jax.data.audit", *where, f"--output={tmp_path / 'a'}"],
        "export": ["-m", "wlsrl_jax.export", "--workdir=pretrained:octdl", "--overwrite",
                   f"--output={tmp_path / 'x'}"],
        "predict": ["-m", "wlsrl_jax.predict", "--quality_check=off", "--modality_check=off",
                    f"--output={tmp_path / 'o.csv'}", str(source / "AMD")],
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", ["prepare", "audit", "export", "predict"])
def test_ctrl_c_is_one_line_and_the_same_command_ends_well(name, tmp_path):
    arguments = command(tmp_path, name)
    for delay in (0.3, 0.9, 1.6, 2.4, 3.5):
        late, status, _, errors = interrupted_after(delay, tmp_path, *arguments)
        if late:  # or at its very end
            assert status in (0, 1), errors
            break
        assert status in ((130, 75) if name == "predict" else (130,)), (delay, status, errors)
        said = [line for line in errors.splitlines() if "model: pretrained" not in line]
        assert len(said) == 1 and ("interrupted" in said[0] or "stopped" in said[0]), errors
    process = start(*arguments)
    output, errors = process.communicate(timeout=200)
    assert process.returncode in (0, 1) and "Traceback" not in errors, errors
    assert not (left := list(tmp_path.glob("**/.*"))), left


SWALLOWED = """
import gc, signal, sys, time
from wlsrl_jax import cli

def in_a_callback(phase, info):  # as JAX's at a garbage collection: an exception is dropped
    if not done and phase == "start":
        done.append(1)
        signal.raise_signal(signal.SIGINT)

def main(argv):
    gc.callbacks.append(in_a_callback)
    gc.collect()
    gc.callbacks.clear()
    for _ in range(100):
        time.sleep(0.1)
    print("went on to its end")

done = []
cli.run_command(main)
"""

TURNED_INTO_ANOTHER = """
import signal
from wlsrl_jax import cli

def main(argv):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise RuntimeError("what a library makes of it")

cli.run_command(main)
"""

DROPPED = """
import signal, time
from wlsrl_jax import cli

def main(argv):
    try:
        signal.raise_signal(signal.SIGINT)
    except BaseException:
        pass  # as compiled code does
    for _ in range(100):
        time.sleep(0.1)
    print("went on to its end")

cli.run_command(main)
"""


@pytest.mark.parametrize("program", [SWALLOWED, TURNED_INTO_ANOTHER, DROPPED])
def test_an_interruption_is_not_swallowed(program):
    process = start("-c", program)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and output == "", (output, errors)
    assert errors == "interrupted; the same command starts it again\n"


def test_the_tidying_up_is_not_interrupted_again():
    """What ``finally`` does takes longer than the looks for a dropped interruption are apart."""
    program = (
        "import signal, time\nfrom wlsrl_jax import cli\n"
        "def main(argv):\n    try:\n        signal.raise_signal(signal.SIGINT)\n"
        "    finally:\n        time.sleep(1.5)\n        print('tidy')\n"
        "cli.run_command(main)\n"
    )
    process = start("-c", program)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and output == "tidy\n", (output, errors)


def test_in_the_background_ctrl_c_is_for_others():
    """A shell starts ``command &`` with SIGINT ignored, and Python leaves it so."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from wlsrl_jax import cli; import time\n"
         "cli.run_command(lambda argv: print('ready', flush=True) or time.sleep(1))"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0


@pytest.mark.parametrize(
    "program",
    [
        "for k in range(100000): print(k)",
        "print('one')",
        "for k in range(10000): cli.console().print('[x]', k)",
    ],
)
def test_a_closed_pipe_ends_quietly(program):
    code = f"from wlsrl_jax import cli\ndef main(argv):\n    {program}\ncli.run_command(main)\n"
    process = start("-c", code)
    process.stdout.close()  # nobody reads, from the start
    errors = process.stderr.read()
    assert process.wait(timeout=60) == 141 and errors == "", errors


def test_training_ends_quietly_when_nobody_reads(tmp_path):
    from tests.tiny import tiny_flags

    process = start("-m", "wlsrl_jax.main", f"--config={ROOT}/configs/oct.py",
                    f"--workdir={tmp_path / 'w'}", "--config.log_every=1",
                    *tiny_flags())  # fmt: skip
    assert process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=120) == 141 and errors == "", errors


def test_an_output_that_cannot_be_written_is_told():
    process = subprocess.run(
        f"{sys.executable} -c \"from wlsrl_jax import cli; cli.run_command(lambda a: print('x'))\""
        " > /dev/full", shell=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: standard output") and "No space left on device" in line


class Asked(StopRequest):
    def ask(self):
        self._note(signal.SIGINT, None)


def test_work_that_nobody_looks_up_from_is_stopped_at_once():
    stop = Asked()
    with pytest.raises(PreemptedError), stop.at_once():
        try:
            stop.ask()
        except Exception as error:
            raise RuntimeError("what a library makes of it") from error
    with pytest.raises(PreemptedError), stop.at_once():  # asked for before
        pytest.fail("it must not begin")
    stop = Asked()
    with stop.at_once():
        pass
    stop.ask()  # only noted again
    assert stop.signal == signal.SIGINT
