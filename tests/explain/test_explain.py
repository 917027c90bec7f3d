"""Maps: what they must satisfy whatever the network has learnt, and the commands."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import run as train_run
from wlsrl_jax.explain import __main__ as command
from wlsrl_jax.explain import class_maps, pointing
from wlsrl_jax.explain.class_maps import grad_cam
from wlsrl_jax.explain.faithfulness import centred_gaussian, deletion_insertion, random_maps
from wlsrl_jax.explain.features import features_and_gradients, forward
from wlsrl_jax.explain.integrated_gradients import integrated_gradients, to_heat
from wlsrl_jax.explain.overlay import colour, overlay, upscale
from wlsrl_jax.models.by_name import make_model
from wlsrl_jax.models.predictor import normalize
from wlsrl_jax.runs.open import load_trained
from wlsrl_jax.runs.open_data import open_split

HEADS = {"TO1": 4, "TO2": 2}


def network(seed=0, **fields):
    model = make_model("tiny", HEADS, conv_implementation="xla", **fields)
    variables = model.init(jax.random.key(seed), jnp.zeros((1, 24, 32, 1)), train=False)
    # Running statistics of a trained network are not those of the start.
    stats = jax.tree.map(lambda x: x * 1.3 + 0.05, variables.get("batch_stats", {}))
    images = np.random.default_rng(seed).integers(0, 256, (3, 24, 32, 1), dtype=np.uint8)
    return model, {"params": variables["params"], "batch_stats": stats}, images


@pytest.mark.parametrize("streams", ["dual", "separable", "standard"])
@pytest.mark.parametrize("method", ["layer_cam", "grad_cam"])
def test_maps_of_every_stream(streams, method):
    model, variables, images = network(streams=streams)
    logits = model.apply(variables, normalize(jnp.asarray(images)), train=False)["TO1"]
    chosen = np.asarray(logits.argmax(1))
    maps = grad_cam(model, variables, images, "TO1", chosen, method=method)
    assert set(maps) == {*model.streams, "fused"}
    for heat in maps.values():
        assert heat.shape == (3, 24, 32) and heat.dtype == np.float32
        assert heat.min() >= 0 and heat.max() <= 1
    if streams != "dual":
        np.testing.assert_array_equal(maps["fused"], maps[streams])
    # An image's map does not depend on its neighbours.
    alone = grad_cam(model, variables, images[1:2], "TO1", chosen[1:2], method=method)
    np.testing.assert_allclose(alone["fused"][0], maps["fused"][1], atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"norm": "group"}, {"fusion": "gated"}, {"fusion": "sum"}])
def test_features_are_the_networks_own(fields):
    model, variables, images = network(**fields)
    x = normalize(jnp.asarray(images))
    plain, found = model.apply(
        variables, x, train=False, mutable=["intermediates"], capture_intermediates=True
    )
    last = len(model.trunks[0].widths) - 1

    def objective(logits):
        return logits["TO1"][:, 2]

    features, gradients = features_and_gradients(model, variables, images, last, objective)
    for stream in model.streams:
        (expected,) = found["intermediates"][stream]["__call__"]
        np.testing.assert_allclose(features[stream], expected, atol=1e-6)
    # The gradient says what a small change of the features does to the score.
    for stage in range(last + 1):
        features, gradients = features_and_gradients(model, variables, images, stage, objective)
        rng = np.random.default_rng(stage)
        step = {s: 1e-2 * rng.standard_normal(f.shape).astype(np.float32)
                for s, f in features.items()}  # fmt: skip

        def moved(sign, stage=stage, step=step):
            def add(stream, value):
                return value + sign * step[stream]

            logits = forward(model, variables, x, stage, add)
            return np.asarray(objective(logits), np.float64)

        found = (moved(1.0) - moved(-1.0)) / 2
        predicted = sum(np.einsum("bhwf,bhwf->b", gradients[s], step[s]) for s in step)
        np.testing.assert_allclose(found, predicted, atol=2e-3, rtol=0.05)
    np.testing.assert_array_equal(
        model.apply(variables, x, train=False)["TO1"], plain["TO1"]
    )  # nothing stays behind


def test_maps_of_several_sizes_are_added_share_by_share():
    """A coarse cell's share of the logit is spread over its place, so the total stays."""
    rng = np.random.default_rng(0)
    fine, coarse = rng.random((2, 8, 12), np.float32), np.full((2, 2, 3), 4.0, np.float32)
    total = class_maps._sum([jnp.asarray(coarse), jnp.asarray(fine)])
    np.testing.assert_allclose(total, fine + 4.0 / 16, rtol=1e-6)
    alike = class_maps._sum([jnp.asarray(fine), jnp.asarray(2 * fine)])
    np.testing.assert_array_equal(alike, fine + 2 * fine)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 50), st.booleans())
def test_integrated_gradients_are_complete(seed, black):
    """The attributions add up to the change of the logit from the baseline."""
    model, variables, images = network(seed)
    baseline = np.zeros((1, 1, 1, 1)) if black else None
    classes = np.asarray([0, 3, 1])
    found, error = integrated_gradients(
        model, variables, images, "TO1", classes, baseline=baseline, steps=128
    )
    assert found.shape == images.shape
    assert (np.abs(error) < 0.02 + 0.02 * np.abs(found).sum(axis=(1, 2, 3))).all()
    same, _ = integrated_gradients(model, variables, images, "TO1", classes, baseline=images)
    assert not same.any()
    heat = to_heat(found)
    assert heat.min() >= 0 and heat.max() <= 1


