"""The trunks that are not plain: alone, beside a plain one, and as runs."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from tests.tiny import read_predictions, run
from wlsrl_jax.data.phantoms.source import PhantomSource
from wlsrl_jax.evaluate import external
from wlsrl_jax.explain import __main__ as explain
from wlsrl_jax.explain.class_maps import grad_cam
from wlsrl_jax.explain.features import features_and_gradients, forward
from wlsrl_jax.export import run_model as exported_model
from wlsrl_jax.export.__main__ import export_run
from wlsrl_jax.losses import make_loss
from wlsrl_jax.models.by_name import make_model
from wlsrl_jax.models.dual_stream import Grader
from wlsrl_jax.models.predictor import normalize
from wlsrl_jax.models.summary import stages
from wlsrl_jax.models.trunks import PlainTrunk, ResNet18
from wlsrl_jax.predict import __main__ as predict
from wlsrl_jax.report.build import build
from wlsrl_jax.report.model_card import model_card
from wlsrl_jax.runs.open import load_trained
from wlsrl_jax.runtime.stop import StopRequest
from wlsrl_jax.training import step as steps

HEADS = {"TO1": 4, "TO2": 2}
NARROW = (4, 8, 8, 12)
RESNET = {"streams": "standard", "standard": "resnet18"}


def network(**fields):
    return make_model("tiny", HEADS, **{**RESNET, "widths": NARROW, **fields})


def beside(**fields):
    """A ResNet-18 as the standard of two streams, whose other has fewer stages."""
    plain = PlainTrunk((8, 16), separable=True, name="separable", **fields)
    resnet = ResNet18(NARROW, name="resnet18", **fields)
    return Grader((plain, resnet), "concat", tuple(HEADS.items()), hidden=16)


def images(shape=(3, 32, 40, 1), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def init(model, x):
    return jax.jit(lambda x: model.init(jax.random.key(0), x, train=False))(x)


def infer(model, variables, x):
    return jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, x)


def started(model, x):
    """Variables with scales, offsets and statistics that are not those of the start."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda p: (
            np.asarray(p) + rng.uniform(0.05, 0.3, p.shape).astype(np.float32) * (p.ndim == 1)
        ),
        init(model, x),
    )


@pytest.mark.parametrize(("channels", "trunk"), [(3, 11_176_512), (1, 11_176_512 - 2 * 49 * 64)])
def test_parameters_are_torchvisions(channels, trunk):
    """torchvision.models.resnet18 has 11,689,512, of which 513,000 are its last layer."""
    model = make_model("medium", HEADS, **RESNET)
    x = jnp.zeros((1, 64, 96, channels))
    variables, out = jax.eval_shape(
        lambda: (v := model.init(jax.random.key(0), x, train=False), model.apply(v, x, train=False))
    )
    count = {k: sum(p.size for p in jax.tree.leaves(v)) for k, v in variables["params"].items()}
    assert count["resnet18"] == trunk
    assert sum(row.parameters for row in stages(model, x.shape[1:])) == sum(count.values())
    assert {task: z.shape for task, z in out.items()} == {"TO1": (1, 4), "TO2": (1, 2)}
    scales = [v["scale"] for v in variables["params"]["resnet18"].values() if "scale" in v]
    assert len(scales) == 1  # of the stem; those of blocks lie deeper


def test_heads_are_the_dual_networks():
    ours, theirs = (
        jax.eval_shape(lambda m=m: m.init(jax.random.key(0), images(), train=False))["params"]
        for m in (network(), make_model("tiny", HEADS))
    )
    for name in ("head_TO1", "head_TO2"):
        assert ours[name] == theirs[name]
    assert ours["shared"]["kernel"].shape == (12, 16)


