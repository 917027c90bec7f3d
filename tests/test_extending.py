"""A new data set, loss or task is added in one place; nothing else is touched."""

import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import sources
from tests.tiny import run, tiny_config
from wlsrl_jax import losses, tasks
from wlsrl_jax.config.fields import base_config
from wlsrl_jax.data import published as builders
from wlsrl_jax.data.prepare.__main__ import prepare
from wlsrl_jax.train.setup import build_run

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


def test_a_task_is_one_line(tmp_path, monkeypatch):
    def referable(grade, normal):
        return "referable" if int(grade) >= 2 else "not referable"

    rule = tasks.TaskRule("TF3", ("not referable", "referable"), referable)
    monkeypatch.setitem(tasks.TASKS, "fundus", (*tasks.TASKS["fundus"], rule))
    document = run(tmp_path / "run", "fundus")
    assert set(document["test"]) == {"TF1", "TF2", "TF3"}
    assert document["test"]["TF3"]["count"] == 50


def test_a_rule_that_names_no_class(monkeypatch):
    rule = tasks.TaskRule("TF3", ("a", "b"), lambda name, normal: "c")
    monkeypatch.setitem(tasks.TASKS, "fundus", (rule,))
    with pytest.raises(ValueError, match="TF3: its rule gives 'c', its classes are a, b"):
        tasks.make_tasks("fundus", ("0", "1"), "0")
    rule = tasks.TaskRule("TF3", ("a",), lambda name, normal: "a" if name == "0" else None)
    monkeypatch.setitem(tasks.TASKS, "fundus", (rule,))
    assert tasks.make_tasks("fundus", ("0", "1"), "0")[0].label_map == (0, tasks.MISSING)
