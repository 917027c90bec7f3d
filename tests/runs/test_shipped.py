"""Packed runs, and the model that comes with the package."""

import csv
import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import ship
from tests import sources
from tests.predict.test_predict import rows_of, write_phantoms
from tests.tiny import read_predictions, run, tiny_config
from wlsrl_jax.data.dataset import is_same_data, load_dataset
from wlsrl_jax.data.prepare import __main__ as prepare
from wlsrl_jax.evaluate.external import evaluate_run
from wlsrl_jax.evaluate.predictions import evaluate_predictions
from wlsrl_jax.explain.__main__ import main as explain
from wlsrl_jax.export import __main__ as export
from wlsrl_jax.export.pack import _ids, check_folder, pack
from wlsrl_jax.models.by_name import build_model
from wlsrl_jax.predict import __main__ as predict
from wlsrl_jax.predict import demo, uncertainty
from wlsrl_jax.report import build, model_card
from wlsrl_jax.report.collect import collect
from wlsrl_jax.runs import packed, provenance
from wlsrl_jax.runs import shipped as pretrained
from wlsrl_jax.runs.open import introduction, load_trained
from wlsrl_jax.runs.packed import MARK, WEIGHTS
from wlsrl_jax.runtime.stop import StopRequest
from wlsrl_jax.training.loop import train

SHIPPED = pretrained.resolve(pretrained.DEFAULT)


@pytest.fixture(scope="module")
def shipped():
    return load_trained(pretrained.DEFAULT)


@pytest.fixture(scope="module")
def packed_run(finished, tmp_path_factory):
    return pack(finished, tmp_path_factory.mktemp("packed") / "tiny", note="A rehearsal.")


