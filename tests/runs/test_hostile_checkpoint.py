"""A checkpoint whose digest is right, and whose maker meant harm or made a mistake."""

import json
import os
import shutil

import numpy as np
import pytest
import tensorstore as ts

from wlsrl_jax.files import Mistake
from wlsrl_jax.runs import digest
from wlsrl_jax.runs.checkpoint import PARTS
from wlsrl_jax.runs.open import load_trained

BIAS = "ema.params.head_TO1.bias"


@pytest.fixture
def hostile(finished, tmp_path):
    """(workdir, folder of the selected checkpoint, key-value store of its arrays, sealing)."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    folder = workdir / "checkpoints" / "12"
    base = {"driver": "file", "path": f"{folder}/state/"}
    yield workdir, folder, {"driver": "ocdbt", "base": base}


def rewrite(store, **changes):
    found = ts.KvStore.open(store).result()
    header = json.loads(found.read(f"{BIAS}/.zarray").result().value)
    found.write(f"{BIAS}/.zarray", json.dumps({**header, **changes})).result()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [10**12]}, r"head_TO1\.bias is <f4 \(1000000000000,\), not float32 \(4,\)"),
        ({"chunks": [10**12]}, r"head_TO1\.bias has chunks of \(1000000000000,\), larger"),
        ({"dtype": "<f8"}, r"head_TO1\.bias is <f8 \(4,\), not float32"),
        ({"shape": [2, 2], "chunks": [2, 2]}, r"head_TO1\.bias is <f4 \(2, 2\), not"),
        ({"shape": "many"}, "cannot be read"),
    ],
)
def test_what_an_array_says_of_itself_is_looked_at_first(changes, message, hostile):
    workdir, folder, store = hostile
    rewrite(store, **changes)
    digest.write(folder, PARTS)
    with pytest.raises(Mistake, match=message):
        load_trained(workdir)


def test_weights_that_are_no_numbers(hostile):
    workdir, folder, store = hostile
    array = ts.open({"driver": "zarr", "kvstore": {**store, "path": f"{BIAS}/"}}).result()
    array.write(np.array([0, np.nan, 0, 0], "f")).result()
    digest.write(folder, PARTS)
    with pytest.raises(Mistake, match="params/head_TO1/bias hold what is no number"):
        load_trained(workdir)


def test_files_larger_than_any_such_model_are_not_read(hostile):
    workdir, folder, _ = hostile
    document = json.loads((folder / digest.NAME).read_text())
    (folder / "state" / "d" / "more").touch()
    os.truncate(folder / "state" / "d" / "more", 1 << 40)
    document["files"]["state/d/more"] = [1 << 40, 0]
    (folder / digest.NAME).write_text(json.dumps(document))
    with pytest.raises(Mistake, match=r"its files have \d+ bytes, too many"):
        load_trained(workdir)


def test_a_device_in_place_of_a_file_is_not_read(hostile):
    workdir, folder, _ = hostile
    path = next((folder / "state" / "d").iterdir())
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Mistake, match="is no plain file"):
        load_trained(workdir)


def test_an_identity_of_another_form(hostile):
    workdir, folder, _ = hostile
    (folder / "run" / "metadata").write_text('{"global_batches": 12}')
    digest.write(folder, PARTS)
    with pytest.raises(Mistake, match="cannot be read"):
        load_trained(workdir)
