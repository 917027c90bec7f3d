"""Feeds damaged and odd input to the functions that the commands call.

    python experiments/fuzz.py --count=100000 --seed=0 [--only=table,list] [--seconds=60]

Input k of a seed is always the same. Each must end in a result or in a ``Mistake`` that says
something; any other exception, ten seconds of work or too much memory is a failure, whose input is
written to the current directory. Exit status 0 only without failures. What is fed, and to which
function, is in ``fuzz_inputs.py``.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import logging
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fuzz_inputs import KINDS, Kind  # noqa: E402
from wlsrl_jax.files import Mistake  # noqa: E402

SECONDS = 10
MEMORY = 3 * 2**30  # bytes, peak of the whole process
# (seed, input, kind) that failed once and are always tried: a side of a million pixels.
FAILED_ONCE = ((1, 110929, "image"), (1, 188471, "image"))


def peak_memory() -> int:
    """Peak of this process, bytes.

    Where Linux tells it, from /proc: getrusage's begins with that of the process which started
    this one.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def outcome(kind: Kind, data: bytes, folder: Path) -> str:
    """Feeds an input; returns "accepted" or "refused".

    Raises:
      AssertionError: for a refusal without a reason.
      Exception: whatever the function raised that is no ``Mistake``.
    """
    try:
        kind.feed(data, folder)
    except Mistake as error:
        if not str(error).strip():
            raise AssertionError("a refusal without a reason") from error
        return "refused"
    return "accepted"


def inputs(seed: int, only: set[str]) -> Iterator[tuple[int, int, str]]:
    """(seed, number, kind) of every input, without end."""
    yield from (entry for entry in FAILED_ONCE if not only or entry[2] in only)
    names = [name for name in KINDS if not only or name in only]
    shares = [KINDS[name].share for name in names]
    for k in itertools.count():
        yield seed, k, random.Random(f"{seed}/{k}/kind").choices(names, shares)[0]


def fuzz(
    count: int, seed: int, save: Path | None = None, *, only: set[str] | None = None,
    seconds: float = float("inf"),
) -> tuple[dict[str, int], list[str]]:  # fmt: skip
    """Feeds inputs.

    Args:
      count: of inputs.
      seed: of the damage.
      save: where inputs that failed are written.
      only: kinds of input; all by default.
      seconds: after which it ends, whatever the count.

    Returns:
      (how often what came of it, failures).
    """
    counts: collections.Counter[str] = collections.Counter()
    failures = []

    def late(*_: object) -> None:
        raise AssertionError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as name:
        for seed_of, k, what in itertools.islice(inputs(seed, only or set()), count):
            if time.monotonic() > end:
                break
            kind = KINDS[what]
            data = kind.make(random.Random(f"{seed_of}/{k}"))
            signal.alarm(SECONDS)
            try:
                counts[f"{what} {outcome(kind, data, Path(name))}"] += 1
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                failures.append(
                    f"seed {seed_of}, input {k}, {what}: {type(error).__name__}: "
                    f"{str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
                )
                if save:
                    (save / f"fuzz-{seed_of}-{k}.{what}").write_bytes(data)
            finally:
                signal.alarm(0)
    peak = peak_memory()
    if peak > MEMORY:
        failures.append(f"peak memory {peak / 2**20:.0f} MiB")
    return dict(sorted(counts.items())), failures


def main() -> int:
    """Runs the experiment; returns the exit status."""
    parser = argparse.ArgumentParser(description="Feed damaged input to the readers.")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    args = parser.parse_args()
    only = {name for name in args.only.split(",") if name}
    if unknown := only - KINDS.keys():
        parser.error(f"--only: {', '.join(sorted(unknown))} is not one of {', '.join(KINDS)}")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # libtiff and Pillow have a lot to say
    counts, failures = fuzz(args.count, args.seed, Path(), only=only, seconds=args.seconds)
    for name, number in counts.items():
        print(f"{name}: {number}")
    for failure in failures:
        print(failure)
    peak = peak_memory() / 2**20
    tried = sum(counts.values()) + len(failures)
    print(f"{tried} inputs, {len(failures)} failures, peak memory {peak:.0f} MiB")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
