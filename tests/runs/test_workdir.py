import json

import pytest

from wlsrl_jax.config.fields import base_config, completed
from wlsrl_jax.files import flatten, keep_lines, read_json, unflatten, write_json
from wlsrl_jax.runs.workdir import check_config, held, write_back


def test_json_is_whole_and_nan_is_null(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": float("nan"), "b": [1.5, float("inf")], "c": (1, 2)})
    assert read_json(path) == {"a": None, "b": [1.5, None], "c": [1, 2]}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path)["c"] == [1, 2]  # the old file stays
    path.write_text('{"a": ')
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        read_json(path)


def test_the_lock_is_for_one(tmp_path):
    with held(tmp_path), pytest.raises(ValueError, match="in use"), held(tmp_path):
        pass
    with held(tmp_path):
        pass


def test_differing_fields_are_named_and_free_ones_are_free(tmp_path):
    old = {"seed": 1, "loss": {"smoothing": 0.1}, "eval": {"batch_size": 8}, "log_every": 10}
    path = tmp_path / "config.json"
    write_json(path, old)
    check_config(path, {**old, "log_every": 3, "eval": {"batch_size": 16}})
    with pytest.raises(ValueError) as caught:
        check_config(path, {**old, "seed": 2, "loss": {"smoothing": 0.2, "new": 1}})
    for line in ("config.seed: 1 there, 2 now", "config.loss.smoothing: 0.1 there, 0.2 now",
                 "config.loss.new: None there, 1 now"):  # fmt: skip
        assert line in str(caught.value)
    assert flatten({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}
    assert unflatten({"a.b.c": 1, "d": 2, "a.e": 3}) == {"a": {"b": {"c": 1}, "e": 3}, "d": 2}


def test_free_fields_are_written_back_and_no_others(tmp_path):
    path = tmp_path / "config.json"
    now = json.loads(base_config("oct").to_json())
    old = json.loads(json.dumps(now))
    del old["eval"]["mirror"], old["mesh"]  # as before there were these fields
    write_json(path, old)
    write_back(path, now)  # a default that is not in the file stays out
    assert read_json(path) == old
    now["checkpoint"]["keep"], now["mesh"]["fsdp"], now["seed"] = 5, 2, 9
    now["data"]["data_dir"] = "/moved"
    write_back(path, now, ("data.data_dir",))
    old["data"]["data_dir"] = "/moved"
    assert read_json(path) == old
    write_back(path, now)
    old["checkpoint"]["keep"], old["mesh"] = 5, {"fsdp": 2}
    assert read_json(path) == old


def test_a_field_that_there_was_not_yet_counts_as_its_default(tmp_path):
    now = base_config("oct").to_dict()
    old = json.loads(json.dumps(now))
    del old["data"]["sampling"], old["data"]["phantom"]["seed"], old["eval"], old["on_nan"]
    del old["model"]["standard"], old["model"]["widths"], old["model"]["hidden"]
    path = tmp_path / "config.json"
    write_json(path, old)
    check_config(path, now)
    with pytest.raises(ValueError, match="sampling: 'natural' there, 'balanced' now"):
        check_config(path, {**now, "data": {**now["data"], "sampling": "balanced"}})
    del old["task_weights"]["TO2"], old["loss"]["by_task"]["TO2"]  # a run without this head
    write_json(path, old)
    with pytest.raises(ValueError, match="task_weights.TO2: None there, 1.0 now"):
        check_config(path, now)


def test_defaults_are_filled_in_as_json_has_them():
    now = json.loads(base_config("oct").to_json())
    old = json.loads(base_config("oct").to_json())
    del old["model"]["widths"], old["mixup"], old["eval"]["mirror"]
    assert completed(old) == now


def test_a_tuple_equals_the_list_that_json_made_of_it(tmp_path):
    config = base_config("oct").to_dict()
    config["model"]["widths"] = (8, 16)
    path = tmp_path / "config.json"
    write_json(path, config)
    check_config(path, config)
    with pytest.raises(ValueError, match=r"widths: \[8, 16\] there, \[8, 12\] now"):
        check_config(path, {**config, "model": {**config["model"], "widths": (8, 12)}})


def test_logs_are_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": k}) + "\n" for k in range(6)) + '{"step": 2, "lo')
    keep_lines(path, lambda line: line["step"] <= 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2, 3]
    keep_lines(tmp_path / "absent.jsonl", lambda line: True)
