"""Seconds from the command to the first training step and the first evaluation.

python experiments/benchmarks/startup.py --json=startup.json

Cold: no compiled kernels, no compiled programs. Warm: the same command in another workdir.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import Candidate, parser, show, spread
from nets import Net, jax_train

ROOT = Path(__file__).resolve().parents[2]


def start(cache: str, workdir: str, config: str) -> dict[str, float]:
    """Runs the quick start until its first evaluation."""
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    environment |= {"XDG_CACHE_HOME": cache, "PYTHONUNBUFFERED": "1"}
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "wlsrl_jax.main", f"--config={config}", f"--workdir={workdir}"],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    seen: dict[str, float] = {}
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        for mark, name in (("first step", "first_step_s"), ("validation", "first_evaluation_s")):
            if mark in line and "step " in line:
                seen.setdefault(name, time.perf_counter() - begin)
        if len(seen) == 2:
            break
    process.kill()
    process.wait()
    if len(seen) < 2:
        raise RuntimeError("".join(lines[-20:]))
    return seen


def main() -> None:
    """Runs the benchmark."""
    options = parser(__doc__ or "")
    options.add_argument("--configs", nargs="+", default=["configs/oct.py", "configs/fundus.py"])
    options.set_defaults(rounds=3)
    args = options.parse_args()
    rows: list[dict[str, object]] = []
    for config in args.configs:
        times: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
        for k in range(args.rounds):
            with tempfile.TemporaryDirectory() as folder:
                for kind in times:
                    times[kind].append(start(f"{folder}/cache", f"{folder}/{kind}{k}", config))
        for kind, found in times.items():
            row: dict[str, object] = {"name": f"{config}, {kind}"}
            rows.append(row | {n: spread([f[n] for f in found]) for n in found[0]})
    compile_times = []
    for _ in range(args.rounds):
        candidate = Candidate(jax_train, Net(), "auto")
        compile_times.append(candidate.info["compile_s"])
        candidate.close()
    rows.append({"name": "train step, 1.44 M parameters", "compile_s": spread(compile_times)})
    show("start-up", rows, args.json)


if __name__ == "__main__":
    main()
