"""A new data set, loss, modality, trunk or task is added in one place; nothing else is touched."""

import dataclasses
import io
import json
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from tests import sources
from tests.tiny import run, tiny_config, wlsrl
from wlsrl_jax import losses, tasks
from wlsrl_jax.config.fields import base_config
from wlsrl_jax.data import published as builders
from wlsrl_jax.data.images import quality
from wlsrl_jax.data.images.decode import presize
from wlsrl_jax.data.images.listing import Item
from wlsrl_jax.data.images.modality import mismatch
from wlsrl_jax.data.images.pixels import STEPS
from wlsrl_jax.data.phantoms.source import PHANTOMS, PhantomSource
from wlsrl_jax.data.prepare.__main__ import prepare
from wlsrl_jax.explain.class_maps import grad_cam
from wlsrl_jax.export.__main__ import describe
from wlsrl_jax.models import trunks
from wlsrl_jax.models.layers import Conv, space_to_depth
from wlsrl_jax.models.trunks import Trunk
from wlsrl_jax.report.model_card import model_card
from wlsrl_jax.runs.input import input_spec, read_input
from wlsrl_jax.runs.open import load_trained
from wlsrl_jax.runtime.stop import StopRequest
from wlsrl_jax.training.loop import train
from wlsrl_jax.training.setup import build_run

BUILDER = """
    from wlsrl_jax.data.published.common import DatasetSpec, Record, list_images

    CLASSES = ("drusen", "healthy")

    def scan(source):
        \"\"\"Reads one folder a class; names are PATIENT_NUMBER.\"\"\"
        records = []
        for label, name in enumerate(CLASSES):
            for path in list_images(source / name, source)[0]:
                relative = path.relative_to(source).as_posix()
                records.append(Record(relative, path.stem, label, path.stem.split("_")[0]))
        return records, []

    SPEC = DatasetSpec(
        name="clinic", modality="oct", classes=CLASSES, normal="healthy", scan=scan,
        size=(32, 32), homepage="", license="", citation="",
    )
"""


def test_a_data_set_is_one_file(tmp_path, monkeypatch):
    folder = tmp_path / "builders"
    folder.mkdir()
    (folder / "clinic.py").write_text(textwrap.dedent(BUILDER))
    monkeypatch.setattr(builders, "__path__", [*builders.__path__, str(folder)])
    for k in range(40):
        name = ("drusen", "healthy")[k % 2]
        path = tmp_path / "source" / name / f"p{k // 2 * 2 + k % 2}_{k}.jpg"
        sources.write(path, sources.picture(k))
    prepare("clinic", tmp_path / "source", str(tmp_path / "data"))
    assert base_config("oct", "clinic").data.dataset == "clinic"
    document = run(tmp_path / "run", data__dataset="clinic", data__data_dir=str(tmp_path / "data"),
                   batch_size=8)  # fmt: skip
    assert document["dataset"] == "clinic" and document["phantom"] is False
    assert document["test"]["TO1"]["count"] > 0


def test_a_loss_is_one_function_and_its_row(monkeypatch):
    def brier(class_weights, power=2.0):
        def value(logits, target):
            return jnp.sum(jnp.abs(jax.nn.softmax(logits) - target) ** power, axis=-1)

        return losses.Loss(np.diag(class_weights), class_weights, value)

    monkeypatch.setitem(losses.LOSSES, "brier", losses.LossSpec(brier, ("power",)))
    assert base_config("oct").loss.power == 2.0
    config = tiny_config()
    with config.unlocked():
        config.loss.power = 4.0
    config.loss.name = "brier"
    values, weights = build_run(config).losses["TO2"](jnp.zeros((3, 2)), jnp.array([0, 1, 1]))
    assert float(values.sum() / weights.sum()) == pytest.approx(2 * 0.5**4)


