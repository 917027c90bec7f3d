"""Nothing of a run is believed: neither a checkpoint nor the documents beside it."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments.bit_flips import flip_packed, flip_run
from tests.tiny import StopAfter, assert_same_run, run, tiny_config
from wlsrl_jax.files import Mistake, flatten
from wlsrl_jax.runs import digest, packed
from wlsrl_jax.runs.open import load_trained
from wlsrl_jax.runtime.stop import PreemptedError
from wlsrl_jax.training.loop import train


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_single_flipped_bits_of_a_checkpoint_are_refused_or_without_effect(finished):
    outcome = flip_run(finished, count=30, seed=0)
    assert outcome["other answers"] == outcome["our fault"] == 0, outcome
    assert outcome["refused"] > 20


def test_single_flipped_bits_of_a_packed_run_are_refused_or_without_effect(finished, tmp_path):
    from wlsrl_jax.export.pack import pack

    outcome = flip_packed(pack(finished, tmp_path / "packed"), count=30, seed=0)
    assert outcome["other answers"] == outcome["our fault"] == 0, outcome
    assert outcome["refused"] > 20


@pytest.mark.parametrize("damage", ["cut", "missing", "foreign", "link", "no digest"])
def test_a_checkpoint_that_is_not_what_was_written_is_refused(damage, copy):
    state = copy / "checkpoints" / "12" / "state"
    (data,) = sorted((state / "d").iterdir())[:1]
    if damage == "cut":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "missing":
        data.unlink()
    elif damage == "foreign":
        (state / "more").write_text("")
    elif damage == "link":
        data.rename(copy / "elsewhere")
        data.symlink_to(copy / "elsewhere")
    else:
        (state.parent / digest.NAME).unlink()
    told = r"checkpoints/12 cannot be read \(.*(d/|more|digest).*\)\. Restore it"
    with pytest.raises(Mistake, match=told):
        load_trained(copy)


def test_a_copy_under_a_later_number_is_set_aside_and_the_run_ends(finished, copy, caplog):
    """Beyond the last step, below it, and under a name that only Orbax takes for a number."""
    (copy / "metrics.json").unlink()
    checkpoints = copy / "checkpoints"
    shutil.copytree(checkpoints / "10", checkpoints / "99")
    shutil.copytree(checkpoints / "10", checkpoints / "011")
    shutil.rmtree(checkpoints / "12")
    shutil.copytree(checkpoints / "10", checkpoints / "12")
    run(copy, log_example_ids=True)
    assert "99 cannot be read (the run ends at step 12)" in caplog.text
    assert "12 cannot be read (it is of step 10)" in caplog.text
    assert_same_run(copy, finished)
    assert {p.name for p in (copy / "damaged-checkpoints").iterdir()} == {"99-0", "12-0", "011-0"}


def test_a_checkpoint_of_another_run_is_refused(copy, tmp_path):
    """Of the same shapes, which is all that could be seen from its arrays."""
    with pytest.raises(PreemptedError):
        train(tiny_config(seed=7), tmp_path / "other", StopAfter(8))
    newest = max(int(p.name) for p in (tmp_path / "other" / "checkpoints").iterdir())
    shutil.rmtree(copy / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", copy / "checkpoints")
    (copy / "metrics.json").unlink()
    for read in (lambda: load_trained(copy), lambda: run(copy, log_example_ids=True)):
        with pytest.raises(Mistake, match=rf"{newest} was not trained with(.|\n)*seed: 7 there, 0"):
            read()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("config.json", lambda d: d["model"].update(norm="group"), "config.model.norm: 'batch'"),
        ("config.json", lambda d: d["eval"].update(mirror=True), "eval.mirror: False there, True"),
        ("config.json", lambda d: d["data"].update(height=48), "data.height: 32 there, 48 now"),
        ("config.json", lambda d: d.update(modality="fundus"), "config.json: .*TO1 does not exist"),
        ("config.json", lambda d: d.update(modality=3), "modality=3 must be one of"),
        ("config.json", lambda d: d["model"].update(widths="wide"), "model.widths='wide' must be"),
        ("config.json", lambda d: d["model"].update(widths=[10**9]), "must be a few widths"),
        ("config.json", lambda d: d["model"].update(depth=3), "model.depth is unknown"),
        ("config.json", lambda d: d.update(batch_size=-1), "config.json: config.batch_size=-1"),
        ("config.json", lambda d: d["task_weights"].pop("TO1"), "task_weights.TO1 is missing"),
        ("data.json", lambda d: d["classes"].reverse(), "task TO1 has the classes CNV, DME"),
        ("data.json", lambda d: d["tasks"]["TO1"]["classes"].reverse(), "task TO1 has the classes"),
        ("data.json", lambda d: d.update(normal="CNV"), "task TO2 has the classes"),
        ("data.json", lambda d: d.update(prepared_size=[0, 5]), "prepared_size=.* height and a"),
        ("data.json", lambda d: d.update(preprocess=["clahe"]), "preprocess is not what it was"),
        ("data.json", lambda d: d.pop("tasks"), "tasks is missing"),
        ("data.json", lambda d: d.pop("classes"), "classes is missing"),
        ("data.json", lambda d: d.update(fingerprint="0"), "data_fingerprint="),
        (
            "metrics.json",
            lambda d: d["selected"].update(step=6),
            "checkpoints/6, the selected checkpoint, is not",
        ),
        ("metrics.json", lambda d: d["selected"].update(step=10), "names step 10, but .* step 12"),
        ("metrics.json", lambda d: d.pop("selected"), "does not say which step was selected"),
        ("metrics.json", lambda d: d.update(dataset="octdl"), "dataset='octdl', but data.json"),
        ("validation.json", lambda d: d[0].pop("step"), "validation.json is damaged"),
    ],
)
def test_documents_that_contradict_the_weights_are_refused(name, change, message, copy):
    edit(copy / name, change)
    with pytest.raises(Mistake, match=message):
        load_trained(copy)


def test_what_may_change_may_change(copy):
    """Fields that change no result are not bound, and a field of before is its default."""
    edit(copy / "config.json", lambda d: d["data"].update(data_dir="/moved", num_threads=7))
    edit(copy / "config.json", lambda d: d["data"].pop("sampling"))
    before = load_trained(copy).variables
    assert np.isfinite(np.concatenate([np.ravel(x) for x in jax.tree.leaves(before)])).all()


@pytest.fixture
def packed_copy(finished, tmp_path):
    from wlsrl_jax.export.pack import pack

    return pack(finished, tmp_path / "packed")


def repack(folder, change=lambda variables: None, **arrays):
    """As somebody who can compute a digest would."""
    variables = load_trained(folder).variables
    flat = {f"{k}": np.array(v) for k, v in flatten(variables, "/").items()} | arrays
    change(flat)
    np.savez(folder / packed.WEIGHTS, **flat)
    packed.write_mark(folder, "")


HEAD = "params/head_TO1/kernel"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[HEAD].__setitem__((0, 0), np.nan), f"{HEAD} hold what is no number"),
        (lambda a: a[HEAD].__setitem__((0, 0), np.inf), f"{HEAD} hold what is no number"),
        (lambda a: a.update({HEAD: a[HEAD].T}), f"{HEAD} is float32"),
        (lambda a: a.update({HEAD: a[HEAD].astype("f8")}), f"{HEAD} is float64|bytes at most"),
        (lambda a: a.update({HEAD: np.array([None])}), "no plain file|is object|object"),
        (lambda a: a.pop(HEAD), f"{HEAD} is missing"),
        (lambda a: a.update({"params/extra": np.zeros(1, "f")}), "'params/extra' is no array"),
        (lambda a: a.update({"../evil": np.zeros(1, "f")}), "'../evil' is no array"),
    ],
)
def test_weights_of_a_stranger(change, message, packed_copy):
    repack(packed_copy, change)
    with pytest.raises(Mistake, match=message):
        load_trained(packed_copy)


def test_files_of_a_stranger(packed_copy):
    mark = json.loads((packed_copy / packed.MARK).read_text())
    others = {packed.WEIGHTS, packed.CARD, packed.TRAINED_ON}
    assert {*packed.DOCUMENTS, *others} == mark["files"].keys()
    for name in mark["files"]:
        content = (packed_copy / name).read_bytes()
        (packed_copy / name).write_bytes(content + b"\n")
        with pytest.raises(Mistake, match=rf"{name} is damaged"):
            load_trained(packed_copy)
        (packed_copy / name).unlink()
        (packed_copy / name).symlink_to("/dev/zero")
        with pytest.raises(Mistake, match=rf"{name} is (damaged|larger)"):
            load_trained(packed_copy)
        (packed_copy / name).unlink()
        with pytest.raises(Mistake, match=rf"{name} (cannot be read|is missing)"):
            load_trained(packed_copy)
        (packed_copy / name).write_bytes(content)
    edit(packed_copy / packed.MARK, lambda d: d["files"].update({"../x": "0" * 64}))
    with pytest.raises(Mistake, match=r"packed\.json is damaged"):
        load_trained(packed_copy)


@pytest.mark.parametrize("changes", [{"model__norm": "group"}, {"optimizer__ema_decay": 0.0}])
def test_runs_without_statistics_or_average_are_read(changes, tmp_path):
    run(tmp_path, num_epochs=1.0, optimizer__warmup_epochs=0.0, **changes)
    found = load_trained(tmp_path).variables
    assert found["params"] and bool(found["batch_stats"]) == ("model__norm" not in changes)
