"""A file that was replaced or repaired since it was predicted is predicted again."""

import csv
import os

import numpy as np
import pytest
from PIL import Image

from tests.predict.test_predict import rows_of, write_phantoms
from wlsrl_jax.data.images.listing import Item
from wlsrl_jax.predict import __main__ as predict
from wlsrl_jax.predict.table import PredictionFile


def names_of(output):
    if output.suffix == ".csv":
        with output.open(newline="") as file:
            return [row["path"] for row in csv.DictReader(file)]
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(output).column("path").to_pylist()


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_of_changed_files_are_dropped_and_the_others_stay(suffix, ended, tmp_path):
    items = [Item(str(tmp_path / f"a, {k}.png")) for k in range(5)]
    for item in items:
        with open(item.path, "w") as file:
            file.write("before")
    output = tmp_path / f"out.{suffix}"

    def opened():
        return PredictionFile(output, ["T/a", "T/b"], {}, {})

    values = np.random.default_rng(0).random((5, 2)).astype(np.float32)
    with opened() as file:
        watched = list(file.watch(items))
        file.add([item.name for item in watched[:4]], values[:4].tolist())
        file.bad(items[4].name, "cut off")
        if ended:
            file.finish()
    times = os.stat(items[1].path)
    with open(items[1].path, "w") as file:
        file.write("after!")  # of the same length, and its time set back
    os.utime(items[1].path, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(items[1].path, tmp_path / "new")
    os.replace(tmp_path / "new", items[1].path)
    with open(items[4].path, "a") as file:
        file.write("repaired")
    with opened() as file:
        assert file.finished == ended
        expected = [items[1].name, *([items[4].name] if ended else [])]
        assert file.changed(items) == expected
        file.redo(expected)
        assert file.done == {items[k].name for k in (0, 2, 3)} and not file.finished
        list(file.watch(items))
        file.add([items[1].name, items[4].name], values[3:].tolist())
        file.finish()
    assert sorted(names_of(output)) == [item.name for item in items]
    with opened() as file:
        assert file.finished and not file.changed(items) and not file.bad_count


def test_a_replaced_and_a_repaired_image_are_predicted_again(finished, tmp_path, capsys):
    images = write_phantoms(tmp_path / "images", 4)
    first, second, third, broken = sorted(images.iterdir())
    whole = broken.read_bytes()
    broken.write_bytes(whole[:40])
    output = tmp_path / "out.csv"
    command = [f"--workdir={finished}", f"--output={output}", "--modality_check=off",
               "--quality_check=off", str(images)]  # fmt: skip
    assert predict.main(command) == predict.EXIT_SOME_BAD
    before = {row["path"]: row for row in rows_of(output)}
    Image.fromarray(255 - np.asarray(Image.open(second))).save(second)
    broken.write_bytes(whole)
    assert predict.main(command) == 0
    assert "2 images have changed since" in capsys.readouterr().err
    after = {row["path"]: row for row in rows_of(output)}
    assert after.keys() == {str(path) for path in (first, second, third, broken)}
    for path in (first, third):
        assert after[str(path)] == before[str(path)]
    assert after[str(second)] != before[str(second)]
    assert not (tmp_path / "out.errors.csv").exists()
    assert predict.main(command) == 0 and "complete, 4 images" in capsys.readouterr().out