class Patches(Trunk):
    """Of blocks of pixels, and one convolution."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.relu(Conv(self.widths[0], name="conv")(space_to_depth(x, 4)))
        return self.stage_output(0, x)


def test_a_trunk_is_a_module_and_its_row(tmp_path, monkeypatch):
    row = trunks.Row("patches", "separable", Patches, (12,), ())
    monkeypatch.setattr(trunks, "TRUNKS", (*trunks.TRUNKS, row))
    run(tmp_path / "run", model__separable="patches")
    trained = load_trained(tmp_path / "run")
    assert trained.variables["params"]["patches"]["conv"]["kernel"].shape == (3, 3, 16, 12)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), dtype=np.uint8)
    maps = grad_cam(trained.model, trained.variables, images, "TO1", np.array([0, 1]))
    assert set(maps) == {"patches", "standard", "fused"} and maps["patches"].any()
    with pytest.raises(ValueError, match="separable='patch' is unknown; choose one of plain, patc"):
        build_run(tiny_config(model__separable="patch"))


def test_a_modality_is_a_row_and_what_was_fitted_on_its_pictures(tmp_path, monkeypatch, capsys):
    """Read from the row: channels, the crop, sizes, steps, names, tasks and rules of the audit."""
    kind = dataclasses.replace(
        tasks.FUNDUS, name="slit_lamp", article="a", noun="slit-lamp photograph", graded=False,
        size=(24, 40), steps=("clahe",), tasks=(tasks.TaskRule("TS1"),), near_bits=0,
    )  # fmt: skip
    monkeypatch.setitem(tasks.MODALITIES, "slit_lamp", kind)
    for table in (quality._DARK, quality._WEIGHTS):
        monkeypatch.setitem(table, "slit_lamp", table["fundus"])
    buffer = io.BytesIO()
    Image.fromarray(PhantomSource("fundus", "test", 1, 40, 60)[0]["image"]).save(buffer, "PNG")
    alike = [presize(buffer.getvalue(), name, 20, 20) for name in ("slit_lamp", "fundus")]
    assert alike[0] == alike[1]
    source = tmp_path / "source"
    for k in range(40):
        name = ("cataract", "healthy")[k % 2]
        sources.write(source / name / f"{k}.jpg", sources.picture(k, "fundus"))
    flags = ["--dataset=folder", "--name=clinic", "--modality=slit_lamp", f"--source={source}",
             f"--data_dir={tmp_path}"]  # fmt: skip
    assert wlsrl("prepare", *flags, "--preprocess=ben_graham") == 2
    assert "not for slit_lamp images; those are clahe" in capsys.readouterr().err
    assert wlsrl("prepare", *flags, "--preprocess=clahe") == 0
    manifest = json.loads((tmp_path / "clinic" / "1.0.0" / "manifest.json").read_text())
    assert manifest["modality"] == "slit_lamp" and manifest["settings"]["size"] == [24, 40]
    assert manifest["classes"] == ["cataract", "healthy"]
    assert manifest["audit"]["near_identical"]["rule"]["hash_bits"] == 0
    config = tiny_config(data__dataset="clinic", data__data_dir=str(tmp_path), batch_size=8)
    defaults = base_config("slit_lamp", "clinic")
    config.modality, config.task_weights = "slit_lamp", defaults.task_weights
    config.loss.by_task = defaults.loss.by_task
    document = train(config, tmp_path / "run", StopRequest())
    assert set(document["test"]) == {"TS1"}
    trained = load_trained(tmp_path / "run")
    assert trained.image_shape == (32, 32, 3)
    assert describe(trained, b"")["input"]["steps"][0].startswith("crop to the round field")
    text = model_card(tmp_path / "run")
    assert "RGB colour slit-lamp photograph" in text
    sources.write(tmp_path / "grey.jpg", sources.picture(1, "oct", size=(40, 40)))
    wrong = read_input(Item(str(tmp_path / "grey.jpg")), input_spec(trained), "off")
    assert mismatch("oct", "slit_lamp").endswith("trained on slit-lamp photographs")
    assert wrong.image.shape == (32, 32, 3)


def test_every_modality_has_what_is_its_own():
    known = set(tasks.MODALITIES)
    assert known == set(quality._DARK) == set(quality._WEIGHTS) == set(PHANTOMS)
    steps = {name for kind in tasks.MODALITIES.values() for name in kind.steps}
    assert steps == set(STEPS)


def set_tasks(monkeypatch, *rules):
    changed = dataclasses.replace(tasks.FUNDUS, tasks=rules)
    monkeypatch.setitem(tasks.MODALITIES, "fundus", changed)


def test_a_task_is_one_line(tmp_path, monkeypatch):
    def referable(grade, normal):
        return "referable" if int(grade) >= 2 else "not referable"

    rule = tasks.TaskRule("TF3", ("not referable", "referable"), referable)
    set_tasks(monkeypatch, *tasks.FUNDUS.tasks, rule)
    document = run(tmp_path / "run", "fundus")
    assert set(document["test"]) == {"TF1", "TF2", "TF3"}
    assert document["test"]["TF3"]["count"] == 50


def test_a_rule_that_names_no_class(monkeypatch):
    rule = tasks.TaskRule("TF3", ("a", "b"), lambda name, normal: "c")
    set_tasks(monkeypatch, rule)
    with pytest.raises(ValueError, match="TF3: its rule gives 'c', its classes are a, b"):
        tasks.make_tasks("fundus", ("0", "1"), "0")
    rule = tasks.TaskRule("TF3", ("a",), lambda name, normal: "a" if name == "0" else None)
    set_tasks(monkeypatch, rule)
    assert tasks.make_tasks("fundus", ("0", "1"), "0")[0].label_map == (0, tasks.MISSING)
