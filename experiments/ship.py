"""Puts a finished run on OCTDL into the package, with the numbers that tests hold it to.

    python experiments/ship.py --workdir=RUN --data_dir=DIR [--note=TEXT]

writes ``wlsrl_jax/runs/shipped/octdl/`` and, in ``tests/runs/shipped/``, what it answers to eight
phantoms and to the test split. With ``--hashes_only`` it only writes what the model that is there
was trained on (``trained_on.json``), and its card. Ids are hashed; OCTDL is CC BY 4.0 (Kulyabin et
al., Scientific Data 11:365, 2024, doi 10.1038/s41597-024-03182-7).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from wlsrl_jax.cli import run_command
from wlsrl_jax.data.dataset import load_dataset
from wlsrl_jax.data.phantoms.source import PhantomSource
from wlsrl_jax.evaluate.predict_split import predict_split
from wlsrl_jax.evaluate.predictions import Predictions, probability_columns
from wlsrl_jax.export.pack import pack
from wlsrl_jax.files import Mistake, write_json, write_whole
from wlsrl_jax.models.predictor import make_predict_step
from wlsrl_jax.report.model_card import NAME as CARD
from wlsrl_jax.report.model_card import model_card
from wlsrl_jax.runs import packed, provenance
from wlsrl_jax.runs.input import input_spec, to_input
from wlsrl_jax.runs.open import TrainedRun, load_trained
from wlsrl_jax.runs.open_data import open_dataset
from wlsrl_jax.runtime.mesh import make_mesh

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "wlsrl_jax" / "runs" / "shipped" / "octdl"
PHANTOMS = ROOT / "tests" / "runs" / "shipped" / "octdl_phantoms.json"
TEST_SPLIT = ROOT / "tests" / "runs" / "shipped" / "octdl_test.csv"
SIZE = (128, 256)  # of the phantoms, pixels
COUNT, SEED = 8, 11


def phantom_answers(run: TrainedRun) -> dict[str, np.ndarray]:
    """What a run says of the fixed phantoms.

    Args:
      run: of OCT.

    Returns:
      Task -> probabilities ``[COUNT, C]``.
    """
    source, spec = PhantomSource("oct", "test", COUNT, *SIZE, seed=SEED), input_spec(run)
    images = [to_input(Image.fromarray(source[k]["image"][..., 0]), spec) for k in range(COUNT)]
    found = run.predictor()(jnp.asarray(np.stack(images)))
    return {task.name: np.asarray(found[task.name]) for task in run.tasks}


def split_answers(run: TrainedRun, data_dir: str) -> Predictions:
    """Predictions of the test split of a preparation, whose fingerprint may be another.

    Args:
      run: the run.
      data_dir: of prepared data.

    Returns:
      The predictions.
    """
    data = run.config.copy_and_resolve_references().data
    data.data_dir = data_dir
    return predict_split(
        jax.jit(make_predict_step(run.model, mirror=run.config.eval.mirror)),
        run.variables,
        load_dataset(data, run.modality).splits["test"],
        run.tasks,
        image_size=run.image_shape[:2],
        batch_size=run.config.eval.batch_size,
        mesh=make_mesh(1),
    )


def hashed(name: str) -> str:
    """The first 8 bytes of the SHA-256 of an id, in hexadecimal digits."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _table(run: TrainedRun, predictions: Predictions) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["id", *probability_columns(run.tasks)])
    values = np.concatenate([predictions.probabilities[t.name] for t in run.tasks], axis=1)
    rows = [
        [hashed(name), *(f"{v:.9f}" for v in row)]
        for name, row in zip(predictions.ids.tolist(), values.tolist(), strict=True)
    ]
    writer.writerows(sorted(rows))
    return file.getvalue()


def _phantom_document(run: TrainedRun) -> dict[str, Any]:
    found = phantom_answers(run)
    return {
        "size": SIZE,
        "seed": SEED,
        "probabilities": {t: [[round(v, 9) for v in row] for row in p.tolist()]
                          for t, p in found.items()},
    }  # fmt: skip


def write_hashes(data_dir: str) -> None:
    """Writes what the shipped model was trained on, and its card, from its very preparation.

    Args:
      data_dir: of prepared data.

    Raises:
      Mistake: if they were divided otherwise.
    """
    dataset = open_dataset(load_trained(MODEL), data_dir)
    seen = provenance.of_dataset(provenance.name_of(MODEL), dataset)
    note = packed.read_mark(MODEL)["note"]
    write_json(MODEL / provenance.NAME, provenance.content(seen))
    packed.write_mark(MODEL, note)  # the card is made from the packed run
    write_whole(MODEL / CARD, model_card(MODEL, data_dir).encode())
    packed.write_mark(MODEL, note)


def _main(argv: Sequence[str] | None) -> None:
    parser = argparse.ArgumentParser(prog="python experiments/ship.py", description=__doc__)
    parser.add_argument("--workdir", type=Path, help="of a finished run on OCTDL")
    parser.add_argument("--data_dir", required=True, help="of the prepared data")
    parser.add_argument("--note", default="", help="a sentence that is told where it is used")
    parser.add_argument("--hashes_only", action="store_true", help="of the model that is there")
    args = parser.parse_args(argv)
    if args.hashes_only == bool(args.workdir):
        raise Mistake("give either --workdir=RUN or --hashes_only.")
    if args.hashes_only:
        write_hashes(args.data_dir)
        return
    if jax.default_backend() != "cpu":
        raise ValueError("the numbers for the tests are those of a CPU: set JAX_PLATFORMS=cpu.")
    pack(args.workdir, MODEL, note=args.note, data_dir=args.data_dir)
    run = load_trained(MODEL)
    PHANTOMS.parent.mkdir(exist_ok=True)
    write_json(PHANTOMS, _phantom_document(run))
    table = _table(run, split_answers(run, args.data_dir))
    write_whole(TEST_SPLIT, table.encode())
    for path in (*sorted(MODEL.iterdir()), PHANTOMS, TEST_SPLIT):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    run_command(_main)
