"""The exported model runs without this package and gives the same probabilities."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests import sources
from tests.tiny import read_predictions, run
from wlsrl_jax.data.phantoms.source import PhantomSource
from wlsrl_jax.data.prepare import __main__ as prepare
from wlsrl_jax.export import run_model as exported_model
from wlsrl_jax.export.__main__ import FILES, export_run, main
from wlsrl_jax.predict import __main__ as predict
from wlsrl_jax.runs.open import load_trained

ALONE = """
import sys
for name in ("flax", "wlsrl_jax", "optax", "orbax", "grain", "tensorflow_datasets"):
    sys.modules[name] = None  # importing it is an error
sys.path.insert(0, sys.argv[1])
import numpy as np
import run_model
model, about = run_model.load(sys.argv[1])
images = np.load(sys.argv[2])
for size in (1, 7, len(images)):  # any batch size
    rows = [model(images[k : k + size]) for k in range(0, len(images), size)]
    found = {t: np.concatenate([np.asarray(r[t]) for r in rows]) for t in about["output"]}
    np.savez(f"{sys.argv[2]}.{size}.npz", **found)
"""


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return export_run(load_trained(finished), folder)


def test_every_test_image_without_the_package(finished, exported, tmp_path):
    source = PhantomSource("oct", "test", 50, 32, 32)
    np.save(tmp_path / "images.npy", np.stack([source[k]["image"] for k in range(50)]))
    command = [sys.executable, "-c", ALONE, str(exported), str(tmp_path / "images.npy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": ""})  # fmt: skip
    assert done.returncode == 0, done.stderr
    known = {r["id"]: r for r in read_predictions(finished) if r["split"] == "test"}
    about = json.loads((exported / "model.json").read_text())
    assert "PHANTOM" in about["note"]
    for size in (1, 7, 50):
        found = np.load(tmp_path / f"images.npy.{size}.npz")
        for task, output in about["output"].items():
            expected = [[float(known[source[k]["id"]][f"{task}/{c}"]) for c in output["classes"]]
                        for k in range(50)]  # fmt: skip
            np.testing.assert_allclose(found[task], expected, atol=1e-5)


def test_files_are_read_as_the_package_reads_them(tmp_path, capsys):
    """Fundus photographs of odd sizes: cropped, resized twice, three channels."""
    source = sources.eyepacs(tmp_path / "source")
    rng = np.random.default_rng(0)
    for k, path in enumerate(sorted((source / "train").iterdir())):  # a field on black or white
        y, x = np.mgrid[:70, :100]
        field = ((y - 35) ** 2 + (x - 48) ** 2 < 30**2)[..., None]
        pixels = np.where(field, rng.integers(60, 256, (70, 100, 3)), 255 * (k % 2)).astype(
            np.uint8
        )
        Image.fromarray(pixels).save(path, quality=95)
    prepare.prepare("eyepacs", source, str(tmp_path / "data"), size=(48, 48))
    run(tmp_path / "run", "fundus", data__dataset="eyepacs", num_epochs=1.0,
        data__data_dir=str(tmp_path / "data"), optimizer__warmup_epochs=0.0)  # fmt: skip
    folder = export_run(load_trained(tmp_path / "run"), tmp_path / "model")
    images = sorted((source / "train").iterdir())[:4]
    predict.main([f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out.csv'}",
                  "--modality_check=off", "--quality_check=off", *map(str, images)])  # fmt: skip
    command = [sys.executable, str(folder / "run_model.py"), *map(str, images)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out.csv").open() as file:
        expected = list(csv.DictReader(file))
    for line, row in zip(done.stdout.splitlines(), expected):
        found = json.loads(line)
        for grade in "01234":
            assert found["TF2"][grade] == pytest.approx(float(row[f"TF2/{grade}"]), abs=1e-5)


def test_damage_and_mistakes(finished, exported, tmp_path, capsys, monkeypatch):
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in FILES:
        (broken / name).write_bytes((exported / name).read_bytes())
    content = bytearray((broken / "model.stablehlo").read_bytes())
    content[len(content) // 2] ^= 255
    (broken / "model.stablehlo").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        exported_model.load(broken)
    about = json.loads((exported / "model.json").read_text())
    monkeypatch.syspath_prepend(exported)  # read_image.py lies there
    with pytest.raises(ValueError, match="model.json: not an image"):
        exported_model.read(exported / "model.json", about)
    with pytest.raises(ValueError, match="nowhere is not a workdir"):
        main(["--workdir=nowhere", f"--output={tmp_path}"])
    about["output"]["TO1"]["classes"] = ["other"]
    (broken / "model.json").write_text(json.dumps(about))
    arguments = [f"--workdir={finished}", f"--output={broken}"]
    with pytest.raises(ValueError, match="holds another model"):
        main(arguments)
    main([*arguments, "--overwrite"])
    assert exported_model.load(broken)[1]["output"]["TO1"]["classes"] != ["other"]
    assert "PHANTOM" in capsys.readouterr().out
