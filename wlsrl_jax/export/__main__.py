"""A trained model as one file that runs without this package.

    wlsrl export --workdir=RUN --output=DIR

writes ``model.stablehlo`` (``jax.export``: weights inside, any batch size, for cpu, cuda and tpu),
``model.json`` (what goes in and what comes out) and ``run_model.py``, which needs only jax, numpy,
flatbuffers, OpenCV and Pillow, with ``read_image.py`` and ``pixels.py`` beside it, which are those
of this package.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from wlsrl_jax import cli
from wlsrl_jax.data.images import pixels, read_image
from wlsrl_jax.evaluate.statistics import NAME as STATISTICS
from wlsrl_jax.export import run_model as exported_model
from wlsrl_jax.export.onnx import onnx_model
from wlsrl_jax.files import Mistake, read_json, write_json, write_whole
from wlsrl_jax.models.by_name import build_network
from wlsrl_jax.models.predictor import make_predict_step
from wlsrl_jax.runs.documents import read_temperatures
from wlsrl_jax.runs.input import input_spec
from wlsrl_jax.runs.open import TrainedRun, load_trained, untrained_note
from wlsrl_jax.runtime.version import VERSION

PLATFORMS = ("cpu", "cuda", "tpu")
FILES = ("model.stablehlo", "model.json", "run_model.py", "read_image.py", "pixels.py")


def serialize(run: TrainedRun) -> bytes:
    """Lowers the forward pass of a run with its weights.

    Args:
      run: the run.

    Returns:
      A serialized ``jax.export.Exported`` of a function of uint8 ``[b, H, W, C]`` giving
      task -> float32 probabilities ``[b, classes]``, for any b and every platform.
    """
    # Kernels compiled for this processor stay here: what is written out in XLA runs anywhere, and
    # accelerators get the plain convolution (``ops/convolution.py``).
    config = run.config.copy_and_resolve_references()
    config.model.conv_implementation = "xla"
    # The network has its untrained heads too, which answer nothing.
    model = build_network(config, dict(run.model.heads))
    predict = make_predict_step(model, mirror=config.eval.mirror)
    names = [task.name for task in run.tasks]
    variables = jax.tree.map(jnp.asarray, run.variables)
    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *run.image_shape), jnp.uint8)

    def answer(images: jax.Array) -> dict[str, jax.Array]:
        found = predict(variables, images)
        return {name: found[name] for name in names}

    function = jax.jit(answer)
    return bytes(export.export(function, platforms=PLATFORMS)(images).serialize())


def describe(run: TrainedRun, artifact: bytes) -> dict[str, Any]:
    """The content of ``model.json``: all that a caller must know."""
    spec = input_spec(run)
    statistics = run.workdir / STATISTICS
    calibration = read_temperatures(statistics) if statistics.exists() else {}
    height, width, channels = run.image_shape
    return {
        "note": run.note,
        "use": "research use only: no medical device, not for decisions about patients",
        "dataset": run.data["dataset"],
        "modality": run.modality,
        "input": {
            "type": "uint8",
            "shape": ["batch", height, width, channels],
            "channels": "grey" if channels == 1 else "RGB",
            "steps": [
                *(["crop to the round field, pad to a square"] if spec.cropped else []),
                *(f"preprocess: {step} (pixels.py)" for step in spec.preprocess),
                *([f"resize to {spec.prepared_size[0]}x{spec.prepared_size[1]} (area)"]
                  if spec.prepared_size else []),
                f"resize to {height}x{width} (area when shrinking, else linear)",
            ],
            "cropped": spec.cropped,
            "prepared_size": spec.prepared_size,
            "preprocess": spec.preprocess,
            "pixel_bits": str(spec.pixel_range or ""),
            "normalisation": "inside the model",
        },
        "output": {
            t.name: {
                "classes": t.classes,
                "ordinal": t.ordinal,
                "temperature": calibration.get(t.name),
            }
            for t in run.tasks
        },
        "left_out": untrained_note(run),
        "platforms": PLATFORMS,
        "sha256": hashlib.sha256(artifact).hexdigest(),
        "made_with": {"wlsrl_jax": VERSION, "jax": jax.__version__},
        "compatibility": "jax reads exported functions for at least six months after the release "
        "that wrote them; keep the workdir to export anew",
    }  # fmt: skip


def export_run(
    run: TrainedRun, output: Path, *, onnx: bool = False, overwrite: bool = False
) -> Path:
    """Writes the files of an exported model.

    Args:
      run: the run.
      output: folder, made if it does not exist.
      onnx: write ``model.onnx`` as well.
      overwrite: replace another model there.

    Returns:
      The folder.

    Raises:
      Mistake: if another model lies there.
    """
    artifact = serialize(run)
    description = json.loads(json.dumps(describe(run, artifact)))
    there = output / "model.json"
    if (
        there.exists()
        and not overwrite
        and read_json(there, remedy="name another --output")["output"] != description["output"]
    ):
        raise Mistake(f"--output={output} holds another model; --overwrite replaces it.")
    files = [
        ("model.stablehlo", artifact),
        ("run_model.py", inspect.getsource(exported_model).encode()),
        ("read_image.py", inspect.getsource(read_image).encode()),
        ("pixels.py", inspect.getsource(pixels).encode()),
    ]
    if onnx:
        notes = {"note": description["note"], "use": description["use"]}
        content = onnx_model(
            run.model,
            run.variables,
            run.tasks,
            run.image_shape,
            notes,
            mirror=run.config.eval.mirror,
        )
        files.append(("model.onnx", content))
    output.mkdir(parents=True, exist_ok=True)
    for name, content in files:
        write_whole(output / name, content)
    write_json(there, description)  # last: it has the digest of the artifact
    return output


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = cli.Parser("export", description="A model as one file.")
    cli.add_workdir(parser)
    parser.add_argument("--output", type=cli.output_folder, required=True, help="folder to write")
    parser.add_argument("--onnx", action="store_true", help="write model.onnx as well")
    parser.add_argument("--overwrite", action="store_true", help="replace another model there")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    args = make_parser().parse_args(argv)
    run = load_trained(args.workdir)
    folder = export_run(run, args.output, onnx=args.onnx, overwrite=args.overwrite)
    for note in filter(None, (run.note, untrained_note(run))):
        print(note)
    names = [*FILES, *(["model.onnx"] if args.onnx else [])]
    sizes = [f"{name} ({(folder / name).stat().st_size / 1e6:.2f} MB)" for name in names]
    print(f"{folder}: {', '.join(sizes)}")


if __name__ == "__main__":
    cli.run_command(main)