@pytest.mark.parametrize("shape", [(1, 224, 224, 3), (2, 33, 47, 1), (1, 16, 16, 1)])
def test_the_last_feature_map_is_a_32nd(shape):
    model, x = network(), images(shape)
    trunk = model.trunks[0]
    features = jax.eval_shape(
        lambda: trunk.apply(trunk.init(jax.random.key(0), x, train=False), x, train=False)
    )
    assert features.shape == (shape[0], -(-shape[1] // 32), -(-shape[2] // 32), 12)


def test_blocks_start_as_their_shortcuts():
    model, x = network(), images()
    variables = init(model, x)
    blocks = variables["params"]["resnet18"]
    for name in (n for n in blocks if n.startswith("stage")):
        assert not blocks[name]["norm2"]["scale"].any() and blocks[name]["norm1"]["scale"].all()
    changed = jax.tree.map(lambda p: p, variables)
    changed["params"]["resnet18"]["stage3_block1"]["conv2"]["kernel"] *= 7
    for a, b in zip(*(infer(model, v, x).values() for v in (variables, changed))):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("train", [False, True])
def test_convolution_paths_give_the_same(train):
    x = images((2, 33, 40, 1))
    variables = started(network(), x)

    def results(implementation):
        model = network(conv_implementation=implementation)

        def loss(params):
            out, new = model.apply(
                {**variables, "params": params}, x, train=train, mutable=["batch_stats"]
            )
            return sum(jnp.sum(jnp.sin(z)) for z in out.values()), (out, new)

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    ours, plain = results("auto"), results("lax")
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(plain)):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3 * float(jnp.abs(b).max()) + 1e-6,
                                   err_msg=str(path))  # fmt: skip


def test_bfloat16_computes_low_and_answers_float32():
    x = images()
    variables = started(network(), x)
    low = infer(network(dtype=jnp.bfloat16), variables, x)["TO1"]
    exact = infer(network(), variables, x)["TO1"]
    assert low.dtype == jnp.float32 and np.any(low != exact)
    np.testing.assert_allclose(low, exact, rtol=0.1, atol=0.05 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize("network", [network, beside])
def test_training_lowers_the_loss_and_moves_every_parameter_and_statistic(network):
    model = network()
    source = PhantomSource("oct", "train", 24, 32, 32)
    rows = [source[k] for k in range(24)]
    labels = np.array([r["label"] for r in rows], np.int32)
    batch = {"image": np.stack([r["image"] for r in rows]),
             "labels": {"TO1": labels, "TO2": (labels > 0).astype(np.int32)}}  # fmt: skip
    losses = {t: make_loss("ce", num_classes=c) for t, c in HEADS.items()}
    optimizer = optax.adam(5e-3)
    state = first = steps.init_state(model, optimizer, (32, 32, 1), 0)
    step = jax.jit(
        steps.make_train_step(model, optimizer, losses, dict.fromkeys(HEADS, 1.0), seed=0,
                              ema_decay=0.9)
    )  # fmt: skip
    values = []
    for _ in range(30):
        state, metrics = step(state, batch)
        values.append(float(metrics["loss"]))
    assert values[-1] < 0.6 * values[0]
    for name in ("params", "batch_stats"):
        before, after = (getattr(s, name) for s in (first, state))
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after)
        ):
            assert np.any(a != b), path


@pytest.mark.parametrize("method", ["layer_cam", "grad_cam"])
def test_maps(method):
    x = images((3, 48, 64, 1))
    pixels = np.random.default_rng(0).integers(0, 256, x.shape, dtype=np.uint8)

    def maps_of(model):
        variables, classes = started(model, x), np.asarray([0, 1, 2])
        maps = grad_cam(model, variables, pixels, "TO1", classes, method=method)
        assert set(maps) == {*model.streams, "fused"}
        for heat in maps.values():
            assert heat.shape == (3, 48, 64) and 0 <= heat.min() < heat.max() <= 1
        return maps

    alone = maps_of(network(conv_implementation="xla"))
    np.testing.assert_array_equal(alone["fused"], alone["resnet18"])
    both = maps_of(beside(implementation="xla"))
    for stream in ("separable", "resnet18"):
        assert np.any(both["fused"] != both[stream])


