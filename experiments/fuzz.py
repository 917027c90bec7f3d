"""Feeds damaged images and label tables to the readers.

    python experiments/fuzz.py --count=10000 --seed=0

Input k of a seed is always the same. A reader may accept it, or refuse it with a message (and
for a table, its name); anything else, ten seconds of work or too much memory is a failure,
whose input is written to the current directory. Exit status 0 only without failures.
"""

from __future__ import annotations

import argparse
import collections
import io
import logging
import random
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from wlsrl_jax.data.images.decode import BadImageError, decode, open_image, presize
from wlsrl_jax.data.images.read_image import RangeError, Wide, decide_range
from wlsrl_jax.data.tables import read_table

SECONDS = 10
MEMORY = 2 * 2**30  # bytes, peak of the whole process
COLUMNS = ("file_name", "disease", "patient_id")
FAILED_ONCE = ((1, 110929), (1, 188471))  # (seed, input): a side of a million pixels; always tried


def peak_memory() -> int:
    """Peak of this process, bytes.

    Where Linux tells it, from /proc: getrusage's begins with that of the process which started
    this one.
    """
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _originals() -> list[bytes]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
    out = []
    for image in (Image.fromarray(pixels), Image.fromarray(pixels[..., 0])):
        for kind, options in (
            ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("BMP", {}), ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ):  # fmt: skip
            buffer = io.BytesIO()
            image.save(buffer, kind, **options)
            out.append(buffer.getvalue())
    deep = Image.fromarray(rng.integers(0, 65535, (40, 48)).astype(np.uint16))
    for image in (
        deep,
        Image.fromarray(pixels).quantize(8),
        Image.fromarray(pixels).convert("RGBA"),
    ):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        out.append(buffer.getvalue())
    return out


ORIGINALS = _originals()
TABLE = b'file_name,disease,patient_id\namd_1,AMD,1\n"no_2",NO,2\n\xc3\xa4_3,"a,b",3\n'
_PIECES = (b"\0", b"\n", b'"', b",", b"\r", b"\xff\xfe", b"\xef\xbb\xbf", b"../../etc/passwd",
           b"1e999", b"=cmd()", b"\xed\xa0\x80", b"a" * 200_000)  # fmt: skip


def mutate(data: bytes, rng: random.Random, pieces: tuple[bytes, ...] = ()) -> bytes:
    """Damages some bytes: cut, flipped, repeated, overwritten by extreme numbers, spliced in."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at = rng.randrange(len(out) or 1)
        # What stands at the beginning says how the rest is to be read.
        at = rng.choice([at, min(at, 64), min(at, 512)])
        match rng.randrange(6):
            case 0:
                del out[at:]
            case 1 if out:
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                out[at : at + 4] = rng.choice(
                    [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"]
                )
            case 3:
                out[at:at] = out[at : at + rng.randrange(1, 64)] * rng.choice([1, 3, 50])
            case 4:
                out[at : at + rng.randrange(1, 32)] = rng.randbytes(rng.randrange(16))
            case 5 if pieces:
                out[at:at] = rng.choice(pieces)
    return bytes(out)


def try_image(data: bytes) -> str:
    """Reads an image; returns what came of it."""
    for channels in (1, 3):
        try:
            opened = open_image(data)
            extents = [opened.extent] if isinstance(opened, Wide) and opened.extent else []
            pixel_range = decide_range(extents)
            out = decode(data, channels, 0, pixel_range)
        except (BadImageError, RangeError) as error:
            if not str(error):
                raise AssertionError("an error without a reason") from error
            return "refused"
        if out.dtype != np.uint8 or out.ndim != 3 or out.shape[2] != channels:
            raise AssertionError(f"not an image: {out.shape} {out.dtype}")
    presize(data, "fundus", 32, 32, (), 0, pixel_range)
    return "accepted"


def try_table(data: bytes, folder: Path) -> str:
    """Reads a table; returns what came of it."""
    path = folder / "table.csv"
    path.write_bytes(data)
    try:
        rows = read_table(path, COLUMNS)
    except ValueError as error:
        if str(path) not in str(error):
            raise AssertionError("the message does not name the file") from error
        return "refused"
    if not all(set(row) == set(COLUMNS) for row in rows):
        raise AssertionError("rows without their columns")
    return "accepted"


def fuzz(count: int, seed: int, save: Path | None = None) -> tuple[dict[str, int], list[str]]:
    """Runs the readers on damaged inputs.

    Args:
      count: of inputs.
      seed: of the damage.
      save: where inputs that failed are written.

    Returns:
      (how often what came of it, failures).
    """
    counts: collections.Counter[str] = collections.Counter()
    failures = []

    def late(*_: object) -> None:
        raise AssertionError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    with tempfile.TemporaryDirectory() as name:
        for seed, k in (*FAILED_ONCE, *((seed, k) for k in range(count))):
            rng = random.Random(f"{seed}/{k}")
            if k % 4:
                kind, data = "image", mutate(rng.choice(ORIGINALS), rng)
                run: Callable[[], str] = lambda data=data: try_image(data)  # noqa: E731
            else:
                kind, data = "table", mutate(TABLE, rng, _PIECES)
                run = lambda data=data: try_table(data, Path(name))  # noqa: E731
            signal.alarm(SECONDS)
            try:
                counts[f"{kind} {run()}"] += 1
            except Exception as error:
                failures.append(f"seed {seed}, input {k}, {kind}: {type(error).__name__}: {error}")
                if save:
                    (save / f"fuzz-{seed}-{k}.{kind}").write_bytes(data)
            finally:
                signal.alarm(0)
    peak = peak_memory()
    if peak > MEMORY:
        failures.append(f"peak memory {peak / 2**20:.0f} MiB")
    return dict(sorted(counts.items())), failures


def main() -> int:
    """Runs the experiment; returns the exit status."""
    parser = argparse.ArgumentParser(description="Feed damaged files to the readers.")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # libtiff and Pillow have a lot to say
    counts, failures = fuzz(args.count, args.seed, Path())
    for name, number in counts.items():
        print(f"{name}: {number}")
    for failure in failures:
        print(failure)
    peak = peak_memory() / 2**20
    tried = sum(counts.values()) + len(failures)
    print(f"{tried} inputs, {len(failures)} failures, peak memory {peak:.0f} MiB")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
