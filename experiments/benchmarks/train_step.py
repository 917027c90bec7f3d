"""Training steps a second against PyTorch and against plain ``lax`` convolutions.

python experiments/benchmarks/train_step.py --json=train_step.json
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import Candidate, interleave, matrix_product, parser, ratio, show, spread
from nets import Net, flops, jax_inference, jax_train, same_function, torch_inference, torch_train

PASSES = {"train_step": 3, "inference": 1}  # forward, and two products backward
SETUPS = {
    "train_step": (jax_train, torch_train),
    "inference": (jax_inference, torch_inference),
}


def measure(kind: str, net: Net, rounds: int, seconds: float) -> list[dict[str, object]]:
    """One row a candidate; ratios are ours over theirs, higher is better for us."""
    ours, theirs = SETUPS[kind]
    candidates = {
        "wlsrl_jax": Candidate(ours, net, "auto"),
        "plain lax": Candidate(ours, net, "lax"),
        "torch eager": Candidate(theirs, net, False),
        "torch compile": Candidate(theirs, net, True),
        "matrix product": Candidate(matrix_product),
    }
    times = interleave(candidates, rounds, seconds)
    work = PASSES[kind] * flops(net) * net.batch
    product = candidates["matrix product"].info["flops"]
    rows: list[dict[str, object]] = []
    best = min(("torch eager", "torch compile"), key=lambda n: spread(times[n])["median"])
    for name, candidate in candidates.items():
        amount = product if name == "matrix product" else work
        row: dict[str, object] = {"name": f"{name}, {net.size} px", "size": net.size}
        row["gflop_per_s"] = spread([amount / t / 1e9 for t in times[name]])
        if name != "matrix product":
            row["images_per_s"] = spread([net.batch / t for t in times[name]])
            row["fraction_of_matrix_product"] = spread(
                [amount / t / (product / p) for t, p in
                 zip(times[name], times["matrix product"], strict=True)]
            )  # fmt: skip
        if name == "wlsrl_jax":
            row["ratio_to_torch"] = ratio(times, name, best)
            row["ratio_to_plain_lax"] = ratio(times, name, "plain lax")
        row["setup_s"] = candidate.info["setup_s"]
        row["peak_mib"] = candidate.close() / 2**20
        rows.append(row)
    return rows


def main(kind: str = "train_step") -> None:
    """Runs the benchmark."""
    options = parser(__doc__ or "")
    options.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    options.add_argument("--batch", type=int, default=32)
    args = options.parse_args()
    rows = []
    for size in args.sizes:
        net = Net(size=size, batch=args.batch)
        print(f"{size} px, relative errors against float64: {same_function(net)}", flush=True)
        rows += measure(kind, net, args.rounds, args.seconds)
    show(f"{kind}, batch {args.batch}, float32", rows, args.json)


if __name__ == "__main__":
    main()
