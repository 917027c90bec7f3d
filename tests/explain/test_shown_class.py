"""The class that is shown is the class that the map beside it explains, seen from both sides."""

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wlsrl_jax.data.images.listing import find_images
from wlsrl_jax.evaluate.predictions import Predictions
from wlsrl_jax.explain import __main__ as explain
from wlsrl_jax.models.predictor import make_predict_step, normalize
from wlsrl_jax.predict import __main__ as predict
from wlsrl_jax.predict import demo, uncertainty
from wlsrl_jax.predict.table import PredictionFile
from wlsrl_jax.report import mistakes
from wlsrl_jax.runs.open import load_trained

COUNT = 12


@pytest.fixture(scope="module")
def mirrored(finished):
    """A run whose answer is the mean over both sides, and images of which one side says another."""
    run = load_trained(finished)
    config = run.config.copy_and_resolve_references()
    config.eval.mirror = True
    coarse = np.random.default_rng(0).integers(0, 256, (600, 4, 4, 1), dtype=np.uint8)
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)
    started = run.model.init(jax.random.key(3), jnp.zeros((1, 32, 32, 1)), train=False)
    variables = jax.tree.map(np.asarray, dict(started))
    # Heads without a favourite: what an image is called depends on the image.
    logits = run.model.apply(variables, normalize(jnp.asarray(images)), train=False)
    for task in run.tasks:
        head = variables["params"][f"head_{task.name}"]
        head["bias"] = head["bias"] - np.asarray(logits[task.name]).mean(axis=0)
        head["kernel"] = head["kernel"] * 20
        head["bias"] = head["bias"] * 20
    run = dataclasses.replace(run, config=config, variables=variables)
    both, one = (
        np.asarray(jax.jit(make_predict_step(run.model, mirror=m))(run.variables, images)["TO1"])
        for m in (True, False)
    )
    differ = np.flatnonzero(both.argmax(1) != one.argmax(1))
    assert len(differ) >= COUNT
    return run, images[differ[:COUNT]], both[differ[:COUNT]].argmax(1)


@pytest.fixture
def explained(monkeypatch):
    """The classes of TO1 that maps were asked for, in order."""
    found = []
    for module in (predict, demo, explain, mistakes):

        def spy(model, variables, images, task, classes, real=module.grad_cam, **options):
            if task == "TO1":
                found.extend(np.asarray(classes).tolist())
            return real(model, variables, images, task, classes, **options)

        monkeypatch.setattr(module, "grad_cam", spy)
    return found


def files(images, folder):
    folder.mkdir()
    for k, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(folder / f"{k:02d}.png")
    return folder


def test_overlays_of_predict(mirrored, explained, tmp_path):
    run, images, shown = mirrored
    items = find_images([str(files(images, tmp_path / "images"))]).items
    columns = [f"{t.name}/{c}" for t in run.tasks for c in t.classes]
    draw = predict._overlays(run, tmp_path / "maps", items)
    with PredictionFile(tmp_path / "out.csv", columns, {}, {}) as file:
        predict.predict_images(run, items, file, batch_size=8, modality_check="off",
                               quality_check="off", on_batch=draw)  # fmt: skip
        file.finish()
    with (tmp_path / "out.csv").open() as table:
        rows = [[float(r[c]) for c in columns[:4]] for r in csv.DictReader(table)]
    assert np.argmax(rows, axis=1).tolist() == shown.tolist()
    assert explained[:COUNT] == shown.tolist()


def test_demo(mirrored, explained, tmp_path):
    run, images, shown = mirrored
    analyse = demo.make_analysis(run, quality_check="off")
    folder = files(images[:3], tmp_path / "images")
    for path in sorted(folder.iterdir()):
        analyse(path, 1)
    assert explained == shown[:3].tolist()


def test_explain(mirrored, explained, tmp_path, monkeypatch):
    run, images, shown = mirrored
    given = []
    for name in ("integrated_gradients", "deletion_insertion"):
        real = getattr(explain, name)

        def spy(model, variables, batch, *rest, real=real, **options):
            if any(isinstance(r, str) and r == "TO1" for r in rest):
                given.append(np.asarray(rest[-1])[:3].tolist())
            return real(model, variables, batch, *rest, **options)

        monkeypatch.setattr(explain, name, spy)
    named = [(f"i{k}", image) for k, image in enumerate(images[:3])]
    document = explain.explain(run, named, tmp_path / "maps")
    rows = [r for r in document["images"] if r["task"] == "TO1"]
    assert [run.tasks[0].classes.index(r["class"]) for r in rows] == shown[:3].tolist()
    assert explained[:3] == shown[:3].tolist()
    assert given and all(classes == shown[:3].tolist() for classes in given)


def test_mistakes_of_the_report(mirrored, explained):
    run, images, shown = mirrored
    output = run.predictor()(jnp.asarray(images))
    p = {t.name: np.asarray(output[t.name]) for t in run.tasks}
    labels = {t.name: (p[t.name].argmax(1) + 1) % t.num_classes for t in run.tasks}  # all wrong
    names = np.asarray([f"i{k}" for k in range(COUNT)])
    found = mistakes.mistakes(
        run, [{"image": image} for image in images], Predictions(names, names, labels, p),
        most=4, show_ids=True,
    )  # fmt: skip
    expected = [int(shown[int(item["id"][1:])]) for item in found[0]["items"]]
    assert len(expected) == 4 and explained == expected
    assert [run.tasks[0].classes.index(i["said"]) for i in found[0]["items"]] == expected


def test_dropout_sees_both_sides_as_well(mirrored):
    run, images, _ = mirrored
    config = run.config.copy_and_resolve_references()
    config.model.dropout = 0.3
    run = dataclasses.replace(run, config=config)
    members = uncertainty.monte_carlo_dropout(run, 3)
    flipped = np.ascontiguousarray(images[:, :, ::-1])
    for a, b in zip(members(images, 0), members(flipped, 0), strict=True):
        np.testing.assert_allclose(a["TO1"], b["TO1"], atol=1e-6)
    config.eval.mirror = False
    alone = uncertainty.monte_carlo_dropout(run, 1)
    assert np.abs(alone(images, 0)[0]["TO1"] - alone(flipped, 0)[0]["TO1"]).max() > 1e-3