def test_deletion_and_insertion_of_a_network_that_looks_at_one_place():
    """A map of that place beats a random map, and its opposite does worst."""
    model, variables, images = network(3)
    # Train nothing: take the attribution of the network itself as what it looks at.
    logits = model.apply(variables, normalize(jnp.asarray(images)), train=False)["TO2"]
    classes = np.asarray(logits.argmax(1))
    attributions, _ = integrated_gradients(model, variables, images, "TO2", classes)
    good = to_heat(attributions)
    scores = {
        name: deletion_insertion(model, variables, images, heat, "TO2", classes)
        for name, heat in (("good", good), ("bad", -good), ("random", random_maps(3, 24, 32)))
    }
    assert scores["good"]["insertion"].mean() > scores["bad"]["insertion"].mean()
    assert scores["good"]["deletion"].mean() < scores["bad"]["deletion"].mean()
    curve = scores["good"]["deletion_curve"]
    np.testing.assert_allclose(curve[:, 0], jax.nn.softmax(logits).max(1), atol=1e-5)
    for name in scores:  # all deleted is all deleted, all inserted is the image
        np.testing.assert_allclose(scores[name]["deletion_curve"][:, -1], curve[:, -1], atol=1e-5)
        np.testing.assert_allclose(scores[name]["insertion_curve"][:, -1], curve[:, 0], atol=1e-5)
    middle = centred_gaussian(24, 32)
    assert middle.max() == 1 and middle[12, 16] > middle[0, 0]


def test_wrong_arguments_are_named():
    model, variables, images = network()
    for arguments, message in (
        ((images, "TF9", np.zeros(3, int)), "task='TF9'"),
        ((images.astype(np.float32), "TO1", np.zeros(3, int)), "must be uint8"),
        ((images, "TO1", np.array([0, 1])), "classes must be 3 integers"),
        ((images, "TO1", np.array([0, 1, 4])), "has 0..3"),
        ((images, "TO1", np.array([0, 1, -1])), "has 0..3"),
    ):
        with pytest.raises(ValueError, match=message):
            grad_cam(model, variables, *arguments)
    with pytest.raises(ValueError, match="method="):
        grad_cam(model, variables, images, "TO1", np.zeros(3, int), method="scorecam")
    with pytest.raises(ValueError, match="does not fit"):
        deletion_insertion(model, variables, images, np.zeros((3, 4, 4)), "TO1", [0, 0, 0])


def test_overlay_leaves_alone_what_the_map_leaves_out():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 1), dtype=np.uint8)
    heat = np.zeros((20, 30), np.float32)
    heat[5:8, 5:8] = 1.0
    drawn = overlay(image, heat)
    assert drawn.shape == (20, 30, 3) and drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[heat == 0], np.repeat(image[heat == 0], 3, axis=-1))
    assert (drawn[6, 6].astype(int) != int(image[6, 6, 0])).any()
    lightness = colour(np.linspace(0, 1, 50)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > -1).all() and lightness[-1] > lightness[0] + 100
    assert upscale(image, 60).shape == (60, 90, 1) and upscale(image, 10) is image
    for bad, message in ((heat + 1, "in 0..1"), (heat[:5], "does not lie on")):
        with pytest.raises(ValueError, match=message):
            overlay(image, bad)


def test_a_hit_is_the_highest_point_on_the_lesion():
    mask = np.zeros((16, 16), bool)
    mask[4:6, 4:6] = True
    distance = np.stack([pointing.distance_to(mask)] * 3)
    heat = np.zeros((3, 16, 16), np.float32)
    heat[0, 4, 5] = 1.0  # on it
    heat[1, 4, 7] = 1.0  # two pixels beside it
    assert pointing.hits(heat, distance, 0).tolist() == [True, False, False]
    assert pointing.hits(heat, distance, 2).tolist() == [True, True, False]  # the last is flat
    assert pointing.default_tolerance(64, 64) == 2


def test_commands(finished, tmp_path, capsys):
    output = tmp_path / "overlays"
    arguments = [f"--workdir={finished}", f"--output={output}", "--split=test", "--limit=3"]
    command.main(arguments)
    found = json.loads((output / "faithfulness.json").read_text())
    assert len(found["images"]) == 6 and "PHANTOM" in found["note"]  # three images, two tasks
    assert len(list(output.glob("*.TO1.fused.png"))) == 3
    assert len(list(output.glob("*.TO2.integrated_gradients.png"))) == 3
    assert "PHANTOM" in capsys.readouterr().out
    again = tmp_path / "files"
    picture = next(p for p in output.glob("0000-*.png") if p.name.count(".") == 1)
    command.main([f"--workdir={finished}", f"--output={again}", str(picture)])
    assert (again / "faithfulness.json").exists()
    with pytest.raises(ValueError, match="either image files or --split"):
        command.main(arguments[:2])
    with pytest.raises(ValueError, match="cannot be used"):
        command.main([*arguments[:2], str(finished / "metrics.json")])


def test_pointing_command(finished, tmp_path, capsys):
    pointing.main([f"--workdir={finished}", "--limit=40"])
    found = json.loads((finished / "pointing.json").read_text())
    (finished / "pointing.json").unlink()
    rates = found["rates"]["TO1"]
    assert set(rates) <= {"CNV", "DME", "DRUSEN"} and rates
    for entry in rates.values():
        for name in ("separable", "standard", "fused"):
            assert 0 <= entry[name]["hit_exact"] <= entry[name]["hit"] <= 1
        assert 0 < entry["random_point"]["hit"] < 1
    assert "PHANTOM" in capsys.readouterr().out


def test_data_that_changed_are_refused(tmp_path):
    train_run(tmp_path / "run")
    trained = load_trained(tmp_path / "run")
    trained.config.data.phantom.seed = 9
    with pytest.raises(ValueError, match="prepared anew"):
        open_split(trained, "test")
