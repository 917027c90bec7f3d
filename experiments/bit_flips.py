"""Flips single bits in the files of a run or a packed model and looks at what comes of it.

    python experiments/bit_flips.py [--count=1000] [--seed=0] [--workdir=RUN]

Each bit is either refused, with a message that names the file, or without effect: the weights, the
config and the classes that every command gets are the same. Exit status 0 only then. Without a
workdir, the model that comes with the package is packed data enough, and a tiny run is trained.
"""

from __future__ import annotations

import argparse
import collections
import logging
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
OUTCOMES = ("refused", "without effect", "other answers", "our fault")


def answers(workdir: Path) -> Any:
    """What a command that reads a run gets from it, to be compared."""
    from wlsrl_jax.runs.open import load_trained

    run = load_trained(workdir)
    told = {k: run.data.get(k) for k in ("classes", "normal", "prepared_size", "preprocess")}
    return run.variables, run.tasks, told, run.config.eval.mirror, run.config.model.to_dict()


def same(a: Any, b: Any) -> bool:
    """Whether two runs answer alike, to the bit."""
    left, right = jax.tree.leaves(a[0]), jax.tree.leaves(b[0])
    return a[1:] == b[1:] and all(map(np.array_equal, left, right)) and len(left) == len(right)


def flip(
    folder: Path, files: Iterable[Path], read: Callable[[Path], Any], count: int, seed: int
) -> dict[str, int]:
    """Flips one bit at a time, each byte of all files as likely as any other in half of the cases.

    In the other half each file is as likely as any other, so that small ones have their turn.

    Args:
      folder: of a run, whose files are changed and put back.
      files: that are changed.
      read: gives what is compared, or raises.
      count: of flips.
      seed: of the choice.

    Returns:
      Outcome -> how often.
    """
    from wlsrl_jax.files import Mistake

    rng, expected = random.Random(seed), read(folder)
    contents = {path: path.read_bytes() for path in sorted(files)}
    contents = {path: content for path, content in contents.items() if content}
    paths, sizes = list(contents), [len(content) for content in contents.values()]
    found: collections.Counter[str] = collections.Counter(dict.fromkeys(OUTCOMES, 0))
    for k in range(count):
        path = rng.choice(paths) if k % 2 else rng.choices(paths, sizes)[0]
        at, bit = rng.randrange(len(contents[path])), rng.randrange(8)
        changed = bytearray(contents[path])
        changed[at] ^= 1 << bit
        path.write_bytes(changed)
        try:
            outcome = "without effect" if same(read(folder), expected) else "other answers"
        except Mistake:
            outcome = "refused"
        except Exception as error:  # what else it is is the question
            outcome = "our fault"
            print(f"{path.relative_to(folder)} byte {at} bit {bit}: {error!r}", file=sys.stderr)
        if outcome == "other answers":
            print(f"{path.relative_to(folder)} byte {at} bit {bit}: {outcome}", file=sys.stderr)
        found[outcome] += 1
        path.write_bytes(contents[path])
    return dict(found)


def _flipped(
    source: Path, choose: Callable[[Path], Iterable[Path]], count: int, seed: int
) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as name:
        folder = shutil.copytree(source, Path(name) / "run")
        return flip(folder, [p for p in choose(folder) if p.is_file()], answers, count, seed)


def flip_run(workdir: Path, *, count: int, seed: int) -> dict[str, int]:
    """Flips bits in the selected checkpoint of a run; see ``flip``."""
    from wlsrl_jax.files import read_json

    step = read_json(workdir / "metrics.json")["selected"]["step"]
    return _flipped(workdir, lambda f: (f / "checkpoints" / str(step)).rglob("*"), count, seed)


def flip_packed(folder: Path, *, count: int, seed: int) -> dict[str, int]:
    """Flips bits in the files of a packed run; see ``flip``."""
    return _flipped(folder, lambda f: f.iterdir(), count, seed)


def tiny_run(folder: Path) -> Path:
    """Trains the smallest run there is."""
    from chaos import Attempt

    attempt = Attempt(folder / "run", "1x1", ["--config.num_epochs=2"])
    attempt.wait(600)
    if any(attempt.statuses()):
        raise RuntimeError(attempt.text())
    return folder / "run"


def main() -> int:
    """Runs the experiment; returns the exit status."""
    parser = argparse.ArgumentParser(description="Flip bits, compare answers.")
    parser.add_argument("--count", type=int, default=1000, help="of flips, in each of the two")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, help="of a finished run; default: a tiny one")
    args = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)
    from wlsrl_jax.export.pack import pack

    failed = 0
    with tempfile.TemporaryDirectory() as name:
        run = args.workdir or tiny_run(Path(name))
        kinds = {
            "checkpoint": (flip_run, run),
            "packed": (flip_packed, pack(run, Path(name) / "p")),
        }
        for kind, (function, folder) in kinds.items():
            began = time.monotonic()
            found = function(folder, count=args.count, seed=args.seed)
            failed += found["other answers"] + found["our fault"]
            told = ", ".join(f"{n} {outcome}" for outcome, n in found.items())
            print(f"{kind}: {told}; seed {args.seed}, {time.monotonic() - began:.0f} s", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
