"""How the training speed grows with batch, image size, width and devices, with a plot.

python experiments/benchmarks/scaling.py --json=scaling.json --plot=scaling.png
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from harness import Candidate, Run, interleave, parser, ratio, show, spread
from nets import Net, flops, jax_train, torch_train

SMALL = Net(widths=(16, 32, 64, 128))


def jax_devices(net: Net, devices: int) -> tuple[Run, dict[str, Any]]:
    """Training on forced CPU devices, the batch split between them."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    import jax
    from nets import jax_pieces

    from wlsrl_jax.runtime.mesh import batch_sharding, make_mesh, replicated

    _, step, state, batch = jax_pieces(net, "auto")
    mesh = make_mesh()
    assert mesh.size == devices
    held = [jax.device_put(state, replicated(mesh))]
    batch = jax.device_put(batch, batch_sharding(mesh))
    step = jax.jit(step, donate_argnums=0, out_shardings=(replicated(mesh), None))

    def run(count: int) -> None:
        for _ in range(count):
            held[0], metrics = step(held[0], batch)
        jax.block_until_ready(metrics)

    return run, {}


def sweep() -> dict[str, list[tuple[float, Net]]]:
    """Axis -> (value, net)."""
    return {
        "batch": [(b, Net(batch=b)) for b in (1, 4, 16, 64, 256)],
        "image size": [(s, Net(size=s, batch=8)) for s in (32, 64, 128, 224)],
        "first width": [
            (w, Net(widths=(w, 2 * w, 4 * w, 8 * w))) for w in (8, 16, 32, 48)
        ],
    }  # fmt: skip


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """One panel an axis: GFLOP a second, ours and PyTorch's."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = list(dict.fromkeys(row["axis"] for row in rows))
    figure, panels = pyplot.subplots(1, len(axes), figsize=(3.4 * len(axes), 3), sharey=True)
    for panel, axis in zip(panels, axes, strict=True):
        points = [row for row in rows if row["axis"] == axis]
        values = [row["value"] for row in points]
        for key, label, style in (
            ("gflop_per_s", "wlsrl_jax", "o-"),
            ("torch_gflop_per_s", "PyTorch eager", "s--"),
        ):
            found = [(v, row[key]) for v, row in zip(values, points, strict=True) if key in row]
            if found:
                x, spreads = zip(*found, strict=True)
                panel.plot(x, [s["median"] for s in spreads], style, label=label)
                panel.fill_between(
                    x, [s["min"] for s in spreads], [s["max"] for s in spreads], alpha=0.2
                )
        panel.set_xscale("log", base=2)
        panel.set_xticks(values, [str(v) for v in values])
        panel.minorticks_off()
        panel.set_xlabel(axis)
        panel.grid(alpha=0.3)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("training, GFLOP/s")
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Runs the benchmark."""
    options = parser(__doc__ or "")
    options.add_argument("--plot", type=Path)
    options.set_defaults(rounds=3, seconds=0.7)
    args = options.parse_args()
    rows: list[dict[str, Any]] = []
    for axis, points in sweep().items():
        for value, net in points:
            candidates = {
                "ours": Candidate(jax_train, net, "auto"),
                "torch": Candidate(torch_train, net, False),
            }
            times = interleave(candidates, args.rounds, args.seconds)
            work = 3 * flops(net) * net.batch / 1e9
            rows.append(
                {
                    "name": f"{axis} {value}",
                    "axis": axis,
                    "value": value,
                    "images_per_s": spread([net.batch / t for t in times["ours"]]),
                    "gflop_per_s": spread([work / t for t in times["ours"]]),
                    "torch_gflop_per_s": spread([work / t for t in times["torch"]]),
                    "ratio_to_torch_eager": ratio(times, "ours", "torch"),
                }
            )
            for candidate in candidates.values():
                candidate.close()
    devices = {str(d): Candidate(jax_devices, SMALL, d) for d in (1, 2, 4, 8)}
    times = interleave(devices, args.rounds, args.seconds)
    for count, candidate in devices.items():
        rows.append(
            {
                "name": f"devices {count}",
                "axis": "forced devices",
                "value": int(count),
                "images_per_s": spread([SMALL.batch / t for t in times[count]]),
                "gflop_per_s": spread(
                    [3 * flops(SMALL) * SMALL.batch / 1e9 / t for t in times[count]]
                ),
            }
        )
        candidate.close()
    show("training as work grows, float32", rows, args.json)
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
