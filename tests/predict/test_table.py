"""An output may be cut off at any byte and is completed with each image once."""

import csv
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlsrl_jax.data.images.listing import find_images
from wlsrl_jax.predict.table import PredictionFile

NAMES = [f"a folder/image, {k}.png" for k in range(6)] + ['quote".png', "é.png"]
VALUES = np.random.default_rng(0).random((len(NAMES), 2))


def open_file(output, weights="w"):
    return PredictionFile(output, ["TO2/normal", "TO2/abnormal"], {"weights": weights}, {})


def complete(file):
    todo = [k for k, name in enumerate(NAMES) if name not in file.done]
    for part in (todo[:3], todo[3:]):
        file.add([NAMES[k] for k in part], VALUES[part].tolist())
    file.finish()


@given(st.data(), st.sampled_from([b"", b"\0\0\0", b"x.png,0.5"]))
@settings(max_examples=40, deadline=None)
def test_cut_off_anywhere(data, rubbish):
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "out.csv")
        with open_file(output) as file:
            file.add(NAMES[:5], VALUES[:5].tolist())
        partial = output.with_name("out.csv.partial")
        content = partial.read_bytes()
        header = content.index(b"\n") + 1
        kept = data.draw(st.integers(header, len(content)))
        partial.write_bytes(content[:kept] + rubbish)
        with open_file(output) as file:
            assert len(file.done) == content[:kept].count(b"\n") - 1
            complete(file)
        with output.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert sorted(r["path"] for r in rows) == sorted(NAMES)
        for row in rows:
            expected = VALUES[NAMES.index(row["path"])]
            np.testing.assert_allclose([float(v) for v in list(row.values())[1:]], expected, 1e-8)


def test_two_at_a_time_and_another_model(tmp_path):
    output = tmp_path / "out.csv"
    with open_file(output):
        with pytest.raises(ValueError, match="is being written by another process"):
            open_file(output)
    with pytest.raises(ValueError, match="weights: 'w' there, 'v' now"):
        open_file(output, "v")
    (tmp_path / "out.csv.json").unlink()
    with pytest.raises(ValueError, match="says how it was made, does not"):
        open_file(output)


FORMULAS = ["=1+1.png", "+a.png", "-b.png", "@c.png", "'=d.png", "e.png", "007.png"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_no_name_is_a_formula_and_every_one_is_read_back(tmp_path, suffix):
    output = tmp_path / f"out.{suffix}"
    with open_file(output) as file:
        file.add(FORMULAS[:3], VALUES[:3].tolist())
        file.bad("=bad.png", "-reason")
    with open_file(output) as file:
        assert file.done == set(FORMULAS[:3])  # goes on where it was
        file.add(FORMULAS[3:], VALUES[:4].tolist())
        file.bad("=bad.png", "-reason")
        file.finish()
    assert (tmp_path / "out.errors.csv").read_text().splitlines()[1] == "'=bad.png,'-reason"
    if suffix == "csv":
        lines = output.read_text().splitlines()[1:]
        assert not [line for line in lines if line.startswith(("=", "+", "-", "@"))]
        listed = find_images([str(output)])  # our own table is a list
        assert [Path(i.path).name for i in listed.items] == FORMULAS
    else:
        pq = pytest.importorskip("pyarrow.parquet")
        assert pq.read_table(output).to_pydict()["path"] == FORMULAS
    with open_file(output) as file:
        assert file.finished and file.done == {*FORMULAS, "=bad.png"}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_killed_between_the_last_steps(tmp_path, suffix):
    """The output has its name, and what says so was not written."""
    output = tmp_path / f"out.{suffix}"
    with open_file(output) as file:
        complete(file)
    description = tmp_path / f"out.{suffix}.json"
    finished = description.read_text()
    description.write_text(finished.replace('"finished": true', '"finished": false'))
    (tmp_path / f"out.{suffix}.partial").write_bytes(b"left over")
    with open_file(output) as file:
        assert file.finished and file.done == set(NAMES)
    assert description.read_text() == finished
    assert not (tmp_path / f"out.{suffix}.partial").exists()


def test_nowhere_to_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        open_file(tmp_path / "file" / "out.csv")