@pytest.mark.parametrize("implementation", ["auto", "lax"])
def test_phantoms_get_the_committed_probabilities(shipped, implementation):
    config = shipped.config.copy_and_resolve_references()
    config.model.conv_implementation = implementation
    model = build_model(config, shipped.tasks)
    found = ship.phantom_answers(dataclasses.replace(shipped, model=model))
    document = json.loads(ship.PHANTOMS.read_text())
    assert (document["size"], document["seed"]) == ([*ship.SIZE], ship.SEED)
    assert found.keys() == document["probabilities"].keys()
    for task, expected in document["probabilities"].items():
        np.testing.assert_allclose(found[task], expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(found[task].argmax(1), np.argmax(expected, 1))


@pytest.fixture(scope="module")
def octdl(tmp_path_factory):
    """Prepared OCTDL, as the shipped model knows it."""
    source = Path(os.environ.get("WLSRL_TEST_DATA", "")) / "octdl"
    if not os.environ.get("WLSRL_TEST_DATA") or not source.is_dir():
        pytest.skip("needs WLSRL_TEST_DATA with octdl/")
    data_dir = tmp_path_factory.mktemp("octdl")
    prepare.prepare("octdl", source, str(data_dir))
    return str(data_dir)


def test_the_test_split_gets_the_committed_probabilities_and_metrics(shipped, octdl):
    found = ship.split_answers(shipped, octdl)
    with ship.TEST_SPLIT.open(newline="") as file:
        rows = {row.pop("id"): row for row in csv.DictReader(file)}
    assert {ship.hashed(name) for name in found.ids.tolist()} == rows.keys()
    assert len(rows) == len(found.ids) > 200
    for task in shipped.tasks:
        columns = [f"{task.name}/{c}" for c in task.classes]
        expected = np.asarray(
            [[float(rows[ship.hashed(n)][c]) for c in columns] for n in found.ids.tolist()]
        )
        got = found.probabilities[task.name]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(got.argmax(1), expected.argmax(1))
    metrics, _ = evaluate_predictions(shipped.tasks, found)
    committed = json.loads((SHIPPED / "metrics.json").read_text())["test"]
    for task, values in metrics.items():
        for name, value in values.items():
            assert committed[task][name] == pytest.approx(value, abs=1e-4), (task, name)


def test_its_data_are_known_again(shipped, octdl):
    data = shipped.config.copy_and_resolve_references().data
    data.data_dir = octdl
    dataset = load_dataset(data, "oct")
    other = {**shipped.data, "fingerprint": "of a preparation by another version"}
    assert is_same_data(other, dataset)
    swapped = {**dataset.splits, "train": dataset.splits["test"], "test": dataset.splits["train"]}
    assert not is_same_data(other, dataclasses.replace(dataset, splits=swapped))
    assert not is_same_data({**other, "division": ""}, dataset)


def test_fine_tuning_it_where_its_training_images_are_tested_is_refused(shipped, octdl):
    data = shipped.config.copy_and_resolve_references().data
    data.data_dir = octdl
    dataset = load_dataset(data, "oct")
    seen, asked = provenance.ask_init_from("pretrained:octdl", dataset, "refuse")
    assert seen.patients == provenance.of_dataset("", dataset).patients  # its very preparation
    assert not any(found["warning"] for found in asked)  # the same division tests nothing it saw
    splits = {**dataset.splits, "test": dataset.splits["train"], "train": dataset.splits["test"]}
    other = dataclasses.replace(dataset, splits=splits)
    with pytest.raises(ValueError, match="1175 among the images that pretrained:octdl was trained"):
        provenance.ask_init_from("pretrained:octdl", other, "refuse")
    _, asked = provenance.ask_init_from("pretrained:octdl", other, "warn")
    assert [found["leak"] for found in asked] == [False, True]


def test_evaluation_writes_nothing_into_the_package(shipped, octdl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(SHIPPED.iterdir())
    document = evaluate_run(pretrained.DEFAULT, StopRequest(), data_dir=octdl)
    assert document["test"]["TO1"]["count"] > 200
    out = tmp_path / "runs" / "pretrained-octdl"
    assert (out / "evaluation-octdl-test" / "metrics.json").exists()
    uncertainty.main([f"--workdir={pretrained.DEFAULT}", f"--data_dir={octdl}"])
    assert (out / "uncertainty-single-test" / "referral.json").exists()
    assert sorted(SHIPPED.iterdir()) == before


def test_predict_without_a_workdir(shipped, tmp_path, capsys):
    images = write_phantoms(tmp_path / "images", 3, size=96)
    flags = ["--modality_check=off", "--batch_size=4"]
    assert predict.main([str(images), *flags]) == 0
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "pretrained:octdl" in line]
    assert len(lines) == 1 and "trained on octdl" in lines[0] and "Research use only" in lines[0]
    printed = list(csv.DictReader(out.splitlines()))
    assert len(printed) == 3 and "TO1/ERM" in printed[0]
    named = [f"--workdir={pretrained.DEFAULT}", f"--output={tmp_path / 'out.csv'}", *flags]
    assert predict.main([str(images), *named]) == 0
    assert rows_of(tmp_path / "out.csv") == printed
    (tmp_path / "images" / "cut.png").write_bytes(b"\x89PNG")
    assert predict.main([str(images), *flags]) == predict.EXIT_SOME_BAD
    out, err = capsys.readouterr()
    assert "1 images without a row" in err and "wlsrl_jax_predict_" not in out + err


def test_demo_explain_export_and_card_without_a_run(shipped, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = next(write_phantoms(tmp_path / "images", 1, size=96).glob("*.png"))
    seen = []
    monkeypatch.setattr(demo, "import_gradio", lambda: None)
    monkeypatch.setattr(demo, "serve", lambda run, *_: seen.append(run))  # needs Gradio
    assert demo.main([]) == 0
    assert introduction(shipped) in capsys.readouterr().err
    answer = demo.make_analysis(seen[0])(path, 1)
    assert sum(answer.probabilities["TO1"].values()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="nowhere.png"):  # the model is there, the image is not
        explain(["nowhere.png", "--output=maps"])
    assert introduction(shipped) in capsys.readouterr().err
    export.main([f"--workdir={pretrained.DEFAULT}", "--output=model"])
    assert json.loads((tmp_path / "model" / "model.json").read_text())["dataset"] == "octdl"
    model_card.main([f"--workdir={pretrained.DEFAULT}"])
    card = (tmp_path / "runs" / "pretrained-octdl" / "MODEL_CARD.md").read_text()
    assert card.startswith("# Model card: octdl")
    with pytest.raises(ValueError, match="packed run, which holds no predictions"):
        build.build([pretrained.DEFAULT])


def test_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pretrained.names() == ["octdl"]
    with pytest.raises(ValueError, match=r"no model pretrained:octld; .*: pretrained:octdl\."):
        load_trained(Path("pretrained:octld"))
    with pytest.raises(ValueError, match=r"init_from=pretrained:x: there is no model pretrained:x"):
        run(Path("a"), init_from="pretrained:x")
    with pytest.raises(ValueError, match=r"--config\.init_from=pretrained:octdl"):
        run(pretrained.DEFAULT)
    assert not Path("a/config.json").exists() and not Path("pretrained:octdl").exists()


def test_damage_names_the_file(packed_run, tmp_path):
    shutil.copytree(packed_run, tmp_path / "m")
    weights, mark = tmp_path / "m" / WEIGHTS, tmp_path / "m" / MARK
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.npz is damaged: its SHA-256"):
        load_trained(tmp_path / "m")
    weights.unlink()
    with pytest.raises(ValueError, match=r"weights\.npz cannot be read \(No such file"):
        load_trained(tmp_path / "m")
    mark.write_text("{}")
    with pytest.raises(ValueError, match=r"packed\.json is damaged"):
        load_trained(tmp_path / "m")


def test_a_packed_run_predicts_as_the_run_does(finished, packed_run, tmp_path):
    a, b = load_trained(finished), load_trained(packed_run)
    assert jax.tree.structure(a.variables) == jax.tree.structure(b.variables)
    jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)
    images = write_phantoms(tmp_path / "images", 5)
    flags = ["--modality_check=off", "--calibrated", str(images)]
    for name, workdir in (("a", finished), ("b", packed_run)):
        predict.main([f"--workdir={workdir}", f"--output={tmp_path / name}.csv", *flags])
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    own = {r["id"]: r for r in read_predictions(finished) if r["split"] == "test"}
    analyse = demo.make_analysis(b)
    for path in images.glob("*.png"):
        for task, values in analyse(path, 1).probabilities.items():
            for name, value in values.items():
                truth = float(own[path.stem.rsplit("-", 1)[0]][f"{task}/{name}"])
                assert value == pytest.approx(truth, abs=1e-5)
    assert introduction(b) == ""  # of one's own: nothing to introduce


def test_packing(finished, packed_run, tmp_path):
    again = pack(finished, tmp_path / "again")
    assert (again / WEIGHTS).read_bytes() == (packed_run / WEIGHTS).read_bytes()
    assert pack(finished, again, note="Other.") == again  # an earlier one is replaced
    assert packed.read_mark(again)["note"] == "Other."
    assert "**Other.**" in (again / "MODEL_CARD.md").read_text()
    assert not [p for p in tmp_path.iterdir() if p != again]
    with pytest.raises(ValueError, match="is packed already"):
        pack(packed_run, tmp_path / "twice")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="holds something else"):
        pack(finished, tmp_path / "mine")
    assert len(list((tmp_path / "mine").iterdir())) == 1


