"""The ONNX graph gives the network's probabilities, whatever the network is made of."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import read_predictions
from wlsrl_jax.data.phantoms.source import PhantomSource
from wlsrl_jax.export.__main__ import main
from wlsrl_jax.export.onnx import onnx_model
from wlsrl_jax.models.by_name import make_model
from wlsrl_jax.models.predictor import make_predict_step
from wlsrl_jax.tasks import make_tasks

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

TASKS = make_tasks("oct", ("CNV", "DME", "DRUSEN", "NORMAL"), "NORMAL")
HEADS = {t.name: t.num_classes for t in TASKS}
NETWORKS = [
    *itertools.product(["dual"], ["concat", "sum", "gated"], ["batch", "group"]),
    *itertools.product(["separable", "standard"], ["concat"], ["batch", "group"]),
]


def session(content):
    return runtime.InferenceSession(content, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("streams", "fusion", "norm"), NETWORKS)
@pytest.mark.parametrize("shape", [(24, 32, 1), (21, 19, 3)])  # odd sides too
def test_every_network(streams, fusion, norm, shape):
    check(shape, streams=streams, fusion=fusion, norm=norm)


@pytest.mark.parametrize("shape", [(40, 48, 1), (37, 50, 3)])
@pytest.mark.parametrize("streams", ["dual", "standard"])
def test_a_resnet(streams, shape):
    check(shape, streams=streams, standard="resnet18", widths=(8, 8, 16, 16), blocks=0)


@pytest.mark.parametrize("shape", [(24, 32, 1), (24, 20, 3)])
def test_space_to_depth(shape):
    check(shape, space_to_depth=2)


def check(shape, **fields):
    model = make_model("tiny", HEADS, conv_implementation="lax", **{"blocks": 2, **fields})
    variables = model.init(jax.random.key(1), jnp.zeros((1, *shape)), train=False)
    rng = np.random.default_rng(0)  # scales and statistics that are not 1 and 0
    variables = jax.tree.map(
        lambda x: np.asarray(x) + (x.ndim == 1) * rng.uniform(0.05, 0.3, x.shape).astype("f4"),
        variables,
    )
    images = rng.integers(0, 256, (5, *shape), dtype=np.uint8)
    expected = make_predict_step(model)(variables, jnp.asarray(images))
    assert all(0.02 < np.max(p) < 0.98 for p in expected.values())  # nothing is saturated
    found = session(onnx_model(model, variables, TASKS, shape, {"note": "x"}))
    for size in (1, 5):
        rows = [found.run(list(HEADS), {"images": images[k : k + size]})
                for k in range(0, 5, size)]  # fmt: skip
        for i, task in enumerate(HEADS):
            joined = np.concatenate([r[i] for r in rows])
            np.testing.assert_allclose(joined, expected[task], atol=1e-5)


def test_every_test_image_of_a_run(finished, tmp_path, capsys):
    main([f"--workdir={finished}", f"--output={tmp_path}", "--onnx"])
    assert "model.onnx" in capsys.readouterr().out
    found = session((tmp_path / "model.onnx").read_bytes())
    assert "PHANTOM" in found.get_modelmeta().custom_metadata_map["note"]
    source = PhantomSource("oct", "test", 50, 32, 32)
    images = np.stack([source[k]["image"] for k in range(50)])
    known = {r["id"]: r for r in read_predictions(finished) if r["split"] == "test"}
    for name, p in zip(("TO1", "TO2"), found.run(["TO1", "TO2"], {"images": images})):
        classes = ["CNV", "DME", "DRUSEN", "NORMAL"] if name == "TO1" else ["normal", "abnormal"]
        expected = [[float(known[source[k]["id"]][f"{name}/{c}"]) for c in classes]
                    for k in range(50)]  # fmt: skip
        np.testing.assert_allclose(p, expected, atol=1e-5)
