"""Preprocessing steps: what they do to pixels, and that every reader of raw files does them."""

import functools
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from tests import sources
from tests.predict.test_predict import assert_as_evaluated, rows_of
from tests.tiny import run, wlsrl
from wlsrl_jax.data.images.decode import presize
from wlsrl_jax.data.images.pixels import (
    RPE_ROW,
    SIDE,
    STEPS,
    apply_steps,
    ben_graham,
    clahe,
    field_mask,
    flatten,
    resize,
    rpe_curve,
    shrink,
    white_borders,
)
from wlsrl_jax.data.images.steps import check_steps
from wlsrl_jax.data.phantoms import source as phantom
from wlsrl_jax.data.prepare.__main__ import prepare
from wlsrl_jax.data.prepared import load_prepared
from wlsrl_jax.evaluate import external
from wlsrl_jax.export.__main__ import export_run
from wlsrl_jax.files import Mistake
from wlsrl_jax.predict import __main__ as predict
from wlsrl_jax.runs.input import input_spec
from wlsrl_jax.runs.open import load_trained
from wlsrl_jax.runtime.stop import StopRequest
from wlsrl_jax.tasks import MODALITIES

OCT_STEPS = ("white_borders", "flatten", "clahe")


def drawn(modality, label, size=256, seed=0):
    rng = np.random.Generator(np.random.Philox(key=[seed, label]))
    return phantom.render(modality, label, rng, size, size)[0]


def layered(height, width, curve, seed=0):
    """A scan with known RPE: dark vitreous, two grey layers, a bright band, a dimmer choroid."""
    rng = np.random.default_rng(seed)
    depth = np.arange(height)[:, None] - curve[None, :]  # rows below the lower edge of the RPE
    scan = np.full((height, width), 20.0)
    for top, bottom, level in ((-80, -65, 150), (-65, -40, 90), (-40, -10, 50), (-10, 0, 220)):
        scan[(depth >= top) & (depth < bottom)] = level
    scan[depth >= 0] = 20 + 60 * np.exp(-depth[depth >= 0] / 40)
    return np.clip(scan * rng.gamma(12, 1 / 12, scan.shape), 0, 230).astype(np.uint8)[..., None]


def cases():
    return [(name, kind.name) for kind in MODALITIES.values() for name in kind.steps]


@pytest.mark.parametrize(("name", "modality"), cases())
@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(16, 90),
    width=st.integers(16, 90),
    level=st.sampled_from([0, 128, 255, None]),
    seed=st.integers(0, 99),
)
def test_shape_and_type_are_kept_and_nothing_is_random(name, modality, height, width, level, seed):
    """Also of noise, black, grey and white."""
    shape = (height, width, 1 if modality == "oct" else 3)
    noise = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    image = noise if level is None else np.full(shape, level, np.uint8)
    before = image.copy()
    out = STEPS[name](image)
    assert out.shape == shape and out.dtype == np.uint8
    np.testing.assert_array_equal(image, before)  # the argument is left alone
    np.testing.assert_array_equal(out, STEPS[name](image))


@pytest.mark.parametrize(("tilt", "bend"), [(0, 0), (30, 0), (-25, 20), (10, -20), (-30, 25)])
@pytest.mark.parametrize("seed", [0, 1])
def test_flatten_lays_a_known_parabola_on_its_row(tilt, bend, seed):
    height, width = 240, 400
    x = np.linspace(-1, 1, width)
    curve = 150 + tilt * x - bend * x**2
    scan = layered(height, width, curve, seed)
    found = rpe_curve(scan)
    assert (found < curve).all() and (found > curve - 10).all()  # in the bright band
    assert np.ptp(found - curve) < 2
    flat = flatten(scan)
    row = RPE_ROW * height
    assert np.abs(rpe_curve(flat) - row).max() < 2
    # Columns are moved whole, to where the RPE of every one of them is on the row.
    shift = np.rint(found - row).astype(int)
    assert np.ptp(curve - shift) < 3 and np.abs(curve - shift - row).max() < 6
    for k in range(width):
        moved = np.roll(scan[:, k, 0], -shift[k])
        np.testing.assert_array_equal(flat[100:200, k, 0], moved[100:200])


