import numpy as np
import pytest
from scipy import stats

from wlsrl_jax.evaluate import bootstrap
from wlsrl_jax.metrics import weighted_metrics
from wlsrl_jax.tasks import Task

GRADES = Task("TF2", tuple("0123"), tuple(range(4)), ordinal=True)
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "brier", "qwk")


def test_replicates_draw_whole_groups_as_often_as_there_are_groups():
    index = bootstrap.group_index(["b", "a", "b", "c"])
    weights = np.concatenate(list(bootstrap.replicate_weights(index, replicates=4000)))
    assert weights.shape == (4000, 4)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])  # one group
    np.testing.assert_array_equal(weights[:, [0, 1, 3]].sum(1), 3)
    # Three draws of three: how often one is drawn is binomial.
    found = np.bincount(weights[:, 1].astype(int), minlength=4) / 4000
    np.testing.assert_allclose(found, stats.binom.pmf(range(4), 3, 1 / 3), atol=0.03)


def test_the_same_replicates_whatever_their_chunks(monkeypatch):
    index = np.arange(50)
    whole = np.concatenate(list(bootstrap.replicate_weights(index, replicates=100, seed=3)))
    monkeypatch.setattr(bootstrap, "_CHUNK", 700)
    parts = list(bootstrap.replicate_weights(index, replicates=100, seed=3))
    assert len(parts) > 5
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    other = next(bootstrap.replicate_weights(index, replicates=100, seed=4))
    assert (other != whole[: len(other)]).any()


def test_interval_of_a_mean_is_that_of_the_t_distribution():
    x = np.random.default_rng(0).normal(size=400)

    def mean(weights):
        return {"mean": weights @ x / weights.sum(1)}

    found = bootstrap.with_intervals(mean, np.arange(400), replicates=20_000)["mean"]
    low, high = stats.t.interval(0.95, 399, x.mean(), x.std(ddof=1) / 20)
    np.testing.assert_allclose([found["low"], found["high"]], [low, high], atol=0.006)
    assert found["value"] == pytest.approx(x.mean())


def sample(rng, patients, images):
    """Graded images of patients, each with an effect that its images share."""
    grade = rng.choice(4, patients, p=[0.4, 0.2, 0.2, 0.2])
    effect = rng.normal(0, 0.7, (patients, 4)).repeat(images, 0)
    labels = grade.repeat(images)
    logits = effect + rng.normal(0, 0.7, effect.shape)
    logits[np.arange(labels.size), labels] += 1.2
    p = np.exp(logits)
    return labels, p / p.sum(1, keepdims=True), np.arange(patients).repeat(images)


def test_intervals_cover_as_often_as_they_say():
    """600 studies of 80 patients with three images: 93 to 97% of the intervals hold the truth.

    Three standard deviations of such a share are 2.7%, so single metrics have that much room
    and their mean has none. Over images, intervals would be too narrow: patients matter.
    """
    truth_of = sample(np.random.default_rng(99), 200_000, 1)
    truth = weighted_metrics(GRADES, *truth_of[:2], np.ones((1, 200_000)))[0]
    hits = {"patients": np.zeros(len(METRICS)), "images": np.zeros(len(METRICS))}
    studies = 600
    for seed in range(studies):
        labels, p, patient = sample(np.random.default_rng(seed), 80, 3)

        def both(weights, labels=labels, p=p):
            columns = weighted_metrics(GRADES, labels, p, weights)[0]
            return {m: columns[m] for m in METRICS}

        for unit, index in (("patients", patient), ("images", np.arange(labels.size))):
            if unit == "images" and seed >= 200:
                continue
            found = bootstrap.with_intervals(both, index, replicates=400, seed=seed)
            hits[unit] += [found[m]["low"] <= truth[m][0] <= found[m]["high"] for m in METRICS]
    share = hits["patients"] / studies
    assert 0.93 <= share.mean() <= 0.97, dict(zip(METRICS, share))
    assert (share >= 0.923).all() and (share <= 0.977).all(), dict(zip(METRICS, share))
    assert (hits["images"] / 200).mean() < 0.9


def test_p_values_are_uniform_without_a_difference():
    rng = np.random.default_rng(0)
    found = []
    for seed in range(300):
        x = rng.normal(size=60)

        def mean(weights, x=x):
            return {"mean": weights @ x / weights.sum(1)}

        drawn = bootstrap.replicated(mean, np.arange(60), replicates=300, seed=seed)["mean"]
        found.append(bootstrap.p_value(drawn))
    assert 0.02 < np.mean(np.asarray(found) < 0.05) < 0.09
    assert 0.4 < np.mean(found) < 0.6
    assert bootstrap.p_value(np.full(999, 0.1)) == pytest.approx(0.002)  # never 0
    assert np.isnan(bootstrap.p_value(np.full(9, np.nan)))


def test_where_resampling_says_nothing():
    ones = np.ones(20)

    def share(weights):
        return {"share": weights @ ones / weights.sum(1), "constant": weights.sum(1) * 0 + 0.5,
                "undefined": weights.sum(1) * np.nan}  # fmt: skip

    found = bootstrap.with_intervals(share, np.arange(20), trials={"share": ones > 0})
    # Clopper-Pearson by scipy's own.
    exact = stats.binomtest(20, 20).proportion_ci(0.95, method="exact")
    assert found["share"]["low"] == pytest.approx(exact.low) and found["share"]["high"] == 1.0
    assert bootstrap.exact_interval(0.0, 20)[1] == pytest.approx(
        stats.binomtest(0, 20).proportion_ci(0.95, method="exact").high
    )
    for name in ("constant", "undefined"):
        assert np.isnan(found[name]["low"]) and np.isnan(found[name]["high"])
    one_group = bootstrap.with_intervals(
        lambda w: {"x": w @ np.arange(20.0) / w.sum(1)}, np.zeros(20, int)
    )
    assert np.isnan(one_group["x"]["low"])
