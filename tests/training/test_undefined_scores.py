"""Validation that defines no score: stored, resumed, selected from, and said."""

import json
import math

import pytest

from tests.tiny import StopAfter, run, tiny_config
from wlsrl_jax.runs import checkpoint
from wlsrl_jax.runtime.stop import PreemptedError, StopRequest
from wlsrl_jax.training.loop import train

ONE = {"data__phantom__validation": 1, "data__phantom__test": 4}


def entry(step, score):
    return {"step": step, "score": score, "results": {}}


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.5, 0.7, 0.7], 2),
        ([None, 0.1, None], 2),
        ([None, None, None], 3),
        ([math.nan, -math.inf, 0.2], 3),
        ([math.nan, None, -math.inf], 3),
        ([0.2, math.nan, 0.1], 1),
    ],
)
def test_the_selection_rule_is_total(scores, best):
    history = [entry(k + 1, score) for k, score in enumerate(scores)]
    assert checkpoint.best_entry(history)["step"] == best
    assert checkpoint.best_entry(history[::-1])["step"] == best


def strict(path):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return [json.loads(x, parse_constant=refuse) for x in path.read_text().splitlines()]


def test_a_validation_split_of_one_image_selects_nothing_and_says_so(tmp_path, capsys):
    config = tiny_config(**ONE)
    with pytest.raises(PreemptedError):
        train(config, tmp_path, StopAfter(10))  # after the first evaluation
    history = json.loads((tmp_path / "validation.json").read_text())
    assert [found["step"] for found in history] == [6]
    document = train(config, tmp_path, StopRequest())
    out = capsys.readouterr().out
    if all(found["score"] is None for found in history):
        assert "testing step 12, the last one: validation (1 images) has no defined score" in out
        assert document["selected"]["step"] == 12
        assert document["selected"]["rule"].startswith("the last step")
    lines = strict(tmp_path / "metrics.jsonl")
    assert {line["kind"] for line in lines} == {"train", "validation"}


def test_scores_that_are_not_defined_are_null_in_every_file(tmp_path, capsys, monkeypatch):
    from wlsrl_jax.training import loop

    monkeypatch.setattr(loop, "selection_score", lambda results: -math.inf)
    with pytest.raises(PreemptedError):
        train(tiny_config(), tmp_path, StopAfter(12))
    document = run(tmp_path)
    out = capsys.readouterr().out
    assert document["selected"]["step"] == 12
    assert "score undefined" in out and "the best of" not in out
    assert "testing step 12, the last one: validation (40 images) has no defined score" in out
    scores = [x["score"] for x in strict(tmp_path / "metrics.jsonl") if x["kind"] == "validation"]
    assert scores == [None, None]
    assert json.loads((tmp_path / "validation.json").read_text())[0]["score"] is None