@pytest.mark.parametrize("label", range(4))
def test_flatten_levels_the_phantoms(label):
    rows = []
    for seed in range(6):
        flat = flatten(drawn("oct", label, seed=seed))
        found = rpe_curve(flat)
        rows.append(np.abs(found - RPE_ROW * 256).max())
    assert np.median(rows) < 3


def test_without_a_band_the_image_stays():
    ramp = np.tile(np.linspace(0, 250, 100)[:, None, None], (1, 120, 1)).astype(np.uint8)
    columns = np.ascontiguousarray(ramp.transpose(1, 0, 2))
    for image in (ramp, columns, np.zeros_like(ramp), np.full_like(ramp, 70)):
        assert rpe_curve(image) is None
        np.testing.assert_array_equal(flatten(image), image)


def rotated(scan, angle, shift=(0, 0)):
    """(scan with white corners as JPEG gives it, where it is white by rights)."""
    height, width = scan.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1)
    matrix[:, 2] += shift
    out = cv2.warpAffine(scan, matrix, (width, height), borderValue=255)
    white = cv2.warpAffine(np.zeros_like(scan), matrix, (width, height), borderValue=255) > 127
    jpeg = cv2.imdecode(cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, 85])[1], 0)
    return jpeg[..., None], white


@pytest.mark.parametrize(
    ("angle", "shift", "left"),
    [(1, (0, 0), 0.15), (-8, (0, 0), 0.004), (20, (0, 9), 0.004), (3, (-15, 4), 0.004)],
)
def test_white_corners_go_and_the_retina_stays(angle, shift, left):
    """Of a wedge that is three pixels thick, JPEG leaves little white."""
    x = np.linspace(-1, 1, 400)
    image, white = rotated(layered(240, 400, 150 + 20 * x), angle, shift)
    out = white_borders(image)
    assert white.sum() > 400
    assert (out[white] > 120).mean() < left  # of the blurred edge
    away = cv2.dilate(white.astype(np.uint8), np.ones((13, 13))) == 0
    np.testing.assert_array_equal(out[..., 0][away], image[..., 0][away])
    np.testing.assert_array_equal(white_borders(out), out)


def test_a_saturated_rpe_at_the_side_is_not_eaten():
    x = np.linspace(-1, 1, 400)
    curve = 150 + 20 * x
    scan = layered(240, 400, curve)
    depth = np.arange(240)[:, None] - curve[None, :]
    scan[(depth >= -9) & (depth < 0)] = 255
    np.testing.assert_array_equal(white_borders(scan), scan)  # touches both sides
    image, white = rotated(scan, 12)  # and now white corners as well
    out = white_borders(image)
    away = cv2.dilate(white.astype(np.uint8), np.ones((13, 13))) == 0
    np.testing.assert_array_equal(out[..., 0][away], image[..., 0][away])
    assert (out[white] > 120).sum() <= 60


@pytest.mark.parametrize("grade", [0, 2, 4])
def test_ben_graham_is_grey_in_the_field_and_black_outside(grade):
    image = drawn("fundus", grade)
    out = ben_graham(image)
    mask = field_mask(image)
    y, x = np.nonzero(mask)
    centre, radius = ((x.min() + x.max()) / 2, (y.min() + y.max()) / 2), np.ptp(x) / 2
    distance = np.hypot(np.arange(256)[None] - centre[0], np.arange(256)[:, None] - centre[1])
    inside, outside = distance < 0.85 * radius, distance > 0.97 * radius
    assert abs(out[inside & (mask > 0)].mean() - 128) < 6
    assert not out[outside].any()


def test_ben_graham_is_blind_to_brightness():
    image = drawn("fundus", 2)
    darker = (image * 0.6 + 25 * (field_mask(image)[..., None] > 0)).astype(np.uint8)
    a, b = ben_graham(image).astype(int), ben_graham(darker).astype(int)
    kept = (a > 0).any(axis=2) & (b > 0).any(axis=2)
    assert np.abs(a[kept].mean(axis=0) - b[kept].mean(axis=0)).max() < 3
    ratio = (b[kept] - 128).std() / (a[kept] - 128).std()
    assert 0.5 < ratio < 0.75


