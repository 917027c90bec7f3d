"""Disturbs training runs at random and checks that nothing was lost.

    python experiments/chaos.py --runs=10 --seed=0

Runs of one process, of two, and runs that change the number of processes and devices on their
way are killed (SIGKILL) or asked to stop (SIGTERM) at random moments, one process or all of
them; between two starts the newest checkpoint is sometimes cut short or has a bit flipped, a copy
of it lies there under another number, or the compiled kernels in the cache are cut short. They
are started again with the same command until they finish. Then

- a run that kept its processes and devices must have left the bits of a run that nobody
  disturbed: train state, example ids, predictions, results;
- one that changed them the same example ids, and losses within 1e-5 of each other;
- every start must have gone on from the last checkpoint that was complete and whole;
- nothing may be silent for a minute.

Exit status 0 only then.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "experiments" / "launch"))
import local  # noqa: E402

FLAGS = (
    "--config.data.height=32", "--config.data.width=32", "--config.data.phantom.train=160",
    "--config.data.phantom.validation=40", "--config.data.phantom.test=40",
    "--config.model.preset=tiny", "--config.model.dropout=0.2", "--config.batch_size=16",
    "--config.num_epochs=8", "--config.eval.every_epochs=2", "--config.eval.batch_size=16",
    "--config.checkpoint.every_steps=7", "--config.log_example_ids=True", "--config.log_every=1",
    "--config.report=False",
)  # fmt: skip
# Between topologies sums are formed in another order. Adam turns a rounding error of a gradient
# near zero into a whole step, plain SGD does not; at a rate of 0.01 the network makes 1e-3 of
# 1e-7 within 40 steps on some processors, at 0.001 it stays at 2e-7.
ELASTIC = (
    "--config.optimizer.name=sgd", "--config.optimizer.learning_rate=0.001",
    "--config.model.conv_implementation=xla",
)  # fmt: skip
TOPOLOGIES = {"1x1": (1, 1), "1x4": (1, 4), "2x1": (2, 1), "2x2": (2, 2)}  # processes x devices
KINDS = ("1x1", "2x1", "elastic")
DAMAGES = {"cut": 3, "flipped": 3, "stray": 3, "kernels": 1}  # how often; building takes long
SILENCE = 60.0  # seconds
LOSS_TOLERANCE = 1e-5  # relative


class Attempt:
    """A start of a run on one topology: its processes and what they say."""

    def __init__(self, workdir: Path, topology: str, flags: Sequence[str]) -> None:
        config = ROOT / "configs" / "oct.py"
        arguments = [f"--config={config}", f"--workdir={workdir}", *FLAGS, *flags]
        processes, devices = TOPOLOGIES[topology]
        if processes > 1:
            # One that was killed at the start is waited for.
            self.processes = local.start(
                processes, devices, [*arguments, "--initialization_timeout=30"]
            )
        else:
            forced = f"--xla_force_host_platform_device_count={devices}"
            self.processes = [subprocess.Popen(
                [sys.executable, "-m", "wlsrl_jax.main", *arguments], text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env={**os.environ, **({"XLA_FLAGS": forced} if devices > 1 else {})})]  # fmt: skip
        self.lines: list[str] = []
        self.heard = time.monotonic()
        self._readers = [threading.Thread(target=self._read, args=(p,)) for p in self.processes]
        for reader in self._readers:
            reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            self.lines.append(line)
            self.heard = time.monotonic()

    def running(self) -> bool:
        """Whether any process is."""
        return any(p.poll() is None for p in self.processes)

    def wait(self, seconds: float) -> None:
        """Waits for the end, at most so long; a run that is silent too long is an error."""
        end = time.monotonic() + seconds
        while self.running() and time.monotonic() < end:
            if time.monotonic() - self.heard > SILENCE:
                for p in self.processes:
                    p.kill()
                raise RuntimeError(f"silent for {SILENCE:.0f} s:\n{self.text()}")
            time.sleep(0.02)

    def phase(self) -> str:
        """What it was doing, as far as it has said."""
        marks = (("validation at|testing step", "evaluating"), ("^step |first step", "training"),
                 ("^model:", "compiling"))  # fmt: skip
        for line in reversed(self.lines):
            for pattern, name in marks:
                if re.search(pattern, line):
                    return name
        return "starting"

    def text(self) -> str:
        """What it has said."""
        return "".join(self.lines)

    def statuses(self) -> list[int]:
        """Exit statuses, once it has ended."""
        for reader in self._readers:
            reader.join()
        return [p.wait() for p in self.processes]


@dataclasses.dataclass
class Story:
    """What happened to a run."""

    faults: list[str] = dataclasses.field(default_factory=list)
    starts: int = 0
    seconds: float = 0.0
    problems: list[str] = dataclasses.field(default_factory=list)


def complete_steps(workdir: Path) -> list[int]:
    """Steps of the complete checkpoints, oldest first."""
    folder = workdir / "checkpoints"
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def damage(workdir: Path, step: int, rng: random.Random) -> tuple[str, int | None]:
    """Damages what a start will read.

    Returns:
      (what was done, the number of a checkpoint that no start may go on from or None).
    """
    folder = workdir / "checkpoints" / str(step)
    (kind,) = rng.choices(list(DAMAGES), list(DAMAGES.values()))
    if kind == "cut":
        for file in (folder / "state").rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[:10])
    elif kind == "flipped":
        files = [p for part in ("state", "run") for p in sorted((folder / part).rglob("*"))]
        file = rng.choice([p for p in files if p.is_file() and p.stat().st_size])
        content = bytearray(file.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
    elif kind == "stray":
        number = step + rng.choice([1, 1000])
        while folder.with_name(str(number)).exists():
            number += 1
        shutil.copytree(folder, folder.with_name(str(number)))
        return f"stray {number}", number
    else:
        for library in Path(os.environ["XDG_CACHE_HOME"]).rglob("*.so"):
            os.truncate(library, rng.randrange(5000))
        return kind, None
    return kind, step


def disturb(attempt: Attempt, rng: random.Random, latest: float) -> str | None:
    """Sends a signal at a random moment; returns what it was, if somebody was there to get it."""
    delay = rng.uniform(0, latest)
    number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
    several = len(attempt.processes) > 1
    targets = [rng.choice(attempt.processes)] if rng.random() < 0.7 else attempt.processes
    attempt.wait(delay)
    alive = [p for p in targets if p.poll() is None]
    if not alive:
        return None
    phase = attempt.phase()
    for p in alive:
        p.send_signal(number)
    who = f":{'all' if len(alive) > 1 else attempt.processes.index(alive[0])}" if several else ""
    return f"{number.name[3:]}{who}@{delay:.1f}s,{phase}"


def disturbed_run(
    workdir: Path, kind: str, rng: random.Random, faults: int, latest: float
) -> Story:
    """Runs to the end through a number of faults.

    Args:
      workdir: of the run.
      kind: one of ``KINDS``.
      rng: chooses everything.
      faults: at least so many, if the run does not end before.
      latest: moment of a fault after a start, at most, seconds.
    """
    story, began = Story(), time.monotonic()
    flags = ELASTIC if kind == "elastic" else ()
    topology = rng.choice(list(TOPOLOGIES)) if kind == "elastic" else kind
    saved: int | None = None
    broken: set[int] = set()  # until a start has set them aside
    while True:
        if kind == "elastic" and story.starts and rng.random() < 0.7:
            topology = rng.choice([t for t in TOPOLOGIES if t != topology])
            story.faults.append(f"to {topology}")
        before = [s for s in complete_steps(workdir) if s not in broken]
        unfinished = not (workdir / "metrics.json").exists()  # else nobody reads it again
        if story.starts and unfinished and len(before) > 1 and rng.random() < 0.3:
            what, lost = damage(workdir, before[-1], rng)
            story.faults.append(what)
            if lost is not None:
                broken.add(lost)
            if lost == before[-1]:
                before.pop()
                saved = None
        attempt = Attempt(workdir, topology, flags)
        story.starts += 1
        fault = None
        if len(story.faults) < faults:
            fault = disturb(attempt, rng, latest)
            if fault:
                story.faults.append(fault)
        attempt.wait(600)
        statuses, text = attempt.statuses(), attempt.text()
        going_on = re.search(r"going on from step (\d+)", text)
        step = int(going_on[1]) if going_on else 0
        if going_on:
            broken.clear()
        due = max([*before, saved or 0])
        if (going_on or "first step done" in text) and step < due:
            story.problems.append(f"went on from step {step}, {due} was complete")
        found = re.search(r"saved step (\d+)", text)
        saved = int(found[1]) if found else None
        if not any(statuses):
            story.seconds = time.monotonic() - began
            return story
        # Without a fault a start ends well; what comes before Python runs dies of SIGTERM.
        expected = {75, 76, -signal.SIGKILL, -signal.SIGTERM, 0} if fault else {0}
        if "first step done" in text:
            expected.discard(-signal.SIGTERM)
            if fault and fault.startswith("TERM") and 75 in statuses and saved is None:
                story.problems.append(f"stopped without saving: {fault}")
        if len(statuses) > 1 and "another task died" in text:
            # How JAX ends the others when process 0 dies; its last words can crash it.
            expected |= {1, -signal.SIGABRT, -signal.SIGSEGV}
        if not set(statuses) <= expected:
            story.problems.append(f"exit status {statuses} after {story.faults}:\n{text}")
        if story.starts > 20 + faults:
            story.problems.append("does not come to an end")
            return story


def example_ids(workdir: Path) -> dict[int, list[str]]:
    """Step -> ids of its examples."""
    from wlsrl_jax.training import example_ids

    return example_ids.read(workdir)


def fingerprint(workdir: Path) -> dict[str, str]:
    """Digests of all that a finished run leaves: state, example ids, predictions, results."""
    from wlsrl_jax.runs.checkpoint import read_arrays

    state = hashlib.sha256()
    for name, array in read_arrays(workdir / "checkpoints").items():
        state.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    ids = json.dumps(example_ids(workdir)).encode()
    digests = {"state": state.hexdigest(), "example ids": hashlib.sha256(ids).hexdigest()}
    for name in ("predictions.csv", "metrics.json"):
        digests[name] = hashlib.sha256((workdir / name).read_bytes()).hexdigest()
    return digests


def losses(workdir: Path) -> dict[int, float]:
    """Step -> training loss."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def compare(workdir: Path, clean: Path, kind: str, starts: int = 1) -> list[str]:
    """What differs between a disturbed run and a clean one."""
    if kind != "elastic":
        found, expected = fingerprint(workdir), fingerprint(clean)
        return [f"{name} differs" for name in expected if found[name] != expected[name]]
    problems = []
    if example_ids(workdir) != example_ids(clean):
        problems.append("example ids differ")
    mine, theirs = losses(workdir), losses(clean)
    if len(theirs.keys() - mine.keys()) > starts or mine.keys() - theirs.keys():
        problems.append("steps are missing in the log")
    # The first step after a start is not in the log: it is compiled in it.
    worst = max((abs(mine[s] / theirs[s] - 1) for s in mine.keys() & theirs.keys()), default=1.0)
    if worst > LOSS_TOLERANCE:
        problems.append(f"losses differ by {worst:.1e}")
    return problems


