"""A run as a Python object gives the numbers of the command."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.predict.test_predict import rows_of, write_phantoms
from tests.tiny import tiny_config, wlsrl
from wlsrl_jax import load, train
from wlsrl_jax.evaluate.calibration import scale
from wlsrl_jax.explain.class_maps import grad_cam
from wlsrl_jax.files import Mistake


@pytest.fixture(scope="module")
def model(finished):
    return load(finished)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = write_phantoms(tmp_path_factory.mktemp("scans"), 4)
    return sorted(folder.iterdir())


def test_the_numbers_of_the_command(finished, model, scans, tmp_path):
    output = tmp_path / "out.csv"
    assert wlsrl("predict", f"--workdir={finished}", f"--output={output}",
                 "--modality_check=off", "--quality_check=off", *map(str, scans)) == 0  # fmt: skip
    found = model.predict(scans, check="off")
    columns = {
        f"{task}/{name}": found[task][:, k]
        for task, names in model.classes.items()
        for k, name in enumerate(names)
    }
    rows = rows_of(output)
    assert len(rows) == len(scans)
    for k, row in enumerate(rows):
        for column, values in columns.items():
            assert np.float32(row[column]) == values[k]


def test_one_image_in_any_form(model, scans):
    expected = model.predict([scans[0]], check="off")
    pixels = np.asarray(Image.open(scans[0]).convert("L"))
    forms = [
        str(scans[0]), scans[0], Image.open(scans[0]), pixels, pixels[..., None],
        np.repeat(pixels[..., None], 3, axis=2), pixels[None, ..., None],
    ]  # fmt: skip
    for form in forms:
        found = model.predict(form, check="off")
        assert found.keys() == expected.keys()
        for task in expected:
            assert found[task].dtype == np.float32
            np.testing.assert_array_equal(found[task], expected[task])


def test_wide_pixels_have_the_range_that_is_said(model, scans):
    pixels = np.asarray(Image.open(scans[0]).convert("L"))
    wide = np.round(pixels * (4095 / 255)).astype(np.uint16)
    found = model.predict(wide, check="off", pixel_bits=12)
    for task, expected in model.predict(pixels, check="off").items():
        np.testing.assert_array_equal(found[task], expected)
    with pytest.raises(Mistake, match=r"images\[0\]: 16-bit pixels"):
        model.predict(wide, check="off")


def test_none_and_more_than_a_batch(model, scans):
    none = model.predict([])
    for task, names in model.classes.items():
        assert none[task].shape == (0, len(names))
    many = model.predict([scans[k % 4] for k in range(35)], check="off")
    few = model.predict(scans, check="off")
    for task in few:
        np.testing.assert_array_equal(many[task], few[task][np.arange(35) % 4])


def test_calibrated(finished, model, scans):
    statistics = json.loads((finished / "statistics.json").read_text())
    raw, found = (m.predict(scans, check="off") for m in (model, model.calibrated))
    for task, entry in statistics["calibration"].items():
        np.testing.assert_allclose(found[task], scale(raw[task], entry["temperature"]), rtol=1e-6)
    assert any(np.abs(raw[task] - found[task]).max() > 0 for task in raw)


def test_a_map_of_the_class_that_is_shown_or_asked_for(model, scans):
    heat = model.explain(scans[0], "TO1", check="off")
    assert heat.shape == model.run.image_shape[:2] and 0 <= heat.min() <= heat.max() <= 1
    shown = model.classes["TO1"][int(model.predict(scans[0], check="off")["TO1"][0].argmax())]
    np.testing.assert_array_equal(heat, model.explain(scans[0], "TO1", of=shown, check="off"))
    other = next(name for name in model.classes["TO1"] if name != shown)
    pixels = np.stack(model._ready(scans[0], "off", ""))
    classes = np.array([model.classes["TO1"].index(other)])
    expected = grad_cam(model.run.model, model.run.variables, pixels, "TO1", classes)["fused"][0]
    np.testing.assert_array_equal(model.explain(scans[0], "TO1", of=other, check="off"), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, s: m.predict(np.zeros((40, 40), np.uint8)), r"images\[0\]: refused: .*nothing"),
        (lambda m, s: m.predict([s, "nowhere.png"], check="off"), "nowhere.png: "),
        (lambda m, s: m.predict(np.zeros((40, 40), np.float32)), r"uint8 or uint16 .* not float32"),
        (lambda m, s: m.predict(np.zeros((4, 4), np.uint8), check="off"), r"images\[0\]: 4x4"),
        (lambda m, s: m.predict(s, check="no"), "check='no'; choose one of refuse, off"),
        (lambda m, s: m.explain(s, "TF1"), "task='TF1' is not of this model; it has TO1, TO2"),
        (lambda m, s: m.explain(s, "TO2", of="ill"), "of='ill' is no class of TO2"),
        (lambda m, s: m.explain([s, s], "TO2", check="off"), "one image, not 2"),
        (lambda m, s: load("nowhere"), "nowhere is not a workdir"),
    ],
)  # fmt: skip
def test_mistakes(model, scans, call, message):
    with pytest.raises(Mistake, match=message):
        call(model, scans[0])


def test_a_fundus_photograph_is_refused_by_an_oct_model(model, tmp_path):
    from wlsrl_jax.data.phantoms.source import PhantomSource

    photograph = PhantomSource("fundus", "test", 1, 128, 128)[0]["image"]
    with pytest.raises(Mistake, match="trained on OCT B-scans"):
        model.predict(photograph)


def test_training_gives_the_model(finished, tmp_path):
    config = tiny_config(log_example_ids=True, report=False)
    trained = train(config, finished)  # is finished, and so is only opened
    assert trained.run.workdir == finished and trained.modality == "oct"