def test_what_must_not_be_given_away_is_refused(packed_run, tmp_path):
    check_folder(packed_run, {"phantom-oct-test-000001"})
    for text, message in [("phantom-oct-test-000001", "metrics.json would name an image"),
                          ("see /home/me/data", "would hold a path .* /home/me/data")]:  # fmt: skip
        shutil.copytree(packed_run, tmp_path / "m", dirs_exist_ok=True)
        document = json.loads((packed_run / "metrics.json").read_text())
        (tmp_path / "m" / "metrics.json").write_text(json.dumps({**document, "more": [text]}))
        with pytest.raises(ValueError, match=message):
            check_folder(tmp_path / "m", {"phantom-oct-test-000001"})


def test_fine_tuning_starts_from_packed_weights(packed_run, tmp_path, capsys):
    config = tiny_config("fundus", init_from=str(packed_run), num_epochs=1.0,
                         optimizer__warmup_epochs=0.0)  # fmt: skip
    train(config, tmp_path / "run", StopRequest())
    told = [line for line in capsys.readouterr().out.splitlines() if "starts afresh" in line]
    assert 0 < len(told) < 10 and not any("batch_stats" in line for line in told)


def test_the_shipped_files():
    files = sorted(p.name for p in SHIPPED.iterdir())
    assert files == sorted([*packed.DOCUMENTS, "MODEL_CARD.md", MARK, WEIGHTS, provenance.NAME])
    assert sum(p.stat().st_size for p in SHIPPED.iterdir()) < 8e6
    assert ship.TEST_SPLIT.stat().st_size < 40e3
    check_folder(SHIPPED, set())
    for path in (*SHIPPED.iterdir(), ship.TEST_SPLIT, ship.PHANTOMS):
        if path.name != WEIGHTS:  # ids of OCTDL read amd_1101816_1, patients 1101816
            text = path.read_text()
            assert not re.search(r"\b(amd|dme|erm|no|rao|rvo|vid)_\d+", text, re.I), path
            assert not re.search(r'["\s]\d{7}["\s]', text), path
            assert not re.search(r"/(home|tmp|work|root|Users)/", text), path
    card = (SHIPPED / "MODEL_CARD.md").read_text()
    for wanted in ("Kulyabin", "10.1038/s41597-024-03182-7", "CC BY 4.0", "Changed: ",
                   "wlsrl train --config", "no medical device"):  # fmt: skip
        assert wanted in card, wanted


def test_names_of_a_prepared_set_stay_behind(tmp_path):
    """What preparation found names images and patients; a packed run counts them."""
    source = sources.octdl(tmp_path / "octdl")
    prepare.prepare("octdl", source, str(tmp_path / "data"), size=(32, 32))
    run(tmp_path / "run", data__dataset="octdl", data__data_dir=str(tmp_path / "data"),
        num_epochs=1.0, optimizer__warmup_epochs=0.0)  # fmt: skip
    folder = pack(tmp_path / "run", tmp_path / "out")
    ids = _ids(collect(tmp_path / "run"))
    assert ids
    texts = [p.read_text() for p in folder.iterdir() if p.name != WEIGHTS]
    assert not [name for name in ids for text in texts if f'"{name}"' in text]
    config = json.loads((folder / "config.json").read_text())
    assert config["data"]["data_dir"] == "" and str(tmp_path) not in "".join(texts)
