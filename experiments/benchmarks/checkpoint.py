"""What saving costs the training loop: steps with and without a save among them, in turns.

python experiments/benchmarks/checkpoint.py --json=checkpoint.json
"""

# ruff: noqa: E402
from __future__ import annotations

from wlsrl_jax.runtime.huge_pages import restart_with_huge_pages

if __name__ == "__main__":
    restart_with_huge_pages()

import tempfile
import time
from pathlib import Path
from typing import Any

from harness import parser, show, spread
from nets import Net, jax_pieces


def main() -> None:
    """Runs the benchmark."""
    options = parser(__doc__ or "")
    options.add_argument("--steps", type=int, default=100, help="between two saves")
    options.add_argument("--size", type=int, default=64)
    options.set_defaults(rounds=5)
    args = options.parse_args()
    import jax

    from wlsrl_jax.runs import checkpoint

    _, function, state, batch = jax_pieces(Net(size=args.size), "auto")
    compiled = jax.jit(function, donate_argnums=0).lower(state, batch).compile()

    def step(state: Any) -> Any:
        return compiled(state, batch)[0]

    state = jax.block_until_ready(step(state))
    with tempfile.TemporaryDirectory() as folder:
        manager = checkpoint.open_manager(Path(folder) / "checkpoints")

        def turn(state: Any, save: bool) -> tuple[Any, float, float]:
            blocked, start = 0.0, time.perf_counter()
            if save:
                checkpoint.save(manager, state, [], keep=2, identity={})
                blocked = time.perf_counter() - start
            for _ in range(args.steps):
                state = step(state)
            jax.block_until_ready(state)
            return state, time.perf_counter() - start, blocked

        state, _, _ = turn(state, True)
        rows = []
        for k in range(args.rounds):
            times = {}
            for save in (True, False) if k % 2 else (False, True):
                checkpoint.wait(manager)
                state, times[save], blocked = turn(state, save)
                if save:
                    stopped = blocked
            rows.append((times[True] / times[False] - 1, stopped, stopped / times[False]))
        checkpoint.wait(manager)
    total, stopped, share = (spread(list(v)) for v in zip(*rows, strict=True))
    row = {
        "name": f"a save every {args.steps} steps",
        "slower_by": total,
        "loop_stopped_s": stopped,
        "loop_stopped_share": share,
    }
    show(f"cost of saving, {args.size} px", [row], args.json)


if __name__ == "__main__":
    main()