def test_clahe_spreads_levels_and_keeps_hues():
    scan = (layered(240, 400, np.full(400, 150.0)) // 4 + 10).astype(np.uint8)
    assert clahe(scan).std() > 1.5 * scan.std()
    image = drawn("fundus", 0)
    out = clahe(image)
    lab = [cv2.cvtColor(i, cv2.COLOR_RGB2LAB).astype(int) for i in (image, out)]
    mask = field_mask(image) > 0
    assert lab[1][..., 0][mask].std() > lab[0][..., 0][mask].std()
    assert np.abs(lab[0][..., 1:] - lab[1][..., 1:])[mask].mean() < 4
    np.testing.assert_array_equal(out[~mask], image[~mask])


def test_steps_come_in_order_on_a_bounded_image():
    image = np.zeros((3000, 2000, 1), np.uint8)
    image[1000:1400] = 200
    small = apply_steps(image, ("clahe",), 128, 128)
    assert small.shape == (SIDE, round(SIDE * 2 / 3), 1)
    assert apply_steps(image, (), 128, 128) is image
    assert apply_steps(image, ("clahe",), 2500, 100).shape == (2500, 1667, 1)
    scan, _ = rotated(layered(240, 400, np.full(400, 150.0)), 8)
    forth = shrink(scan, 64, 64, ("white_borders", "flatten"), crop=False)
    one_by_one = cv2.resize(flatten(white_borders(scan)), (64, 64), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(forth[..., 0], one_by_one)
    assert (forth != shrink(scan, 64, 64, ("flatten", "white_borders"), crop=False)).any()


@pytest.mark.parametrize(
    ("steps", "modality", "message"),
    [
        (("benn",), "fundus", "'benn' is no step; those for fundus images are ben_graham, clahe"),
        (("ben_graham",), "oct", "ben_graham is not for oct images; those are clahe, white_bor"),
        (("flatten",), "fundus", "flatten is not for fundus images; those are ben_graham, clahe"),
        (("clahe", "flatten", "clahe"), "oct", "clahe,flatten,clahe names a step twice"),
    ],
)
def test_wrong_steps_are_named(steps, modality, message):
    with pytest.raises(ValueError, match=f"--preprocess.*{message}"):
        check_steps(steps, modality)


def prepared(name, source, data_dir, **options):
    console = Console(file=io.StringIO(), width=150)
    path = prepare(name, source, str(data_dir), size=(32, 40), console=console, **options)
    return json.loads(path.read_text()), path.parent


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def test_prepare_records_the_steps_and_depends_on_nothing_else(tmp_path):
    source = sources.octdl(tmp_path / "source")
    plain, _ = prepared("octdl", source, tmp_path / "plain")
    assert "preprocess" not in json.dumps(plain)
    one, folder = prepared("octdl", source, tmp_path / "one", preprocess=OCT_STEPS, workers=1)
    _, other = prepared("octdl", source, tmp_path / "two", preprocess=OCT_STEPS, workers=2)
    assert contents(folder) == contents(other)
    assert one["settings"]["preprocess"] == list(OCT_STEPS)
    assert {**one, "settings": plain["settings"]} == plain
    found = load_prepared("octdl", str(tmp_path / "one"))
    assert found.preprocess == OCT_STEPS
    assert load_prepared("octdl", str(tmp_path / "plain")).preprocess == ()
    paths = {i["id"]: i["path"] for i in one["images"]}
    example = found.splits["test"][0]
    original = (source / paths[example["id"]]).read_bytes()
    want = np.asarray(Image.open(io.BytesIO(presize(original, "oct", 32, 40, OCT_STEPS))))
    np.testing.assert_array_equal(example["image"][..., 0], want)
    # Other steps are another preparation; the same ones in another order too.
    for steps in ((), OCT_STEPS[::-1]):
        with pytest.raises(Mistake, match="with other settings; --overwrite"):
            prepared("octdl", source, tmp_path / "one", preprocess=steps)
    prepared("octdl", source, tmp_path / "one", preprocess=OCT_STEPS)  # nothing to do


def test_a_runner_applies_the_steps_too(tmp_path):
    pytest.importorskip("apache_beam", reason="Apache Beam (extra 'beam') is not installed")
    source = sources.eyepacs(tmp_path / "source")
    steps = {"preprocess": ("ben_graham",)}
    _, here = prepared("eyepacs", source, tmp_path / "threads", **steps)
    _, there = prepared("eyepacs", source, tmp_path / "beam", beam_runner="DirectRunner", **steps)
    assert contents(here) == contents(there)


def test_the_command_line_names_a_wrong_step(tmp_path, capsys):
    source = sources.octdl(tmp_path / "source")
    flags = ["--dataset=octdl", f"--source={source}", f"--data_dir={tmp_path / 'data'}"]
    assert wlsrl("prepare", *flags, "--preprocess=flatten,ben_graham") == 2
    assert "error: --preprocess: ben_graham is not for oct images" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    assert wlsrl("prepare", *flags, "--preprocess=white_borders, flatten", "--size=32x40") == 0
    manifest = json.loads((tmp_path / "data" / "octdl" / "1.0.0" / "manifest.json").read_text())
    assert manifest["settings"]["preprocess"] == ["white_borders", "flatten"]


def draw_into(source, modality):
    """Replaces the noise in a folder by phantoms, so that the steps have something to do."""
    for k, path in enumerate(sorted(source.rglob("*.jp*g"))):
        image = drawn(modality, k % 4, 96, seed=k)
        Image.fromarray(image[..., 0] if modality == "oct" else image).save(path, quality=95)
    return source


@pytest.fixture(scope="module", params=["octdl", "eyepacs"])
def trained(request, tmp_path_factory):
    """(source folder, workdir of a run on a set prepared with steps, the steps)."""
    folder = tmp_path_factory.mktemp("preprocessed")
    name, kind = request.param, "oct" if request.param == "octdl" else "fundus"
    steps = ("flatten", "clahe") if kind == "oct" else ("ben_graham",)
    source = draw_into(sources.LAYOUTS[name](folder / "source"), kind)
    prepare(name, source, str(folder / "data"), size=(48, 64), preprocess=steps)
    run(folder / "run", kind, data__dataset=name, data__data_dir=str(folder / "data"),
        num_epochs=1.0, optimizer__warmup_epochs=0.0)  # fmt: skip
    return source, folder / "run", steps


def predicted(source, workdir, output):
    images = sorted(source.rglob("*.jp*g"))
    flags = [f"--workdir={workdir}", f"--output={output}", "--modality_check=off",
             "--quality_check=off"]  # fmt: skip
    assert predict.main([*flags, *map(str, images)]) == 0
    with (workdir / "predictions.csv").open() as file:
        evaluated = {line.split(",")[0] for line in file}
    return images, [r for r in rows_of(output) if Path(r["path"]).stem in evaluated]


def test_prediction_of_raw_files_is_the_evaluation(trained, tmp_path):
    source, workdir, steps = trained
    data = json.loads((workdir / "data.json").read_text())
    assert tuple(data["preprocess"]) == steps == input_spec(load_trained(workdir)).preprocess
    _, rows = predicted(source, workdir, tmp_path / "out.csv")
    tested = {r["id"] for r in rows_of(workdir / "predictions.csv") if r["split"] == "test"}
    rows = [r for r in rows if Path(r["path"]).stem in tested]
    assert len(rows) == len(tested) > 0
    assert_as_evaluated(rows, workdir)


def test_an_exported_model_brings_the_steps(trained, tmp_path):
    source, workdir, steps = trained
    images, _ = predicted(source, workdir, tmp_path / "out.csv")
    folder = export_run(load_trained(workdir), tmp_path / "model")
    about = json.loads((folder / "model.json").read_text())
    assert tuple(about["input"]["preprocess"]) == steps
    assert [s for s in about["input"]["steps"] if steps[0] in s]
    command = [sys.executable, str(folder / "run_model.py"), *map(str, images[:3])]
    environ = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environ)
    assert done.returncode == 0, done.stderr
    expected = {r["path"]: r for r in rows_of(tmp_path / "out.csv")}
    for line in done.stdout.splitlines():
        found = json.loads(line)
        for task, classes in ((t, found[t]) for t in found if t != "path"):
            for name, p in classes.items():
                assert p == pytest.approx(float(expected[found["path"]][f"{task}/{name}"]),
                                          abs=1e-4)  # fmt: skip


def test_a_set_prepared_with_other_steps_is_not_evaluated(tmp_path):
    own = sources.octdl(tmp_path / "octdl")
    other = sources.oct2017(tmp_path / "oct2017")
    data = tmp_path / "data"
    prepare("octdl", own, str(data), size=(32, 32), preprocess=("flatten",))
    run(tmp_path / "run", data__dataset="octdl", data__data_dir=str(data), num_epochs=1.0,
        optimizer__warmup_epochs=0.0)  # fmt: skip
    theirs = {"CNV": "AMD", "DRUSEN": "AMD", "NORMAL": "NO"}
    evaluate = functools.partial(
        external.evaluate_run, tmp_path / "run", StopRequest(), dataset="oct2017", label_map=theirs
    )
    message = (
        r"--dataset=oct2017 has images with the preprocessing steps {}, but .*run was trained on "
        r"images with flatten. It takes a set that was prepared with --preprocess=flatten"
    )
    for steps, told in (((), "none"), (("clahe", "flatten"), "clahe, flatten")):
        prepare("oct2017", other, str(data), size=(32, 32), preprocess=steps, overwrite=True)
        with pytest.raises(ValueError, match=message.format(told)):
            evaluate()
    prepare("oct2017", other, str(data), size=(32, 32), preprocess=("flatten",), overwrite=True)
    assert "TO1" in evaluate()["test"]


def test_a_run_without_steps_or_with_unknown_ones(finished):
    run_without = load_trained(finished)
    del run_without.data["preprocess"]  # of an earlier version
    assert input_spec(run_without).preprocess == ()
    run_without.data["preprocess"] = ["dewarp"]
    with pytest.raises(ValueError, match=r"data\.json: .*'dewarp' is no step.*newer version"):
        input_spec(run_without)


@pytest.mark.parametrize("modality", ["oct", "fundus"])
def test_the_contact_sheet(modality, tmp_path, capsys):
    pixels = drawn(modality, 1, 128)
    Image.fromarray(pixels[..., 0] if modality == "oct" else pixels).save(tmp_path / "a.png")
    steps = "flatten,clahe" if modality == "oct" else "clahe"
    flags = [f"--modality={modality}", f"--preprocess={steps}", "--width=100"]
    assert wlsrl("steps", *flags, f"--output={tmp_path / 's.jpg'}", str(tmp_path / "a.png")) == 0
    columns = 5 if modality == "oct" else 3  # one more for several steps
    with Image.open(tmp_path / "s.jpg") as sheet:
        assert sheet.width == columns * 104 + 4
        shown = np.asarray(sheet)[22:122, 4:104].astype(int)
    crop = shrink(pixels, 100, 100, crop=MODALITIES[modality].round_field)
    assert np.abs(shown - crop).mean() < 12
    assert wlsrl("steps", *flags, f"--output={tmp_path / 's.xyz'}", str(tmp_path / "a.png")) == 2
    assert ".jpg or .png" in capsys.readouterr().err
    (tmp_path / "b.png").write_bytes(b"no image")
    assert wlsrl("steps", *flags, f"--output={tmp_path / 's.jpg'}", str(tmp_path / "b.png")) == 2
    assert "b.png: not an image" in capsys.readouterr().err


REAL = Path(os.environ.get("WLSRL_TEST_DATA", "")) / "octdl"


@pytest.mark.skipif(not os.environ.get("WLSRL_TEST_DATA"), reason="needs WLSRL_TEST_DATA")
def test_real_scans_stay_level_when_they_are_rotated():
    """The RPE of a scan and of the same scan rotated by 6 degrees are one line."""
    off = []
    for path in sorted(REAL.glob("*/*.jpg"))[::25]:
        scan = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)[..., None]
        height, width = scan.shape[:2]
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 6, 1)
        turned = cv2.warpAffine(scan, matrix, (width, height), borderValue=255)[..., None]
        curves = rpe_curve(scan), rpe_curve(white_borders(turned))
        if curves[0] is None or curves[1] is None:
            off.append(1.0)
            continue
        x, y = matrix @ np.stack([np.arange(width), curves[0], np.ones(width)])
        seen = (x >= 0) & (x < width - 1)
        again = np.interp(x[seen], np.arange(width), curves[1])
        off.append(np.median(np.abs(again - y[seen])) / height)
    assert len(off) > 60 and np.mean(np.array(off) < 0.02) > 0.93


def test_shrinking_averages():
    checker = np.indices((64, 64)).sum(0)[..., None] % 2 * 255
    small = resize(checker.astype(np.uint8), 16, 16)
    assert abs(small.astype(float).mean() - 127.5) < 2 and small.std() < 2
