"""Runs wlsrl_jax.main as several processes on this machine.

    python experiments/launch/local.py --processes=2 --devices=2 --config=configs/oct.py

Everything but the flags below goes to ``wlsrl_jax.main``. SIGTERM and SIGINT are passed on.
Exit status: 0 when all processes end well, 2 for a mistake, 75 where the same command goes on,
1 if a process failed otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

MISTAKE = 2  # wlsrl_jax.runtime.ending.EXIT_MISTAKE
GO_ON = (
    75,
    76,
)  # wlsrl_jax.runtime.stop.EXIT_PREEMPTED, wlsrl_jax.runtime.processes.EXIT_LOST_PROCESS
PATIENCE = 90.0  # seconds that the others have after the first one has ended


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(processes: int, devices: int, arguments: Sequence[str]) -> list[subprocess.Popen[str]]:
    """Starts the processes.

    Args:
      processes: how many.
      devices: CPU devices of each; 0 leaves the devices as they are.
      arguments: of ``wlsrl_jax.main``.
    """
    env = dict(os.environ)
    if devices:
        flag = f"--xla_force_host_platform_device_count={devices}"
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {flag}".strip()
    command = [sys.executable, "-m", "wlsrl_jax.main", *arguments]
    together = [f"--coordinator_address=127.0.0.1:{free_port()}", f"--num_processes={processes}"]
    return [
        subprocess.Popen([*command, *together, f"--process_id={k}"], env=env, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         start_new_session=True)  # else Ctrl-C would reach them twice
        for k in range(processes)
    ]  # fmt: skip


def _pass_on(process: subprocess.Popen[str], prefix: str) -> None:
    assert process.stdout
    for line in process.stdout:
        with contextlib.suppress(BrokenPipeError):  # nobody reads any more; the run goes on
            print(f"{prefix}{line}", end="", flush=True)


def wait(running: Sequence[subprocess.Popen[str]]) -> int:
    """Waits for all, prints what they say, and returns the exit status of them together."""
    readers = [
        threading.Thread(target=_pass_on, args=(p, f"[{k}] " if k else ""))
        for k, p in enumerate(running)
    ]
    for reader in readers:
        reader.start()
    ended = None
    while any(p.poll() is None for p in running):
        if ended is None and any(p.poll() is not None for p in running):
            ended = time.monotonic()
        if ended is not None and time.monotonic() - ended > PATIENCE:
            print("launcher: a process does not end after another one has; killing it")
            for p in running:
                p.kill()
        time.sleep(0.1)
    for reader in readers:
        reader.join()
    statuses = [p.returncode for p in running]
    if not any(statuses) or MISTAKE in statuses:
        return max(statuses, key=lambda s: s == MISTAKE)
    if 1 in statuses:
        return 1
    return 75 if any(s < 0 or s in GO_ON for s in statuses) else 1


def main() -> int:
    """Runs the processes; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--devices", type=int, default=0, help="CPU devices of each process")
    options, arguments = parser.parse_known_args()
    signals = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # until there is somebody to pass them to
    running = start(options.processes, options.devices, arguments)

    def forward(number: int, _: object) -> None:
        for p in running:
            if p.poll() is None:
                p.send_signal(number)

    for number in signals:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    return wait(running)


if __name__ == "__main__":
    sys.exit(main())
