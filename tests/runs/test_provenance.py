"""What was trained on is not tested without a word, whichever command brings the two together."""

import ast
import dataclasses
import json
import shutil

import numpy as np
import pytest

from tests import sources
from tests.tiny import ROOT, StopAfter, tiny_config
from wlsrl_jax.data.prepare import __main__ as prepare
from wlsrl_jax.data.prepare.place import LOOKS as PREPARED_LOOKS
from wlsrl_jax.data.published.folder import FolderOptions
from wlsrl_jax.evaluate.external import evaluate_run
from wlsrl_jax.explain import __main__ as explain
from wlsrl_jax.explain import pointing
from wlsrl_jax.export.pack import pack
from wlsrl_jax.files import Mistake
from wlsrl_jax.predict import uncertainty
from wlsrl_jax.report import build, model_card
from wlsrl_jax.runs import provenance
from wlsrl_jax.runs.provenance import TrainedOn, overlap
from wlsrl_jax.runtime.stop import PreemptedError, StopRequest
from wlsrl_jax.tasks import MODALITIES
from wlsrl_jax.training import loop
from wlsrl_jax.training.loop import train
from wlsrl_jax.training.setup import build_run


def a_test(images, groups=None, patients=None, looks=None, modality="oct"):
    names = tuple(f"i{k}" for k in range(len(images)))
    groups = tuple(groups or names)
    mine = {g: frozenset(h for h, o in zip(images, groups) if o == g) for g in groups}
    return provenance.Tested(
        "s (test)", modality, names, tuple(images), groups, mine | (patients or {}), looks
    )


def test_every_kind_of_overlap_is_told_apart():
    trained = TrainedOn(
        "a",
        (
            {"train": ("t1", "t2")},
            {"train": ("t3",), "other": ("o1",)},  # a patient on both sides
            {"validation": ("v1", "v2")},
        ),
    )
    found = overlap(trained, a_test(["t1", "v1", "o1", "n1", "n2"]))
    assert found.trained_on.tolist() == [True, False, False, False, False]
    assert found.chosen_by.tolist() == [False, True, False, False, False]
    assert found.same_patient.tolist() == [False, False, True, False, False]
    assert found.near_identical is None and found.patients == 3 and found.leak
    assert "1 among the images that a was trained on" in found.text
    assert "1 images that chose a's checkpoint" in found.text
    assert "(3 of 5 patients or groups)" in found.text
    # The tested set knows that two of its images are of one patient; the run saw the other one.
    person = {"p": frozenset({"t2", "n1"})}
    other = overlap(trained, a_test(["n1", "n2"], ["p", "q"], person))
    assert other.same_patient.tolist() == [True, False] and other.leak
    clean = overlap(trained, a_test(["n1", "n2"]))
    assert not clean.leak and not clean.suspect and "none is known" in clean.text
    only_chosen = a_test(["v1"])
    assert overlap(trained, only_chosen).leak
    assert not overlap(trained, only_chosen, chosen_counts=False).leak


def test_what_cannot_be_verified_is_a_warning():
    found = overlap(TrainedOn("a", (), ("a",)), a_test(["x"]))
    assert not found.leak and found.suspect and not found.verified
    assert found.document()["unverified"] == ["a"]
    assert "what a was trained on is not recorded" in found.text