def clean_run(folder: Path, kind: str) -> tuple[Path, float]:
    """A run that nobody disturbs, after one that fills the compilation cache."""
    topologies = [kind, kind] if kind != "elastic" else [*TOPOLOGIES, "1x1"]
    for k, topology in enumerate(topologies):
        workdir, start = folder / f"{kind}-clean{k}", time.monotonic()
        attempt = Attempt(workdir, topology, ELASTIC if kind == "elastic" else ())
        attempt.wait(600)
        if any(attempt.statuses()):
            raise RuntimeError(attempt.text())
        problems = compare(workdir, folder / f"{kind}-clean0", kind)
        print(f"{kind}: clean run on {topology}, {time.monotonic() - start:.1f} s, "
              f"{', '.join(problems) or 'as the first'}", flush=True)  # fmt: skip
        if problems:
            raise RuntimeError(f"clean runs differ: {problems}")
    return workdir, time.monotonic() - start


def main() -> int:
    """Runs the experiment; returns the exit status."""
    parser = argparse.ArgumentParser(description="Disturb runs, compare bits.")
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--faults", type=int, default=5, help="of one run, about")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the table there as well")
    args = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)
    rng = random.Random(args.seed)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # which is damaged too
        clean = {kind: clean_run(folder, kind) for kind in args.kinds}
        for k in range(args.runs):
            kind = args.kinds[k % len(args.kinds)]
            reference, latest = clean[kind]
            workdir = folder / f"run{k}"
            story = disturbed_run(workdir, kind, rng, args.faults, latest)
            story.problems += compare(workdir, reference, kind, story.starts)
            rows.append({"run": k, "kind": kind, **dataclasses.asdict(story)})
            print(f"run {k:3d} {kind:8} {'; '.join(story.problems) or 'nothing lost':12} "
                  f"{story.starts} starts {story.seconds:6.1f} s  {' '.join(story.faults)}",
                  flush=True)  # fmt: skip
    lost = sum(bool(r["problems"]) for r in rows)
    faults = sum(len(r["faults"]) for r in rows)
    print(f"{faults} faults in {len(rows)} runs, {lost} runs lost something")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