def test_features_are_the_networks_own():
    model, x = beside(implementation="xla"), images((2, 48, 64, 1))
    variables = started(model, x)
    pixels = np.random.default_rng(0).integers(0, 256, x.shape, dtype=np.uint8)
    normal = normalize(jnp.asarray(pixels))
    plain, found = jax.jit(
        lambda v, x: model.apply(
            v, x, train=False, mutable=["intermediates"], capture_intermediates=True
        )
    )(variables, normal)
    for stage, width in zip(range(-4, 0), NARROW):
        features, gradients = jax.jit(
            lambda v, x, stage=stage: features_and_gradients(
                model, v, x, stage, lambda logits: logits["TO1"][:, 2]
            )
        )(variables, pixels)
        assert ("separable" in features) == (stage >= -2)  # it has two stages
        side = 4 * 2 ** (stage + 4)
        assert features["resnet18"].shape == (2, -(-48 // side), -(-64 // side), width)
        assert np.any(gradients["resnet18"] != 0)
        moved = jax.jit(
            lambda v, x, stage=stage: forward(model, v, x, stage, lambda stream, v: v + 1.0)
        )(variables, normal)
        assert np.any(moved["TO1"] != plain["TO1"])
    for stream in model.streams:
        (expected,) = found["intermediates"][stream]["__call__"]
        np.testing.assert_allclose(features[stream], expected, atol=1e-5)


@pytest.fixture(scope="module", params=["alone", "beside a plain one"])
def finished(request, tmp_path_factory):
    """(workdir, config.model's fields)."""
    workdir = tmp_path_factory.mktemp("resnet")
    fields = {"model__standard": "resnet18", "model__widths": NARROW}
    if request.param == "alone":
        fields["model__streams"] = "standard"
    run(workdir, **fields, report=True)
    return workdir, fields


def phantoms():
    source = PhantomSource("oct", "test", 50, 32, 32)
    return [source[k] for k in range(50)]


def test_a_run_goes_on_and_is_evaluated(finished, capsys):
    finished, fields = finished
    assert json.loads((finished / "config.json").read_text())["model"]["widths"] == list(NARROW)
    run(finished, **fields, report=True)
    assert "finished run" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"widths: \[4, 8, 8, 12\] there, \[4, 8, 8, 8\] now"):
        run(finished, **{**fields, "model__widths": (4, 8, 8, 8)})
    document = external.evaluate_run(finished, StopRequest())
    known = json.loads((finished / "metrics.json").read_text())
    assert document["test"]["TO1"]["accuracy"] == known["test"]["TO1"]["accuracy"]


def test_prediction_explanation_and_both_exports(finished, tmp_path, capsys):
    finished, _ = finished
    rows = phantoms()[:6]
    for k, row in enumerate(rows):
        Image.fromarray(row["image"][..., 0]).save(tmp_path / f"{k}.png")
    files = [str(tmp_path / f"{k}.png") for k in range(len(rows))]
    predict.main([f"--workdir={finished}", f"--output={tmp_path / 'out.csv'}", *files])
    known = {r["id"]: r for r in read_predictions(finished) if r["split"] == "test"}
    classes = ["CNV", "DME", "DRUSEN", "NORMAL"]
    expected = [[float(known[r["id"]][f"TO1/{c}"]) for c in classes] for r in rows]
    with (tmp_path / "out.csv").open() as file:
        found = [[float(r[f"TO1/{c}"]) for c in classes] for r in csv.DictReader(file)]
    np.testing.assert_allclose(found, expected, atol=1e-5)

    explain.main([f"--workdir={finished}", f"--output={tmp_path / 'maps'}", *files[:2]])
    assert len(list((tmp_path / "maps").glob("*.TO1.resnet18.png"))) == 2

    batch = np.stack([r["image"] for r in rows])
    folder = export_run(load_trained(finished), tmp_path / "model", onnx=True)
    model, _ = exported_model.load(folder)
    np.testing.assert_allclose(model(batch)["TO1"], expected, atol=1e-5)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(
        (folder / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"]
    )
    np.testing.assert_allclose(session.run(["TO1"], {"images": batch})[0], expected, atol=1e-5)


def test_report_and_model_card(finished):
    finished, fields = finished
    text = model_card(finished)
    assert "resnet18: ResNet-18 (He et al., CVPR 2016), widths 4, 8, 8, 12; " in text
    alone = fields.get("model__streams") == "standard"
    assert ("A network of one stream" in text) == alone
    assert ("separable: plain, blocks 1, norm batch" in text) == (not alone)
    assert "resnet18" in build([finished], show_ids=False, pictures=2)
