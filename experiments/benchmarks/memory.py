"""Peak resident memory: of training against PyTorch, and of a run on a million records.

python experiments/benchmarks/memory.py --json=memory.json
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

from harness import Candidate, measure, parser, show
from nets import Net, jax_train, torch_train


def main() -> None:
    """Runs the benchmark."""
    options = parser(__doc__ or "")
    options.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    options.add_argument("--batches", type=int, nargs="+", default=[32, 128])
    options.add_argument("--records", type=int, nargs="+", default=[10_000, 1_000_000])
    args = options.parse_args()
    rows: list[dict[str, Any]] = []
    for size in args.sizes:
        for batch in args.batches:
            net = Net(size=size, batch=batch)
            peaks = {}
            for name, setup, option in (
                ("wlsrl_jax", jax_train, "auto"),
                ("torch eager", torch_train, False),
                ("torch compile", torch_train, True),
            ):
                candidate = Candidate(setup, net, option)
                candidate.seconds(3)
                peaks[name] = candidate.close() / 2**20
            best = min(peaks["torch eager"], peaks["torch compile"])
            rows.append(
                {
                    "name": f"train step, {size} px, batch {batch}",
                    "peak_mib": peaks["wlsrl_jax"],
                    "torch_mib": best,
                    "times_torch": peaks["wlsrl_jax"] / best,
                }
            )
    for records in args.records:
        with tempfile.TemporaryDirectory() as workdir:
            epochs = 200 * 32 / records  # 200 steps
            _, peak, _ = measure(
                [sys.executable, "-m", "wlsrl_jax.main", "--config=configs/oct.py",
                 f"--workdir={workdir}/run", f"--config.data.phantom.train={records}",
                 f"--config.num_epochs={epochs}", "--config.optimizer.warmup_epochs=0",
                 f"--config.eval.every_epochs={epochs}"]
            )  # fmt: skip
        rows.append({"name": f"run on {records:,} phantoms, 200 steps", "peak_mib": peak})
    show("peak resident memory", rows, args.json)


if __name__ == "__main__":
    main()
