"""Seconds and peak memory of the audit and the preparation of a folder, as the folder grows.

python experiments/benchmarks/prepare.py --json=prepare.json --folder=DIR

The images are phantoms of 96 x 128 pixels as JPEG files, in a folder a class, with a table that
has a column of patients, three images each. They are drawn once and read again by later runs.
"""

from __future__ import annotations

import contextlib
import csv
import io
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import measure, parser, show

TABLE = "labels.csv"
HEIGHT, WIDTH = 96, 128
IMAGES_A_PATIENT = 3
_AT_A_TIME = 500


def draw(folder: Path, modality: str, size: int, indices: range) -> list[tuple[str, str, str]]:
    """Draws phantoms and saves them; returns the rows of the table."""
    from PIL import Image

    from wlsrl_jax.data.phantoms import source as phantom

    source = phantom.PhantomSource(modality, "train", size, HEIGHT, WIDTH)
    rows = []
    for k in indices:
        example = source[k]
        label = phantom.PHANTOMS[modality].classes[example["label"]]
        path = folder / label / f"{k:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = example["image"]
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "JPEG")
        path.write_bytes(buffer.getvalue())
        rows.append((f"{label}/{path.name}", label, f"patient{k // IMAGES_A_PATIENT}"))
    return rows


def phantoms(folder: Path, modality: str, size: int) -> Path:
    """Returns a folder of so many phantoms, drawn unless it is there: its table is written last."""
    here = folder / f"{modality}_{size}"
    if (here / TABLE).exists():
        return here
    parts = [range(k, min(k + _AT_A_TIME, size)) for k in range(0, size, _AT_A_TIME)]
    # In processes of their own, which also keeps this one small: a child's peak starts at its.
    with multiprocessing.get_context("spawn").Pool() as pool:
        rows = pool.starmap(draw, [(here, modality, size, part) for part in parts])
    unfinished = here / f"{TABLE}.part"
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "patient"])
        for part in rows:
            table.writerows(part)
    unfinished.replace(here / TABLE)
    return here


@contextlib.contextmanager
def _given_or_temporary(folder: Path | None) -> Iterator[Path]:
    if folder:
        yield folder.resolve()
    else:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)


def main() -> None:
    """Runs the benchmark."""
    options = parser(__doc__ or "")
    options.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    options.add_argument("--folder", type=Path, help="of the phantoms, to be used again")
    options.add_argument("--modality", choices=["oct", "fundus"], default="oct")
    args = options.parse_args()
    rows: list[dict[str, Any]] = []
    with _given_or_temporary(args.folder) as folder:
        for size in args.sizes:
            source = phantoms(folder, args.modality, size)
            flags = ["--dataset=folder", f"--modality={args.modality}", f"--source={source}",
                     f"--table={TABLE}", "--patient_column=patient"]  # fmt: skip
            for command in ("audit", "prepare"):
                with tempfile.TemporaryDirectory(dir=folder) as written:
                    where = {"audit": "output", "prepare": "data_dir"}[command]
                    seconds, peak, text = measure(
                        [sys.executable, "-m", f"wlsrl_jax.data.{command}", *flags,
                         f"--{where}={written}"]
                    )  # fmt: skip
                pairs = [line for line in text.splitlines() if line.startswith("near-identical")]
                print(f"{command} {size}: {seconds:.1f} s, {peak:.0f} MiB; {' '.join(pairs)}")
                rows.append(
                    {
                        "name": f"{command}, {size:,} images",
                        "seconds": seconds,
                        "images_per_s": size / seconds,
                        "peak_mib": peak,
                    }
                )
    show("preparing a folder", rows, args.json)


if __name__ == "__main__":
    main()
