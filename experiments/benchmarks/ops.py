"""Convolutions one by one: forward, and forward with both gradients, against PyTorch and lax.

python experiments/benchmarks/ops.py --json=ops.json
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from harness import Candidate, Run, interleave, matrix_product, parser, ratio, show, spread

STAGES = ((1, 32), (2, 64), (4, 128), (8, 256))  # (size is divided by, channels)
KINDS = ("standard", "depthwise", "pointwise")


def cases(size: int) -> list[tuple[str, str, int, int]]:
    """(name, kind, height, channels)."""
    return [(f"{kind} {size // d}x{size // d}x{c}", kind, size // d, c)
            for kind in KINDS for d, c in STAGES]  # fmt: skip


def arrays(kind: str, side: int, channels: int, batch: int) -> tuple[np.ndarray, ...]:
    """Images, kernel and output gradient, float32."""
    rng = np.random.default_rng(0)
    k = 1 if kind == "pointwise" else 3
    inputs = 1 if kind == "depthwise" else channels
    shapes = (batch, side, side, channels), (k, k, inputs, channels), (batch, side, side, channels)
    return tuple(rng.standard_normal(s, dtype=np.float32) for s in shapes)


def jax_function(kind: str, implementation: str) -> Any:
    """(x, kernel, g) -> output and both gradients."""
    import jax

    from wlsrl_jax import ops

    f = ops.depthwise_conv2d if kind == "depthwise" else ops.conv2d

    def both(x: Any, k: Any, g: Any) -> Any:
        out, vjp = jax.vjp(lambda x, k: f(x, k, implementation=implementation), x, k)
        return out, *vjp(g)

    return lambda x, k: f(x, k, implementation=implementation), both


def jax_ops(size: int, batch: int, implementation: str) -> tuple[dict[str, Run], dict[str, Any]]:
    """All cases in JAX."""
    import jax

    def repeat(f: Any, arguments: Any) -> Run:
        def run(count: int) -> None:
            for _ in range(count):  # each to its end, as PyTorch does, in the same memory
                jax.block_until_ready(f(*arguments))

        return run

    runs = {}
    for name, kind, side, channels in cases(size):
        x, k, g = map(jax.device_put, arrays(kind, side, channels, batch))
        forward, both = jax_function(kind, implementation)
        runs[f"{name} forward"] = repeat(jax.jit(forward), (x, k))
        runs[f"{name} forward+backward"] = repeat(jax.jit(both), (x, k, g))
    return runs, {}


def torch_ops(size: int, batch: int) -> tuple[dict[str, Run], dict[str, Any]]:
    """All cases in PyTorch, channels_last."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))

    def tensor(a: np.ndarray, axes: tuple[int, ...]) -> Any:
        out = torch.from_numpy(np.ascontiguousarray(a.transpose(axes)))
        return out.contiguous(memory_format=torch.channels_last)

    runs: dict[str, Run] = {}
    for name, kind, side, channels in cases(size):
        x, k, g = arrays(kind, side, channels, batch)
        groups = channels if kind == "depthwise" else 1
        xt, kt, gt = tensor(x, (0, 3, 1, 2)), tensor(k, (3, 2, 0, 1)), tensor(g, (0, 3, 1, 2))

        def conv(x: Any, k: Any, groups: int = groups) -> Any:
            return torch.nn.functional.conv2d(x, k, padding=k.shape[-1] // 2, groups=groups)

        def forward(count: int, x: Any = xt, k: Any = kt, conv: Any = conv) -> None:
            with torch.inference_mode():
                for _ in range(count):
                    conv(x, k)

        xg, kg = xt.clone().requires_grad_(), kt.clone().requires_grad_()

        def both(count: int, x: Any = xg, k: Any = kg, g: Any = gt, conv: Any = conv) -> None:
            for _ in range(count):
                torch.autograd.grad(conv(x, k), (x, k), g)

        runs[f"{name} forward"], runs[f"{name} forward+backward"] = forward, both
    return runs, {}


def errors(kind: str, side: int, channels: int) -> dict[str, float]:
    """Largest error of output and gradients over the largest reference, batch 2."""
    import jax

    x, k, g = arrays(kind, side, channels, 2)
    with jax.enable_x64(True):
        exact = jax_function(kind, "lax")[1](*(a.astype(np.float64) for a in (x, k, g)))
        exact = [np.asarray(a) for a in exact]
    out = {}
    for name, implementation in (("error", "auto"), ("error_lax", "lax")):
        found = jax_function(kind, implementation)[1](x, k, g)
        out[name] = max(
            float(np.max(np.abs(np.asarray(a, np.float64) - b)) / np.max(np.abs(b)))
            for a, b in zip(found, exact, strict=True)
        )
    return out


def main() -> None:
    """Runs the benchmark."""
    options = parser(__doc__ or "")
    options.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    options.add_argument("--batch", type=int, default=32)
    args = options.parse_args()
    rows: list[dict[str, Any]] = []
    for size in args.sizes:
        candidates = {
            "wlsrl_jax": Candidate(jax_ops, size, args.batch, "auto"),
            "torch": Candidate(torch_ops, size, args.batch),
            "lax": Candidate(jax_ops, size, args.batch, "lax"),
        }
        product = {"product": Candidate(matrix_product)}
        speed = product["product"].info["flops"] / min(
            interleave(product, args.rounds, args.seconds)["product"]
        )
        product["product"].close()
        for name, kind, side, channels in cases(size):
            for what, passes in (("forward", 1), ("forward+backward", 3)):
                times = interleave(candidates, args.rounds, args.seconds, f"{name} {what}")
                taps = 1 if kind == "pointwise" else 9
                inputs = 1 if kind == "depthwise" else channels
                work = 2 * taps * inputs * channels * side**2 * args.batch * passes
                row: dict[str, Any] = {"name": f"{name} {what}"}
                row["ms"] = spread([1e3 * t for t in times["wlsrl_jax"]])
                row["ratio_to_torch"] = ratio(times, "wlsrl_jax", "torch")
                row["ratio_to_plain_lax"] = ratio(times, "wlsrl_jax", "lax")
                row["fraction_of_matrix_product"] = work / min(times["wlsrl_jax"]) / speed
                if passes == 3:
                    row |= errors(kind, side, channels)
                rows.append(row)
        for candidate in candidates.values():
            candidate.close()
    show(f"convolutions, batch {args.batch}, float32", rows, args.json)


if __name__ == "__main__":
    main()
