"""Size and latency of an exported model: the network itself, StableHLO, ONNX.

python experiments/benchmarks/export.py --workdir=runs/oct-phantom --json=export.json

All run in one process, in turn, with the threads that each takes by itself; a ratio is how many
times as long as the network itself a call takes in the same round.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from harness import Candidate, Run, parser, show, spread

BATCHES = (1, 32)
WAYS = {"network": "", "StableHLO": "model.stablehlo", "ONNX Runtime": "model.onnx"}


def setup(workdir: str, folder: str) -> tuple[dict[str, Run], dict[str, Any]]:
    """Every way at every batch size, after all gave the same probabilities."""
    import onnxruntime

    from wlsrl_jax.export.__main__ import export_run
    from wlsrl_jax.export.run_model import load
    from wlsrl_jax.runs.open import load_trained

    run = load_trained(Path(workdir))
    export_run(run, Path(folder), onnx=True)
    names = [t.name for t in run.tasks]
    predict, (artifact, _) = run.predictor(), load(folder)
    session = onnxruntime.InferenceSession(
        str(Path(folder) / "model.onnx"), providers=["CPUExecutionProvider"]
    )

    def from_jax(function: Any) -> Any:
        return lambda images: [np.asarray(function(images)[n]) for n in names]

    ways = {
        "network": from_jax(predict),
        "StableHLO": from_jax(artifact),
        "ONNX Runtime": lambda images: session.run(names, {"images": images}),
    }
    runs: dict[str, Run] = {}
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        images = rng.integers(0, 256, (batch, *run.image_shape), dtype=np.uint8)
        expected = ways["network"](images)
        for way, call in ways.items():
            for a, b in zip(call(images), expected, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-5)

            def repeat(count: int, call: Any = call, images: Any = images) -> None:
                for _ in range(count):
                    call(images)

            runs[f"{way}, batch {batch}"] = repeat
    return runs, {}


def main() -> None:
    """Runs the benchmark."""
    options = parser(__doc__ or "")
    options.add_argument("--workdir", required=True, help="of a finished run")
    options.set_defaults(rounds=5, seconds=0.3)
    args = options.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        candidate = Candidate(setup, args.workdir, folder)
        for batch in BATCHES:
            keys = {way: f"{way}, batch {batch}" for way in WAYS}
            counts = {
                w: max(1, round(args.seconds / candidate.seconds(1, k))) for w, k in keys.items()
            }
            times: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(args.rounds):
                for way, key in keys.items():
                    times[way].append(candidate.seconds(counts[way], key))
            for way, file in WAYS.items():
                rounds = zip(times[way], times["network"], strict=True)
                rows.append(
                    {
                        "name": keys[way],
                        "ms": spread([1e3 * t for t in times[way]]),
                        "times_network": spread([a / b for a, b in rounds]),
                        "file_mb": (Path(folder) / file).stat().st_size / 1e6 if file else None,
                    }
                )
        candidate.close()
    show("exported model", rows, args.json)


if __name__ == "__main__":
    main()
