import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlsrl_jax.models.by_name import PRESETS, STREAMS, make_model
from wlsrl_jax.models.dual_stream import FUSIONS, Grader
from wlsrl_jax.models.summary import stages, summarize
from wlsrl_jax.models.trunks import NORMS, PlainTrunk, Trunk

HEADS = {"TO1": 4, "TO2": 2}


def images(shape=(3, 16, 20, 1), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def init(model, x):
    return model.init(jax.random.key(0), x, train=False)


def feature_maps(model, variables, x):
    """Stream -> what its trunk gives."""
    _, found = model.apply(
        variables, x, train=False, mutable=["intermediates"],
        capture_intermediates=lambda module, _: isinstance(module, Trunk),
    )  # fmt: skip
    return {s: found["intermediates"][s]["__call__"][0] for s in model.streams}


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_every_switch_gives_logits_and_finite_gradients(streams, fusion, norm):
    if streams != "dual" and fusion != "concat":
        pytest.skip("one stream is not fused")
    model = make_model("tiny", HEADS, streams=streams, fusion=fusion, norm=norm)
    x = images()
    variables = init(model, x)
    assert set(variables["params"]) >= set(STREAMS[streams]) | {"shared", "head_TO1", "head_TO2"}
    assert ("batch_stats" in variables) == (norm == "batch")

    def loss(params):
        out, _ = model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        assert {t: (z.shape, z.dtype) for t, z in out.items()} == {
            t: ((3, c), jnp.float32) for t, c in HEADS.items()
        }
        return sum(jnp.sum(z**2) for z in out.values())

    for path, g in jax.tree_util.tree_leaves_with_path(jax.grad(loss)(variables["params"])):
        assert np.isfinite(g).all() and (g.shape[0] == 0 or np.any(g != 0)), path


def test_a_network_on_blocks_of_pixels():
    model, x = make_model("tiny", HEADS, space_to_depth=2), images()
    variables = init(model, x)
    for kind in STREAMS["dual"]:
        kernel = variables["params"][kind]["stage0_block0_conv"]["kernel"]
        assert kernel.shape == (3, 3, 4, 8)
    # One stage more of halving: twice the sides have the same last feature map.
    assert feature_maps(model, variables, x)["standard"].shape == (3, 2, 3, 16)
    with pytest.raises(ValueError, match="does not divide an image of 16x19 pixels.*config.data"):
        init(model, images((3, 16, 19, 1)))


def test_convolution_paths_share_parameters_and_results():
    x = images()
    auto, plain = (make_model("tiny", HEADS, conv_implementation=c) for c in ("auto", "lax"))
    variables = init(auto, x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, init(plain, x))
    for a, b in zip(
        auto.apply(variables, x, train=False).values(),
        plain.apply(variables, x, train=False).values(),
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_kernels_are_shaped_as_flax_convolutions():
    params = init(make_model("tiny", HEADS, blocks=2), images())["params"]
    assert params["separable"]["stage1_block0_depthwise"]["kernel"].shape == (3, 3, 1, 8)
    assert params["separable"]["stage1_block0_pointwise"]["kernel"].shape == (1, 1, 8, 16)
    assert params["standard"]["stage1_block0_conv"]["kernel"].shape == (3, 3, 8, 16)
    assert params["separable"]["stage0_block0_conv"]["kernel"].shape == (3, 3, 1, 8)


def test_batch_statistics_change_in_training_only():
    model, x = make_model("tiny", HEADS), images()
    variables = init(model, x)
    _, changed = model.apply(variables, x, train=True, mutable=["batch_stats"])
    before, after = (jax.tree.leaves(v["batch_stats"]) for v in (variables, changed))
    assert any(np.any(a != b) for a, b in zip(before, after))
    model.apply(variables, x, train=False)  # raises if it tried to change them


def test_evaluation_treats_each_image_alone():
    model, x = make_model("tiny", HEADS), images()
    variables = init(model, x)
    together = model.apply(variables, x, train=False)
    for i in range(3):
        alone = model.apply(variables, x[i : i + 1], train=False)
        for task in HEADS:
            np.testing.assert_allclose(alone[task][0], together[task][i], rtol=1e-5, atol=1e-6)


def test_dropout_needs_and_follows_its_key():
    model, x = make_model("tiny", HEADS, dropout=0.5, norm="group"), images()
    variables = init(model, x)
    outs = [
        model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(k)})["TO1"]
        for k in (0, 0, 1)
    ]
    np.testing.assert_array_equal(outs[0], outs[1])
    assert np.any(outs[0] != outs[2])