@pytest.mark.parametrize("modality", ["oct", "fundus"])
def test_near_identical_is_within_a_number_of_bits(modality):
    rng = np.random.default_rng(0)
    theirs = rng.integers(0, 256, (300, 16), dtype=np.uint8)
    bits = np.unpackbits(theirs[:40], axis=1)
    for row in range(40):
        flipped = rng.choice(128, row // 2, replace=False)
        bits[row, flipped] ^= 1
    mine = np.packbits(bits, axis=1)
    trained = TrainedOn("a", (), (), theirs)
    found = overlap(trained, a_test([f"n{k}" for k in range(40)], looks=mine, modality=modality))
    assert found.near_identical.tolist() == [
        row // 2 <= MODALITIES[modality].near_bits_alone for row in range(40)
    ]
    assert not found.leak and found.suspect  # alike is not proven to be the same


@pytest.mark.parametrize("distance", [0, 1, 8])
def test_looking_for_equal_parts_first_misses_no_pair(distance, monkeypatch):
    monkeypatch.setattr(provenance, "_BLOCK", 50)
    rng = np.random.default_rng(distance)
    bits = rng.random((120, 128)) < 0.08  # so few are set that many pairs are close
    mine, theirs = np.packbits(bits[:60], axis=1), np.packbits(bits[60:], axis=1)
    theirs[:5] = mine[:5]
    apart = (np.unpackbits(mine, axis=1)[:, None] != np.unpackbits(theirs, axis=1)).sum(-1)
    expected = (apart <= distance).any(axis=1)
    assert 5 <= expected.sum() < 60
    np.testing.assert_array_equal(provenance._near(mine, theirs, distance), expected)


def test_the_rule_for_hashes_alone_is_the_audits_or_stricter():
    assert all(m.near_bits_alone <= m.near_bits for m in MODALITIES.values())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The same images thrice: with folds, divided by another seed, and as an external set."""
    folder = tmp_path_factory.mktemp("data")
    source = sources.octdl(folder / "octdl", patients=4)
    for name, seed, folds in (("folds", 0, 2), ("seed", 3, 0)):
        prepare.prepare("octdl", source, str(folder / name), size=(32, 32), seed=seed, folds=folds,
                        near_duplicates="off", allow_missing_classes=True)  # fmt: skip
    (source / "OCTDL_labels.csv").rename(folder / "labels.csv")
    options = FolderOptions(name="clinic", modality="oct", normal="NO")
    prepare.prepare("folder", source, str(folder / "folds"), options=options, size=(32, 32), seed=5,
                    near_duplicates="off", allow_missing_classes=True)  # fmt: skip
    return folder


def manifest(data, name, dataset="octdl"):
    path = data / name / dataset / "1.0.0" / "manifest.json"
    return json.loads(path.read_text())["images"]


def config_of(data, name, **changes):
    return tiny_config(**{"data__dataset": "octdl", "data__data_dir": str(data / name),
                          "num_epochs": 1.0, "optimizer__warmup_epochs": 0.0,
                          **changes})  # fmt: skip


@pytest.fixture(scope="module")
def fold(data, tmp_path_factory):
    """Number of a fold -> its finished run."""
    found = {}
    for k in range(2):
        found[k] = tmp_path_factory.mktemp("runs") / f"fold{k}"
        train(config_of(data, "folds", data__fold=k), found[k], StopRequest())
    return found


def test_a_run_keeps_what_it_trained_on_and_a_pack_too_unless_asked(data, fold, tmp_path):
    images = manifest(data, "folds")
    text = (fold[0] / provenance.NAME).read_text()
    found = json.loads(text)
    for split in ("train", "validation"):
        kept = sorted(h for p in found["patients"] for h in p.get(split, ()))
        assert kept == sorted(i["sha256"] for i in images if i["folds"][0] == split) != []
    for person in found["patients"]:  # the set of a patient's images, and of nobody else's
        hashes = {h for part in person.values() for h in part}
        groups = {i["group"] for i in images if i["sha256"] in hashes}
        assert len(groups) == 1
        assert hashes == {i["sha256"] for i in images if i["group"] in groups}
    assert not [i for i in images if i["id"] in text or f'"{i["patient"]}"' in text]
    assert (fold[0] / provenance.LOOKS).exists()
    with_hashes = pack(fold[0], tmp_path / "with")
    assert json.loads((with_hashes / provenance.NAME).read_text())["patients"] == found["patients"]
    assert not (with_hashes / provenance.LOOKS).exists()  # no perceptual hash leaves the workdir
    assert "who" in (with_hashes / "MODEL_CARD.md").read_text().split("trained_on.json")[1]
    without = pack(fold[0], tmp_path / "without", training_hashes=False)
    assert not (without / provenance.NAME).exists()
    assert "keeps no hashes" in (without / "MODEL_CARD.md").read_text()
    # Its data are not in reach under the name of the package: it cannot be verified, and is said.
    tested = provenance.tested_on(build_run(config_of(data, "seed")).dataset, "test")
    assert not overlap(provenance.trained_on(without), tested).verified
    assert overlap(provenance.trained_on(with_hashes), tested).verified


def leaks(data, trained, tested):
    """Images tested in one division that another trains on, by the manifests."""

    def splits(where):
        name, k = where
        return {
            i["sha256"]: i["split"] if k is None else i["folds"][k] for i in manifest(data, name)
        }

    a, b = splits(trained), splits(tested)
    return sum(b[h] == "test" and a[h] == "train" for h in b)


@pytest.mark.parametrize("where", [("folds", 1), ("seed", None)])
def test_weights_that_saw_the_test_images_are_refused_unless_recorded(
    data, fold, tmp_path, capsys, where
):
    name, k = where
    config = config_of(data, name, data__fold=-1 if k is None else k, init_from=str(fold[0]))
    expected = leaks(data, ("folds", 0), where)
    assert expected > 0
    with pytest.raises(Mistake, match=rf"{expected} among the images that fold0 was trained on.*"
                                      r"config\.on_leak=warn"):  # fmt: skip
        train(config, tmp_path / "refused", StopRequest())
    assert not (tmp_path / "refused" / "config.json").exists()
    config.on_leak = "warn"
    workdir = tmp_path / "warned"
    document = train(config, workdir, StopRequest())
    (entry,) = [d for d in document["provenance"] if d["tested"] == "octdl (test)"]
    assert entry["trained_on"] == expected and entry["leak"] and entry["warning"]
    assert (
        json.loads((workdir / "metrics.json").read_text())["provenance"] == document["provenance"]
    )
    assert "WARNING" in capsys.readouterr().out
    page = build.build([workdir], pictures=0, warn=lambda line: None)
    assert "Warning: " + entry["text"] in page.replace("&#39;", "'")
    # What those weights saw goes on with them.
    seen = provenance.trained_on(workdir)
    theirs = {h for p in provenance.trained_on(fold[0]).patients for h in p.get("train", ())}
    assert theirs <= {h for p in seen.patients for h in p.get("train", ())}


def test_weights_of_the_same_division_or_of_other_data_are_taken(data, fold, finished, tmp_path):
    for k, source in enumerate((fold[0], finished)):
        config = config_of(data, "folds", data__fold=0, init_from=str(source))
        document = train(config, tmp_path / str(k), StopRequest())
        assert not any(d["warning"] for d in document["provenance"])


def test_a_run_that_resumes_is_not_asked_again(data, fold, tmp_path, monkeypatch):
    config = config_of(
        data, "folds", data__fold=0, init_from=str(fold[0]), checkpoint__every_steps=1
    )
    with pytest.raises(PreemptedError):
        train(config, tmp_path / "run", StopAfter(4))
    monkeypatch.setattr(loop.provenance, "ask_init_from", None)
    document = train(config, tmp_path / "run", StopRequest())
    assert [d["tested"] for d in document["provenance"]] == ["octdl (validation)", "octdl (test)"]


def test_an_ensemble_of_two_folds_is_refused(data, fold):
    count = leaks(data, ("folds", 1), ("folds", 0))
    with pytest.raises(Mistake, match=rf"fold1 was trained on images .* {count} among the images"):
        uncertainty.main([f"--workdir={fold[0]}", "--method=ensemble", f"--ensemble={fold[1]}"])


def evaluate_on_clinic(data, workdir, **flags):
    where = {"dataset": "clinic", "data_dir": str(data / "folds")}
    return evaluate_run(workdir, StopRequest(), **where, batch_size=16, **flags)


def test_a_set_that_holds_training_images_is_no_external_one(data, fold, capsys):
    with pytest.raises(Mistake, match=r"--on_leak=refuse: .* among the images"):
        evaluate_on_clinic(data, fold[0], on_leak="refuse")
    assert not list(fold[0].glob("evaluation-clinic-*"))
    document = evaluate_on_clinic(data, fold[0])
    (entry,) = document["provenance"]
    trained = {i["sha256"] for i in manifest(data, "folds") if i["folds"][0] == "train"}
    tested = [i for i in manifest(data, "folds", "clinic") if i["split"] == "test"]
    shared = sorted(i["id"] for i in tested if i["sha256"] in trained)
    assert shared and entry["trained_on"] == len(shared) and entry["warning"]
    assert sorted(entry["ids"]["trained_on"]) == shared
    assert f"WARNING: {entry['text']}" in capsys.readouterr().out.replace("\n", " ")
    written = json.loads((fold[0] / "evaluation-clinic-test" / "metrics.json").read_text())
    assert written["provenance"] == document["provenance"]
    page = build.build([fold[0]], pictures=0, warn=lambda line: None)
    assert entry["text"] in page.replace("&#39;", "'")


def test_an_image_saved_anew_is_seen_by_its_looks(data, tmp_path):
    """Other bytes, the same picture: no SHA-256 is equal, the perceptual hashes are."""
    mine = build_run(config_of(data, "seed")).dataset
    assert mine.looks.shape == (len(mine.details), 16)
    renamed = {k: {**v, "sha256": f"new-{k}"} for k, v in mine.details.items()}
    trained = provenance.of_dataset("a", mine)
    found = overlap(
        trained, provenance.tested_on(dataclasses.replace(mine, details=renamed), "train")
    )
    assert found.near_identical.all() and not found.leak
    shutil.copytree(data / "seed", tmp_path / "old")
    (tmp_path / "old" / "octdl" / "1.0.0" / PREPARED_LOOKS).unlink()  # by an earlier version
    old = build_run(config_of(tmp_path, "old")).dataset
    assert overlap(trained, provenance.tested_on(old, "test")).near_identical is None


def test_a_run_without_a_record_is_known_by_its_data(data, fold, tmp_path):
    shutil.copytree(fold[1], tmp_path / "run")
    (tmp_path / "run" / provenance.NAME).unlink()
    assert (
        provenance.trained_on(tmp_path / "run").patients == provenance.trained_on(fold[1]).patients
    )
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["data_dir"] = str(tmp_path)
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert provenance.trained_on(tmp_path / "run").unverified == ("run",)
    again = provenance.trained_on(tmp_path / "run", str(data / "folds"))
    assert again.patients and not again.unverified


READS_A_RUN = {
    "load_trained",
    "open_run",
    "read_weights",
    "collect",
    "read_predictions",
    "read_record",
}
ONE_RUN_ALONE = {
    "evaluate/temperatures.py": "the run's own validation",
    "predict/model.py": "images without labels",
    "predict/__main__.py": "a run and image files, no set",
    "predict/demo.py": "a run and one image",
    "export/__main__.py": "a run",
    "export/pack.py": "a run and its own set, through collect",
    "report/model_card.py": "a run and its own set, through collect",
    "runs/open.py": "opens a run",
    "runs/packed.py": "opens a run",
    "runs/checkpoint.py": "opens a run",
    "data/prepare/__main__.py": "collects images, not a run",
    "data/audit/__main__.py": "collects images, not a run",
    "experiments/ablate/record.py": "a finished cell, by the files of its workdir",
    "experiments/ablate/analysis.py": "records without hashes; ensembled compares their divisions",
    "experiments/benchmarks/export.py": "a run and noise",
    "experiments/bit_flips.py": "a run and its own damaged copies",
    "experiments/ship.py": "the shipped model and its own preparation, which open_dataset checks",
}
"""Files that read a run and bring no other run and no other set beside it, and why."""


def calls(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func
            yield getattr(function, "attr", getattr(function, "id", ""))


def asks(data, fold, finished, tmp_path):
    """File -> a command of it that reads two runs, or a run and a set."""
    own, other = f"--workdir={fold[0]}", f"--ensemble={fold[0]}"
    target = config_of(data, "folds", data__fold=1, init_from=str(fold[0]))
    return {
        "training/loop.py": lambda: train(target, tmp_path / "t", StopRequest()),
        "evaluate/external.py": lambda: evaluate_on_clinic(data, fold[0]),
        "predict/uncertainty.py": lambda: uncertainty.main([own, "--method=ensemble", other]),
        "explain/__main__.py": lambda: explain.main(
            [own, f"--output={tmp_path / 'maps'}", "--split=test", "--limit=1"]
        ),
        "explain/pointing.py": lambda: pointing.main([f"--workdir={finished}", "--limit=20"]),
        "report/collect.py": lambda: model_card.model_card(fold[0]),
        "report/build.py": lambda: build.comparisons(
            [build.collect(fold[0]), build.collect(fold[0])]
        ),
    }


def test_every_command_that_reads_two_runs_or_a_run_and_a_set_asks(
    data, fold, finished, tmp_path, monkeypatch
):
    """A file that reads a run is in one of the two lists, and those of the first do ask."""
    commands = asks(data, fold, finished, tmp_path)
    readers = set()
    for path in (*(ROOT / "wlsrl_jax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")):
        if READS_A_RUN & set(calls(path)):
            inside = path.relative_to(ROOT)
            readers.add(str(inside.relative_to("wlsrl_jax") if inside.parts[0] == "wlsrl_jax"
                            else inside))  # fmt: skip
    unlisted = readers - commands.keys() - ONE_RUN_ALONE.keys()
    assert not unlisted, f"these read a run; does a second run or a set meet it there? {unlisted}"
    assert commands.keys() <= readers

    class Asked(Exception):
        pass

    def ask(trained, tested, **_):
        raise Asked

    collected = build.collect(fold[0])
    monkeypatch.setattr(provenance, "overlap", ask)
    monkeypatch.setattr(build, "collect", lambda *_: collected)  # it asks, and has its own row
    for name, command in commands.items():
        with pytest.raises(Asked):
            command()
            pytest.fail(f"{name} does not ask whether what is tested was trained on")
