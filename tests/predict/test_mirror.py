"""Predictions that are means over an image and its mirror image are the same everywhere."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.export.test_onnx import HEADS, TASKS
from tests.predict.test_predict import assert_as_evaluated, rows_of, write_phantoms
from tests.tiny import run
from wlsrl_jax.data.phantoms.source import PhantomSource
from wlsrl_jax.evaluate.external import evaluate_run
from wlsrl_jax.export.__main__ import export_run
from wlsrl_jax.export.__main__ import main as export
from wlsrl_jax.export.run_model import load
from wlsrl_jax.models.by_name import make_model
from wlsrl_jax.models.predictor import make_predict_step
from wlsrl_jax.predict import __main__ as predict
from wlsrl_jax.runs.open import load_trained
from wlsrl_jax.runtime.stop import StopRequest


@pytest.fixture(scope="module")
def network():
    model = make_model("tiny", HEADS, conv_implementation="lax")
    variables = model.init(jax.random.key(1), jnp.zeros((1, 24, 33, 1)), train=False)
    rng = np.random.default_rng(0)  # scales and statistics that are not 1 and 0
    variables = jax.tree.map(
        lambda x: np.asarray(x) + (x.ndim == 1) * rng.uniform(0.05, 0.3, x.shape).astype("f4"),
        variables,
    )
    return model, variables, rng.integers(0, 256, (5, 24, 33, 1), dtype=np.uint8)


def test_the_mean_over_both_sides(network):
    model, variables, images = network
    plain, both = (make_predict_step(model, mirror=m) for m in (False, True))
    mirrored = images[:, :, ::-1]
    own, other = plain(variables, images), plain(variables, mirrored)
    found, again = both(variables, images), both(variables, mirrored)
    for task in HEADS:
        assert np.abs(own[task] - other[task]).max() > 1e-3  # the network itself has sides
        np.testing.assert_allclose(found[task], (own[task] + other[task]) / 2, atol=1e-6)
        np.testing.assert_allclose(found[task], again[task], atol=1e-6)


def test_onnx(network):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from wlsrl_jax.export.onnx import onnx_model

    model, variables, images = network
    content = onnx_model(model, variables, TASKS, (24, 33, 1), {"note": "x"}, mirror=True)
    assert len(content) < 1.1 * len(onnx_model(model, variables, TASKS, (24, 33, 1), {}))
    found = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    expected = make_predict_step(model, mirror=True)(variables, images)
    for size in (1, 5):
        for i, task in enumerate(HEADS):
            rows = [
                found.run(list(HEADS), {"images": images[k : k + size]})[i]
                for k in range(0, 5, size)
            ]
            np.testing.assert_allclose(np.concatenate(rows), expected[task], atol=1e-5)


def test_the_onnx_file_of_a_run(finished, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    trained = load_trained(finished)
    trained.config.eval.mirror = True
    export_run(trained, tmp_path, onnx=True)
    source = PhantomSource("oct", "test", 50, 32, 32)
    pixels = np.stack([source[k]["image"] for k in range(5)])
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    expected = trained.predictor()(pixels)
    for task, found in zip(expected, session.run(list(expected), {"images": pixels}), strict=True):
        np.testing.assert_allclose(found, expected[task], atol=1e-5)


def test_a_run_predicts_and_exports_what_it_evaluates(tmp_path):
    workdir = tmp_path / "run"
    document = run(workdir, eval__mirror=True)
    again = evaluate_run(workdir, StopRequest())  # as the run's own field says
    for task, values in document["test"].items():
        assert again["test"][task]["log_loss"] == values["log_loss"]
    images, output = write_phantoms(tmp_path / "images", 50), tmp_path / "out.csv"
    arguments = [f"--workdir={workdir}", f"--output={output}", "--modality_check=off", str(images)]
    assert predict.main(arguments) == 0
    assert_as_evaluated(rows_of(output), workdir)
    export([f"--workdir={workdir}", f"--output={tmp_path / 'exported'}"])
    function, about = load(tmp_path / "exported")
    source = PhantomSource("oct", "test", 50, 32, 32)
    pixels = np.stack([source[k]["image"] for k in range(50)])
    found = function(pixels)
    known = {row["path"].rsplit("/", 1)[1].rsplit("-", 1)[0]: row for row in rows_of(output)}
    for task, described in about["output"].items():
        rows = [known[source[k]["id"]] for k in range(50)]
        expected = [[float(r[f"{task}/{c}"]) for c in described["classes"]] for r in rows]
        np.testing.assert_allclose(found[task], expected, atol=1e-5)
    assert json.loads((workdir / "config.json").read_text())["eval"]["mirror"] is True
