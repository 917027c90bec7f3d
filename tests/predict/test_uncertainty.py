import csv
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import read_predictions, run
from wlsrl_jax.evaluate.referral import FRACTIONS, referral_curve, uncertainties
from wlsrl_jax.predict import uncertainty
from wlsrl_jax.tasks import Task

GRADES = Task("TF2", tuple("01234"), tuple(range(5)), ordinal=True)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_measures(seed, count):
    rng = np.random.default_rng(seed)
    members = rng.dirichlet(np.ones(4), (count, 10))
    found = uncertainties(members)
    assert (found["entropy"] <= np.log(4) + 1e-9).all()
    assert (found["mutual_information"] >= 0).all()
    assert (found["mutual_information"] <= found["entropy"] + 1e-9).all()
    same = uncertainties(np.repeat(members[:1], 3, axis=0))
    np.testing.assert_allclose(same["mutual_information"], 0, atol=1e-9)
    np.testing.assert_allclose(same["entropy"], uncertainties(members[:1])["entropy"])
    sure = uncertainties(np.eye(4)[None])
    np.testing.assert_allclose([v for v in sure.values()], 0, atol=1e-9)
    apart = uncertainties(np.eye(4)[:2][:, None])  # certain members that disagree
    np.testing.assert_allclose(apart["mutual_information"], np.log(2))


def test_referring_the_wrong_ones_first_is_perfect_soon():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    wrong = rng.random(400) < 0.3
    p = np.eye(5)[np.where(wrong, (labels + 1) % 5, labels)]
    knows = referral_curve(GRADES, labels, p, wrong.astype(float))
    guesses = referral_curve(GRADES, labels, p, rng.random(400))
    opposite = referral_curve(GRADES, labels, p, -wrong.astype(float))
    assert knows["accuracy"][0] == guesses["accuracy"][0] == pytest.approx(1 - wrong.mean())
    at = int(np.searchsorted(FRACTIONS, wrong.mean()))
    assert knows["accuracy"][at] == 1.0 and knows["qwk"][at] == 1.0
    assert knows["area"]["accuracy"] > guesses["area"]["accuracy"] > opposite["area"]["accuracy"]
    missing = referral_curve(GRADES, np.append(labels, -1), np.vstack([p, p[:1]]),
                             np.append(wrong, 9.0))  # fmt: skip
    assert missing["accuracy"] == knows["accuracy"]


def rows_of(folder):
    with (folder / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_one_member_is_the_evaluation(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    uncertainty.main([f"--workdir={tmp_path / 'run'}"])
    assert "PHANTOM" in capsys.readouterr().out
    rows = rows_of(tmp_path / "run" / "uncertainty-single-test")
    known = {r["id"]: r for r in read_predictions(finished)}
    for row in rows:
        assert float(row["TO1/CNV"]) == pytest.approx(float(known[row["id"]]["TO1/CNV"]), abs=1e-5)
        assert float(row["TO1/mutual_information"]) == pytest.approx(0, abs=1e-6)
        assert row["TO1"] == known[row["id"]]["TO1"]


@pytest.fixture(scope="module")
def dropped(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("dropped") / "run"
    run(workdir, model__dropout=0.5)
    return workdir


@pytest.mark.parametrize("method", ["tta", "dropout"])
def test_members_differ_and_are_reproducible(dropped, method):
    arguments = [f"--workdir={dropped}", f"--method={method}", "--members=5"]
    folder = dropped / f"uncertainty-{method}-test"
    uncertainty.main(arguments)
    first = (folder / "predictions.csv").read_bytes()
    rows = rows_of(folder)
    assert len(rows) == 50
    assert np.mean([float(r["TO1/mutual_information"]) > 1e-7 for r in rows]) > 0.9
    uncertainty.main(arguments)
    assert (folder / "predictions.csv").read_bytes() == first
    uncertainty.main([*arguments, "--seed=1"])
    assert (folder / "predictions.csv").read_bytes() != first
    found = json.loads((folder / "referral.json").read_text())
    assert found["members"] == 5 and len(found["referral"]["TO1"]["accuracy"]) == FRACTIONS.size


def test_dropout_keeps_the_mean_of_the_hidden_layer(dropped):
    """Many samples average to about the network without dropout: units are kept at their mean."""
    trained = uncertainty.load_trained(dropped)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), dtype=np.uint8)
    members = uncertainty.monte_carlo_dropout(trained, 300)(images, 0)
    logits = np.mean([np.log(np.asarray(m["TO2"])) for m in members], axis=0)
    (plain,) = uncertainty.single(trained)(images, 0)
    difference = logits[:, 1] - logits[:, 0]
    expected = np.log(np.asarray(plain["TO2"]))
    np.testing.assert_allclose(difference, expected[:, 1] - expected[:, 0], atol=0.1)


def test_ensemble_is_the_mean_of_its_members(finished, dropped, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    uncertainty.main([f"--workdir={tmp_path / 'run'}", "--method=ensemble",
                      f"--ensemble={dropped}"])  # fmt: skip
    rows = rows_of(tmp_path / "run" / "uncertainty-ensemble-test")
    a, b = ({r["id"]: r for r in read_predictions(w)} for w in (finished, dropped))
    for row in rows:
        mean = (float(a[row["id"]]["TO1/DME"]) + float(b[row["id"]]["TO1/DME"])) / 2
        assert float(row["TO1/DME"]) == pytest.approx(mean, abs=1e-5)


def test_mistakes(finished, tmp_path):
    other = tmp_path / "other"
    run(other, data__phantom__seed=5)
    for flags, message in (
        (["--method=dropout"], "was trained without dropout"),
        (["--method=ensemble"], "goes with --method=ensemble"),
        (["--method=ensemble", f"--ensemble={other}"], "was trained on other data"),
        (["--method=ensemble", "--ensemble=nowhere"], "nowhere is not a workdir"),
    ):
        with pytest.raises(ValueError, match=message):
            uncertainty.main([f"--workdir={finished}", *flags])
    with pytest.raises(SystemExit):  # argparse's way to tell it
        uncertainty.main([f"--workdir={finished}", "--method=tta", "--members=1"])
