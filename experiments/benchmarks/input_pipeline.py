"""Decode, resize, augment: images a second alone, and what is left of the training speed.

python experiments/benchmarks/input_pipeline.py --json=input_pipeline.json

The records are PNG files of phantoms in memory, of the size that preparation stores. The peer
is PyTorch's DataLoader with the same functions in two worker processes.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from harness import Candidate, Run, interleave, parser, ratio, show, spread
from nets import HEADS, Net, jax_pieces

from wlsrl_jax.data.augment import Augmentation, augment

RECORDS = 256
RANGES = Augmentation(rotation=10.0, shift=0.05, scale=0.1, brightness=0.1, contrast=0.2, gamma=0.2)


class Records:
    """Encoded colour phantoms, decoded when asked for."""

    def __init__(self, side: int) -> None:
        from PIL import Image

        from wlsrl_jax.data.phantoms.source import render

        self.files = []
        for k in range(RECORDS):
            image, _ = render("fundus", k % 5, np.random.default_rng(k), side, side)
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            self.files.append(buffer.getvalue())

    def __len__(self) -> int:
        return 10**6

    def __getitem__(self, index: int) -> dict[str, Any]:
        import cv2

        data = np.frombuffer(self.files[index % RECORDS], np.uint8)
        image = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        return {"image": image, "label": index % 5, "id": str(index), "group": str(index)}


def batches(size: int, batch: int, threads: int = 2) -> Any:
    """The project's own stream over these records."""
    from wlsrl_jax.data.batches import train_batches

    return iter(
        train_batches(
            Records(size), image_size=(size, size), ranges=RANGES, global_batch_size=batch, seed=0,
            num_threads=threads,
        )
    )  # fmt: skip


def grain_alone(size: int, batch: int) -> tuple[Run, dict[str, Any]]:
    """Batches, thrown away."""
    stream = batches(size, batch)

    def run(count: int) -> None:
        for _ in range(count):
            next(stream)

    return run, {}


class TorchRecords:
    """The same records and changes as a PyTorch data set."""

    def __init__(self, size: int) -> None:
        self.records, self.size = Records(size), size

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        record = self.records[index]
        rng = np.random.default_rng(index)
        return augment(record["image"], self.size, self.size, RANGES, rng), record["label"]


def torch_alone(size: int, batch: int) -> tuple[Run, dict[str, Any]]:
    """Batches of a DataLoader, thrown away."""
    from torch.utils.data import DataLoader

    loader = DataLoader(TorchRecords(size), batch, shuffle=True, num_workers=2)  # type: ignore
    stream = iter(loader)

    def run(count: int) -> None:
        for _ in range(count):
            next(stream)

    return run, {}


def training(size: int, batch: int, fed: bool) -> tuple[Run, dict[str, Any]]:
    """Training steps on one batch that lies on the device, or on the stream."""
    import jax

    from wlsrl_jax.runtime.mesh import make_mesh, to_global

    _, step, state, resting = jax_pieces(Net(size=size, batch=batch), "auto")
    step = jax.jit(step, donate_argnums=0)
    stream, mesh, held = batches(size, batch), make_mesh(), [state]

    def run(count: int) -> None:
        for _ in range(count):
            if fed:
                found = next(stream)
                labels = {t: (found["label"] % c).astype(np.int32) for t, c in HEADS.items()}
                held[0], out = step(
                    held[0], to_global({"image": found["image"], "labels": labels}, mesh)
                )
            else:
                held[0], out = step(held[0], resting)
        jax.block_until_ready(out)

    return run, {}


def main() -> None:
    """Runs the benchmark."""
    options = parser(__doc__ or "")
    options.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    options.add_argument("--batch", type=int, default=32)
    args = options.parse_args()
    rows: list[dict[str, Any]] = []
    for size in args.sizes:
        candidates = {
            "input alone": Candidate(grain_alone, size, args.batch),
            "torch DataLoader": Candidate(torch_alone, size, args.batch),
            "bare step": Candidate(training, size, args.batch, False),
            "end to end": Candidate(training, size, args.batch, True),
        }
        times = interleave(candidates, args.rounds, args.seconds)
        for name, candidate in candidates.items():
            row: dict[str, Any] = {"name": f"{name}, {size} px"}
            row["images_per_s"] = spread([args.batch / t for t in times[name]])
            if name == "input alone":
                row["ratio_to_torch"] = ratio(times, name, "torch DataLoader")
                row["ratio_to_training"] = ratio(times, name, "bare step")
            if name == "end to end":
                row["fraction_of_bare_step"] = ratio(times, name, "bare step")
            rows.append(row)
            candidate.close()
    show(f"input, batch {args.batch}", rows, args.json)


if __name__ == "__main__":
    main()
