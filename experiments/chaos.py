"""Kills training runs at random moments and checks that nothing was lost.

    python experiments/chaos.py --runs=10 --seed=0

Each run is killed (SIGKILL) or asked to stop (SIGTERM) several times and started again
with the same command until it finishes. Its last train state, its example ids, its
predictions and its results must have the bits of a run that nobody disturbed. Exit status
0 only then.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS = (
    "--config.data.height=32", "--config.data.width=32", "--config.data.phantom.train=160",
    "--config.data.phantom.validation=40", "--config.data.phantom.test=40",
    "--config.model.preset=tiny", "--config.model.dropout=0.2", "--config.batch_size=16",
    "--config.num_epochs=8", "--config.eval.every_epochs=2", "--config.eval.batch_size=16",
    "--config.checkpoint.every_steps=7", "--config.log_example_ids=True",
)  # fmt: skip


def command(workdir: Path, *more: str) -> list[str]:
    """The command of a small run on phantoms."""
    config = ROOT / "configs" / "oct.py"
    return [sys.executable, "-m", "wlsrl_jax.main", f"--config={config}", f"--workdir={workdir}",
            *FLAGS, *more]  # fmt: skip


def fingerprint(workdir: Path) -> dict[str, str]:
    """Digests of all that a finished run leaves: state, example ids, predictions, results."""
    from wlsrl_jax.checkpoint import read_arrays

    state = hashlib.sha256()
    for name, array in read_arrays(workdir / "checkpoints").items():
        state.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    digests = {"state": state.hexdigest()}
    for name in ("example_ids.jsonl", "predictions.csv", "metrics.json"):
        digests[name] = hashlib.sha256((workdir / name).read_bytes()).hexdigest()
    return digests


def disturbed_run(
    workdir: Path, rng: random.Random, faults: int, longest: float
) -> tuple[list[str], float]:
    """Runs to the end through a number of faults.

    Args:
      workdir: of the run.
      rng: chooses moments and signals.
      faults: how many.
      longest: latest moment of a fault after a start, seconds.

    Returns:
      (what was done, seconds).
    """
    history: list[str] = []
    start = time.monotonic()
    while True:
        process = subprocess.Popen(
            command(workdir), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if len(history) < faults:
            number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
            delay = rng.uniform(0, longest)
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                process.send_signal(number)
                history.append(f"{number.name[3:]}@{delay:.1f}s")
        output, _ = process.communicate(timeout=600)
        if process.returncode == 0:
            return history, time.monotonic() - start
        if process.returncode not in (-signal.SIGKILL, -signal.SIGTERM, 75):
            raise RuntimeError(f"exit status {process.returncode} after {history}:\n{output}")


def main() -> int:
    """Runs the experiment; returns the exit status."""
    parser = argparse.ArgumentParser(description="Kill runs, compare bits.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--faults", type=int, default=4, help="most faults of one run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the table there as well")
    args = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)
    rng = random.Random(args.seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "clean"
        for attempt in ("compiling", "clean"):  # the first fills the compilation cache
            start = time.monotonic()
            subprocess.run(command(Path(folder) / attempt), cwd=ROOT, check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip
            longest = time.monotonic() - start
        expected = fingerprint(clean)
        same = fingerprint(Path(folder) / "compiling") == expected
        print(f"clean run {longest:.1f} s, two clean runs {'equal' if same else 'DIFFER'}")
        for k in range(args.runs):
            workdir = Path(folder) / f"run{k}"
            history, seconds = disturbed_run(workdir, rng, args.faults, longest)
            found = fingerprint(workdir)
            different = [name for name in expected if found[name] != expected[name]]
            rows.append({"run": k, "faults": history, "seconds": round(seconds, 1),
                         "different": different})  # fmt: skip
            verdict = f"DIFFERS: {different}" if different else "identical"
            print(f"run {k:3d}  {verdict:10}  {seconds:6.1f} s  {' '.join(history)}", flush=True)
    lost = sum(bool(r["different"]) for r in rows)
    faults = sum(len(r["faults"]) for r in rows)
    print(f"{faults} faults in {len(rows)} runs, {lost} runs differ")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return int(lost > 0 or not same)


if __name__ == "__main__":
    sys.exit(main())
