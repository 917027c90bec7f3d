"""Other ways to compute the same convolutions on a CPU: what was tried, and what it brings.

python experiments/benchmarks/formulations.py --json=formulations.json

All of them run in one process, in turn; a ratio is how many times faster "compiled", the
project's own, is in the same round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from harness import Candidate, Run, parser, show, spread

LAYERS = {
    "first": ((64, 3), 32, 3),
    "standard 64": ((64, 32), 32, 3),
    "standard 16": ((16, 128), 128, 3),
    "standard 8": ((8, 256), 256, 3),
    "pointwise 32": ((32, 64), 64, 1),
    "depthwise 64": ((64, 32), 0, 3),
    "depthwise 16": ((16, 128), 0, 3),
}
"""Name -> ((side, input channels), output channels or 0 if depthwise, side of the kernel)."""


def lax_conv(layout: str) -> Callable[[Any, Any], Any]:
    """XLA's convolution; the layout is changed inside, as a whole network would at its ends."""
    from jax import lax

    def conv(x: Any, k: Any) -> Any:
        groups = x.shape[3] if k.shape[2] == 1 and x.shape[3] > 1 else 1
        numbers = (layout, "HWIO", layout)
        if layout == "NCHW":
            x = x.transpose(0, 3, 1, 2)
        y = lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
        )
        return y.transpose(0, 2, 3, 1) if layout == "NCHW" else y

    return conv


def patches(x: Any, k: Any) -> Any:
    """All patches at once, then one matrix product."""
    import jax.numpy as jnp

    size = k.shape[0]
    r = size // 2
    padded = jnp.pad(x, ((0, 0), (r, r), (r, r), (0, 0)))
    _, h, w, _ = x.shape
    views = [padded[:, i : i + h, j : j + w] for i in range(size) for j in range(size)]
    return jnp.concatenate(views, -1) @ k.reshape(-1, k.shape[3])


def winograd(x: Any, k: Any) -> Any:
    """F(2x2, 3x3) in XLA: sums of strided slices and 16 batched matrix products."""
    import jax.numpy as jnp

    n, h, w, c = x.shape
    rows, columns = h // 2, w // 2
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    d = [[padded[:, i : i + h : 2, j : j + w : 2] for j in range(4)] for i in range(4)]

    def inner(a: Any) -> list[Any]:
        return [a[0] - a[2], a[1] + a[2], a[2] - a[1], a[1] - a[3]]

    rows_done = list(zip(*(inner([d[i][j] for i in range(4)]) for j in range(4)), strict=True))
    points = jnp.stack([p for r in rows_done for p in inner(r)]).reshape(16, -1, c)
    g = jnp.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], x.dtype)
    kernel = jnp.einsum("ai,bj,ijco->abco", g, g, k).reshape(16, c, -1)
    m = (points @ kernel).reshape(4, 4, n, rows, columns, -1)

    def outer(a: Any) -> tuple[Any, Any]:
        return a[0] + a[1] + a[2], a[1] - a[2] - a[3]

    y = [outer(half) for half in outer(m)]
    lines = [jnp.stack(pair, 3).reshape(n, rows, w, -1) for pair in y]
    return jnp.stack(lines, 2).reshape(n, h, w, -1)