def test_bfloat16_computes_low_and_answers_float32():
    x = images()
    low = make_model("tiny", HEADS, dtype=jnp.bfloat16)
    variables = init(low, x)
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(variables))
    out = low.apply(variables, x, train=False)["TO1"]
    exact = make_model("tiny", HEADS).apply(variables, x, train=False)["TO1"]
    assert out.dtype == jnp.float32 and np.any(out != exact)
    np.testing.assert_allclose(out, exact, atol=0.1 * float(jnp.abs(exact).max()) + 0.02)


def test_the_feature_maps_of_the_streams():
    model, x = make_model("tiny", HEADS), images()
    assert {k: f.shape for k, f in feature_maps(model, init(model, x), x).items()} == {
        "separable": (3, 4, 5, 16),
        "standard": (3, 4, 5, 16),
    }


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusion_is_of_the_pooled_features(fusion):
    """A network of two is the sum, the mix or the shared layer of what its trunks give alone."""
    model, x = make_model("tiny", HEADS, fusion=fusion), images()
    variables = init(model, x)
    p = variables["params"]
    a, b = (f.mean((1, 2)) for f in feature_maps(model, variables, x).values())
    fused = np.concatenate([a, b], axis=1)
    if fusion == "sum":
        fused = a + b
    elif fusion == "gated":
        g = 1 / (1 + np.exp(-(fused @ p["gate"]["kernel"] + p["gate"]["bias"])))
        fused = g * a + (1 - g) * b
    hidden = np.maximum(fused @ p["shared"]["kernel"] + p["shared"]["bias"], 0)
    for task, logits in model.apply(variables, x, train=False).items():
        head = p[f"head_{task}"]
        np.testing.assert_allclose(logits, hidden @ head["kernel"] + head["bias"], atol=1e-5)


def test_trunks_of_other_widths_are_joined_but_not_added():
    trunks = (PlainTrunk((4, 8), name="a"), PlainTrunk((4, 8, 12), name="b"))
    model, x = Grader(trunks, "concat", tuple(HEADS.items()), hidden=5), images()
    variables = init(model, x)
    assert set(variables["params"]) == {"a", "b", "shared", "head_TO1", "head_TO2"}
    assert variables["params"]["shared"]["kernel"].shape == (20, 5)
    for fusion in ("sum", "gated"):
        with pytest.raises(ValueError, match=f"fusion={fusion} .*a has 8, b has 12"):
            Grader(trunks, fusion, tuple(HEADS.items()))


@pytest.mark.parametrize("preset", PRESETS)
def test_summary_counts_every_parameter(preset):
    model, shape = make_model(preset, HEADS), (64, 64, 1)
    variables = jax.eval_shape(lambda: init(model, jnp.zeros((1, *shape))))
    total = sum(p.size for p in jax.tree.leaves(variables["params"]))
    assert sum(r.parameters for r in stages(model, shape)) == total
    assert f"{total:,}" in summarize(model, shape)


def test_summary_flops_agree_with_the_compiler():
    model, shape = make_model("tiny", HEADS, conv_implementation="lax", norm="group"), (32, 32, 1)
    x = jnp.zeros((1, *shape))
    variables = init(model, x)
    lowered = jax.jit(lambda x: model.apply(variables, x, train=False)).lower(x)
    compiler = lowered.cost_analysis()["flops"]
    ours = sum(r.flops for r in stages(model, shape))
    # The compiler leaves out taps on padding and adds elementwise work.
    assert 0.75 * compiler < ours < 1.25 * compiler


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "layer"}, "batch, group"),
        ({"fusion": "product"}, "concat, sum, gated"),
        ({"streams": "triple"}, "dual, separable, standard"),
        ({"conv_implementation": "cudnn"}, "auto, xla, lax"),
        ({"dropout": 1.0}, "dropout"),
        ({"hidden": -1}, "positive"),
        ({"space_to_depth": 0}, "positive"),
    ],
)
def test_wrong_fields_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_model("tiny", HEADS, **options)
    with pytest.raises(ValueError, match="tiny, small, medium, base"):
        make_model("huge", HEADS)
