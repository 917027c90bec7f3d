"""Prediction of files: the probabilities of the evaluation, each image exactly once."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests import sources
from tests.tiny import ROOT, read_predictions, run
from wlsrl_jax.data.phantoms.source import PhantomSource
from wlsrl_jax.data.prepare import __main__ as prepare
from wlsrl_jax.predict import __main__ as predict
from wlsrl_jax.predict.table import PredictionFile
from wlsrl_jax.runtime.stop import EXIT_PREEMPTED


def write_phantoms(folder, count, modality="oct", size=32):
    folder.mkdir(parents=True, exist_ok=True)
    source = PhantomSource(modality, "test", 50, size, size)
    for k in range(count):
        example = source[k % 50]
        pixels = example["image"][..., 0] if modality == "oct" else example["image"]
        Image.fromarray(pixels).save(folder / f"{example['id']}-{k}.png")
    return folder


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_as_evaluated(rows, workdir, split="test"):
    known = {r["id"]: r for r in read_predictions(workdir) if r["split"] == split}
    columns = [c for c in rows[0] if "/" in c]
    for row in rows:
        stem = os.path.basename(row["path"]).rsplit(".", 1)[0]
        truth = known.get(stem) or known[stem.rsplit("-", 1)[0]]
        for c in columns:
            assert float(row[c]) == pytest.approx(float(truth[c]), abs=1e-5), (stem, c)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_probabilities_are_the_evaluations(finished, tmp_path, batch_size, capsys):
    images = write_phantoms(tmp_path / "images", 50)
    output = tmp_path / "out.csv"
    arguments = [f"--workdir={finished}", f"--output={output}", str(images)]
    status = predict.main([*arguments, f"--batch_size={batch_size}", "--modality_check=off"])
    assert status == 0 and "PHANTOM" in capsys.readouterr().out
    rows = rows_of(output)
    assert len(rows) == 50 and list(rows[0])[0] == "path" and "TO1/DRUSEN" in rows[0]
    assert_as_evaluated(rows, finished)
    assert predict.main([*arguments, "--modality_check=off"]) == 0  # complete: says so
    assert "complete, 50 images" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "config_name"), [("octdl", "oct"), ("eyepacs", "fundus")])
def test_files_of_a_prepared_set_go_the_same_way(tmp_path, name, config_name):
    """Sizes differ from file to prepared data to model, and nothing is needed but the run."""
    source = sources.LAYOUTS[name](tmp_path / name)
    prepare.prepare(name, source, str(tmp_path / "data"), size=(48, 64))
    config = {"data__dataset": name, "data__data_dir": str(tmp_path / "data"),
              "data__height": 24, "num_epochs": 1.0, "optimizer__warmup_epochs": 0.0}  # fmt: skip
    run(tmp_path / "run", config_name, **config)
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    assert data["prepared_size"] == [48, 64]
    table = tmp_path / "list.csv"
    tested = {r["id"] for r in read_predictions(tmp_path / "run") if r["split"] == "test"}
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(
            [["path"], *([p.relative_to(tmp_path)] for p in sorted(source.rglob("*.jp*g"))
                         if p.stem in tested)])  # fmt: skip
    output = tmp_path / "out.csv"
    arguments = [
        f"--workdir={tmp_path / 'run'}",
        f"--output={output}",
        "--modality_check=off",
        "--quality_check=off",
    ]  # they are of noise
    assert predict.main([*arguments, str(table)]) == 0
    rows = rows_of(output)
    assert len(rows) == len(tested)
    assert_as_evaluated(rows, tmp_path / "run")


def command(finished, output, images, *flags):
    return [sys.executable, "-m", "wlsrl_jax.predict", f"--workdir={finished}",
            f"--output={output}", "--batch_size=8", "--modality_check=off", *flags,
            str(images)]  # fmt: skip


def test_killed_runs_give_each_image_once(finished, tmp_path):
    images = write_phantoms(tmp_path / "images", 1500)
    output = tmp_path / "out.csv"
    partial = tmp_path / "out.csv.partial"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    kills = 0
    for wanted in (100, 500, 900):
        process = subprocess.Popen(command(finished, output, images), env=env, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        while process.poll() is None:
            if partial.exists() and partial.read_bytes().count(b"\n") > wanted:
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        process.communicate()
        if kills == 1:
            with partial.open("ab") as file:
                file.write(b"a line that was cut o")
    assert kills == 3 and not output.exists()
    done = subprocess.run(command(finished, output, images), env=env, text=True,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0 and "resuming: " in done.stderr, done.stderr
    rows = rows_of(output)
    assert len(rows) == 1500 == len({r["path"] for r in rows})
    assert not partial.exists()
    assert_as_evaluated(rows, finished)


def test_parquet_and_temperatures(finished, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    images = write_phantoms(tmp_path / "images", 10)
    flags = [f"--workdir={finished}", "--modality_check=off", str(images)]
    assert predict.main([*flags, f"--output={tmp_path / 'raw.parquet'}"]) == 0
    assert predict.main([*flags, f"--output={tmp_path / 'soft.csv'}", "--calibrated"]) == 0
    table = pq.read_table(tmp_path / "raw.parquet").to_pydict()
    assert len(table["path"]) == 10
    raw = np.array([table["TO2/normal"], table["TO2/abnormal"]]).T
    soft = np.array([[float(r["TO2/normal"]), float(r["TO2/abnormal"])]
                     for r in rows_of(tmp_path / "soft.csv")])  # fmt: skip
    found = json.loads((finished / "statistics.json").read_text())["calibration"]["TO2"]
    expected = raw ** (1 / found["temperature"])
    np.testing.assert_allclose(soft, expected / expected.sum(1, keepdims=True), atol=1e-5)
    described = json.loads((tmp_path / "soft.csv.json").read_text())
    assert described["made_with"]["temperatures"]["TO2"] == found["temperature"]


def test_bad_files_are_told_and_the_others_predicted(finished, tmp_path, capsys):
    images = write_phantoms(tmp_path / "images", 4)
    (images / "cut.png").write_bytes(next(images.glob("*.png")).read_bytes()[:200])
    (images / "empty.jpg").write_bytes(b"")
    (images / "notes.txt").write_text("not an image")
    with open(os.fsencode(images) + b"/\xff.png", "wb") as file:
        file.write(b"")
    output = tmp_path / "out.csv"
    flags = [f"--workdir={finished}", f"--output={output}", "--modality_check=off", str(images)]
    assert predict.main(flags) == predict.EXIT_SOME_BAD
    text = capsys.readouterr().err
    assert "cut.png: truncated" in text and "empty.jpg: the file is empty" in text
    assert "passed over: 1 files whose names are not of images" in text
    assert len(rows_of(output)) == 4
    errors = rows_of(tmp_path / "out.errors.csv")
    named = sorted(os.path.basename(r["path"]) for r in errors)
    assert named == ["\\xff.png", "cut.png", "empty.jpg"]
    assert predict.main(flags) == predict.EXIT_SOME_BAD  # also when it is complete
    out, text = capsys.readouterr()
    assert "complete, 4 images" in out and "3 images without a row" in text
    flags[1] = f"--output={tmp_path / 'other.csv'}"
    assert predict.main([*flags, "--on_bad_file=skip"]) == 0


def test_another_run_does_not_go_on_with_the_file(finished, tmp_path):
    images = write_phantoms(tmp_path / "images", 3)
    output = tmp_path / "out.csv"
    flags = [f"--workdir={finished}", f"--output={output}", str(images)]
    assert predict.main([*flags, "--modality_check=off"]) == 0
    with pytest.raises(ValueError, match="modality_check: 'off' there, 'warn' now"):
        predict.main([*flags, "--modality_check=warn"])
    more = sorted(write_phantoms(tmp_path / "more", 4).iterdir())
    shutil.copy(more[3], images)
    with pytest.raises(ValueError, match="is complete and lacks 1 images"):
        predict.main([*flags, "--modality_check=off"])
    # A run may be moved; the same place may not come to hold other weights.
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    flags[0] = f"--workdir={moved}"
    (images / sorted(os.listdir(images))[-1]).unlink()
    assert predict.main([*flags, "--modality_check=off"]) == 0
    results = json.loads((moved / "metrics.json").read_text())
    saved = [int(p.name) for p in (moved / "checkpoints").iterdir() if p.name.isdigit()]
    results["selected"]["step"] = next(s for s in saved if s != results["selected"]["step"])
    (moved / "metrics.json").write_text(json.dumps(results))
    entry = {"step": results["selected"]["step"], "score": 1.0, "results": {}}
    (moved / "validation.json").write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match="weights: .* there, .* now"):
        predict.main([*flags, "--modality_check=off"])


def test_a_fundus_photograph_is_refused_by_an_oct_model(finished, tmp_path, capsys):
    images = write_phantoms(tmp_path / "images", 2, "fundus", 96)
    flags = [f"--workdir={finished}", str(images)]
    with pytest.raises(ValueError, match="none of the 2 images can be used"):
        predict.main([*flags, f"--output={tmp_path / 'a.csv'}"])
    assert "looks like a fundus photograph, but this model was trained on OCT" in (
        capsys.readouterr().err
    )
    assert predict.main([*flags, f"--output={tmp_path / 'b.csv'}", "--modality_check=warn"]) == 0
    assert "warning: " in capsys.readouterr().err


def test_overlays(finished, tmp_path):
    images = write_phantoms(tmp_path / "images", 3)
    write_phantoms(tmp_path / "images" / "again", 1)  # the same name in another folder
    predict.main([f"--workdir={finished}", f"--output={tmp_path / 'a.csv'}", "--modality_check=off",
                  f"--overlays={tmp_path / 'maps'}", "--batch_size=4", str(images)])  # fmt: skip
    pictures = list((tmp_path / "maps").glob("*.png"))
    assert len(pictures) == 8  # four images, two tasks
    assert min(Image.open(pictures[0]).size) >= 256


def test_pictures_of_a_run_that_goes_on_have_the_same_names(finished, tmp_path, monkeypatch):
    images = write_phantoms(tmp_path / "images", 6)
    write_phantoms(images / "again", 6)
    flags = [f"--workdir={finished}", "--modality_check=off", "--batch_size=4", str(images)]
    predict.main([*flags, f"--output={tmp_path / 'a.csv'}", f"--overlays={tmp_path / 'whole'}"])
    names = sorted(os.listdir(tmp_path / "whole"))
    assert len(names) == 24
    flags += [f"--output={tmp_path / 'b.csv'}", f"--overlays={tmp_path / 'parts'}"]
    add, calls = PredictionFile.add, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        add(self, *arguments)

    monkeypatch.setattr(PredictionFile, "add", interrupted)
    assert predict.main(flags) == EXIT_PREEMPTED
    assert predict.main(flags) == 0
    assert sorted(os.listdir(tmp_path / "parts")) == names
    for name in names:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--workdir=nowhere"], "nowhere is not a workdir"),
        (["--output=out.xlsx"], "must end in .csv or .parquet"),
        (["missing/*.png"], "is no file or folder and matches none"),
        (["leaves.csv"], "leaves .*; give its absolute path"),
        (["other.csv"], "has no column 'path'"),
    ],
)
def test_mistakes_are_one_line(finished, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaves.csv").write_text("path\n../secret.png\n")
    (tmp_path / "other.csv").write_text("where\na.png\n")
    (tmp_path / "good.csv").write_text("path\na.png\n")
    flags = [f"--workdir={finished}", "--output=out.csv"]
    with pytest.raises(ValueError, match=message):
        predict.main([*flags, *change, *(["good.csv"] if change[0].startswith("--") else [])])