def space_to_depth(x: Any, k: Any) -> Any:
    """2x2 pixels as channels, so that a first layer has twelve inputs instead of three."""
    import jax.numpy as jnp
    from jax import lax

    n, h, w, c = x.shape
    out = k.shape[3]

    def fold(a: Any) -> Any:
        return a.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)

    blocks = fold(x).reshape(n, h // 2, w // 2, 4 * c)
    # kernel[block row, block column, (pixel row, pixel column, c), (output row, column, out)]
    wide = jnp.zeros((6, 6, c, 2, 2, out), x.dtype)
    for i in range(2):
        for j in range(2):
            wide = wide.at[1 + i : 4 + i, 1 + j : 4 + j, :, i, j].set(k)
    wide = wide.reshape(3, 2, 3, 2, c, 4 * out).transpose(0, 2, 1, 3, 4, 5)
    y = lax.conv_general_dilated(
        blocks, wide.reshape(3, 3, 4 * c, 4 * out), (1, 1), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    y = y.reshape(n, h // 2, w // 2, 2, 2, out).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(n, h, w, out)


def formulations(name: str) -> Mapping[str, Callable[[Any, Any], Any]]:
    """What computes a layer."""
    import functools

    from wlsrl_jax import ops

    _, out, size = LAYERS[name]
    op = ops.conv2d if out else ops.depthwise_conv2d
    found: dict[str, Callable[[Any, Any], Any]] = {
        "compiled": op,
        "written out in XLA": functools.partial(op, implementation="xla"),
        "lax, NHWC": lax_conv("NHWC"),
        "lax, NCHW": lax_conv("NCHW"),
    }
    if out and size == 3:
        found |= {"patches, one product": patches, "Winograd in XLA": winograd}
    if name == "first":
        found |= {"space to depth": space_to_depth}
    return found


def case(layer: str, way: str, what: str) -> str:
    """Key of one computation."""
    return f"{layer}, {way}, {what}"


def setup(batch: int) -> tuple[dict[str, Run], dict[str, Any]]:
    """Every computation, after each was compared with the compiled one."""
    import jax

    def repeat(f: Any, *arguments: Any) -> Run:
        def run(count: int) -> None:
            for _ in range(count):
                result = f(*arguments)
            jax.block_until_ready(result)

        return run

    runs: dict[str, Run] = {}
    rng = np.random.default_rng(0)
    for layer, ((side, inputs), out, size) in LAYERS.items():
        shapes = (batch, side, side, inputs), (size, size, inputs if out else 1, out or inputs)
        x, k = (jax.device_put(rng.standard_normal(s, dtype=np.float32)) for s in shapes)
        g = jax.device_put(
            rng.standard_normal((batch, side, side, out or inputs), dtype=np.float32)
        )
        reference: Any = None
        for way, f in formulations(layer).items():

            def both(x: Any, k: Any, g: Any, f: Any = f) -> Any:
                y, vjp = jax.vjp(f, x, k)
                return y, *vjp(g)

            forward, backward = jax.jit(f), jax.jit(both)
            found = jax.device_get(backward(x, k, g))
            reference = found if reference is None else reference
            for a, b in zip(found, reference, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-4 * float(np.max(np.abs(b))))
            runs[case(layer, way, "forward")] = repeat(forward, x, k)
            runs[case(layer, way, "forward+backward")] = repeat(backward, x, k, g)
    return runs, {}


def main() -> None:
    """Runs the benchmark."""
    options = parser(__doc__ or "")
    options.add_argument("--batch", type=int, default=32)
    options.set_defaults(rounds=3, seconds=0.2)
    args = options.parse_args()
    candidate = Candidate(setup, args.batch)
    rows: list[dict[str, Any]] = []
    for layer in LAYERS:
        ways = list(formulations(layer))
        for what in ("forward", "forward+backward"):
            keys = {way: case(layer, way, what) for way in ways}
            counts = {
                way: max(1, round(args.seconds / candidate.seconds(1, key)))
                for way, key in keys.items()
            }
            times: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(args.rounds):
                for way, key in keys.items():
                    times[way].append(candidate.seconds(counts[way], key))
            for way in ways:
                found = zip(times[way], times["compiled"], strict=True)
                rows.append(
                    {
                        "name": keys[way],
                        "ms": spread([1e3 * t for t in times[way]]),
                        "times_compiled": spread([theirs / ours for theirs, ours in found]),
                    }
                )
    candidate.close()
    show(f"formulations, batch {args.batch}, float32", rows, args.json)


if __name__ == "__main__":
    main()
