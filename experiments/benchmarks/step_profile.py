"""Where the time of a training step goes, by kind of operation.

python experiments/benchmarks/step_profile.py --json=step_profile.json

Milliseconds a step from JAX's profiler, added over the threads; operations of the two streams
run side by side, so the sum is a little more than the time that passes.
"""

from __future__ import annotations

import collections
import re
import tempfile
from pathlib import Path
from typing import Any

from harness import Candidate, Run, parser, show
from nets import Net, jax_pieces

STEPS = 6


def profiled(net: Net) -> tuple[Run, dict[str, Any]]:
    """Takes the profile while it is set up; the milliseconds are its info."""
    import jax

    _, step, state, batch = jax_pieces(net, "auto")
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    targets = dict(
        re.findall(r'%?([\w.\-]+) = \S+ custom-call\(.*custom_call_target="(\w+)"',
                   compiled.as_text())
    )  # fmt: skip

    def steps(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics)

    steps(3)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            steps(STEPS)
        (file,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(file))
    milliseconds: collections.Counter[str] = collections.Counter()
    for plane in profile.planes:
        for line in plane.lines:
            if not line.name.startswith("tf_"):  # XLA's threads
                continue
            for event in line.events:
                if event.name.startswith("ThunkExecutor"):
                    continue
                kind = targets.get(event.name) or re.sub(r"[.\d]+$", "", event.name)
                milliseconds[kind] += event.duration_ns / 1e6 / STEPS
    return steps, {"milliseconds": milliseconds}


def main() -> None:
    """Runs the profile."""
    options = parser(__doc__ or "")
    options.add_argument("--size", type=int, default=64)
    args = options.parse_args()
    candidate = Candidate(profiled, Net(size=args.size))
    found: collections.Counter[str] = candidate.info["milliseconds"]
    candidate.close()
    total = sum(found.values())
    rows = [
        {"name": kind, "ms_a_step": ms, "share": ms / total}
        for kind, ms in found.most_common()
        if ms > 0.005 * total
    ]
    rows.append({"name": "everything", "ms_a_step": total, "share": 1.0})
    show(f"one training step, {args.size} px, batch 32", rows, args.json)


if __name__ == "__main__":
    main()
