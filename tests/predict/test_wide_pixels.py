"""Prediction of wide pixels, volumes and links: the numbers of the 8-bit files, or a refusal."""

import csv
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.data.images.wide import grey, pages, png, scaled, tiff
from tests.data.prepare.test_wide_pixels import OCT, class_folders, phantom, twelve
from tests.tiny import run
from wlsrl_jax.data.images.limits import BadImageError
from wlsrl_jax.data.images.listing import Item
from wlsrl_jax.data.prepare.__main__ import prepare
from wlsrl_jax.explain.__main__ import read_images
from wlsrl_jax.export.__main__ import export_run
from wlsrl_jax.files import Mistake
from wlsrl_jax.predict import __main__ as predict
from wlsrl_jax.predict.demo import make_analysis
from wlsrl_jax.runs.input import input_spec, read_input
from wlsrl_jax.runs.open import load_trained

COUNT = 4


@pytest.fixture(scope="module")
def twelve_run(tmp_path_factory):
    """A run on data of 12 bits in 16."""
    folder = tmp_path_factory.mktemp("twelve")
    prepare("folder", class_folders(folder / "in", twelve), str(folder / "data"), options=OCT,
            size=(32, 48), allow_missing_classes=True)  # fmt: skip
    run(folder / "run", "oct", data__dataset="mine", data__data_dir=str(folder / "data"),
        num_epochs=1.0, optimizer__warmup_epochs=0.0)  # fmt: skip
    return folder / "run"


def write(folder, encode, suffix=".png", count=COUNT):
    folder.mkdir()
    for k in range(count):
        (folder / f"{k}{suffix}").write_bytes(encode(phantom(k % 4, k)))
    return folder


def predicted(workdir, images, output, *flags):
    """(Exit status, path -> numbers)."""
    status = predict.main([f"--workdir={workdir}", f"--output={output}", "--modality_check=off",
                           "--on_bad_file=skip", *flags, str(images)])  # fmt: skip
    with output.open() as file:
        return status, {r.pop("path"): list(r.values()) for r in csv.DictReader(file)}


def numbers(found):
    return list(found.values())


@pytest.mark.parametrize(
    ("encode", "suffix"),
    [
        (twelve, ".png"),
        (lambda a: tiff(scaled(a, 12)), ".tif"),
        (lambda a: tiff(a.astype(np.uint16)), ".tif"),
        (lambda a: tiff(scaled(255 - a, 12), t262=0), ".tif"),
    ],
)
def test_wide_files_have_the_numbers_of_the_8_bit_ones(finished, tmp_path, capsys, encode, suffix):
    _, want = predicted(finished, write(tmp_path / "8", png), tmp_path / "8.csv")
    images = write(tmp_path / "wide", encode, suffix)
    status, found = predicted(finished, images, tmp_path / "wide.csv")
    assert status == 0 and numbers(found) == numbers(want)
    assert "--pixel_bits says otherwise" in " ".join(capsys.readouterr().err.split())


def test_the_run_knows_the_range_of_its_data(twelve_run, tmp_path):
    """A single dark image is read as it was in training, and one of another range is refused."""
    assert json.loads((twelve_run / "data.json").read_text())["pixel_bits"] == "12"
    for name, encode in {"8": png, "12": twelve, "10": lambda a: png(scaled(a, 10))}.items():
        write(tmp_path / name, lambda a, e=encode: e(a // 3), count=1)
    _, want = predicted(twelve_run, tmp_path / "8", tmp_path / "8.csv")
    _, found = predicted(twelve_run, tmp_path / "12", tmp_path / "12.csv")
    assert numbers(found) == numbers(want)
    (tmp_path / "12" / "sixteen.png").write_bytes(png(scaled(phantom(0, 0), 16)))
    _, found = predicted(twelve_run, tmp_path / "12", tmp_path / "more.csv")
    assert (
        len(found) == 1 and "is outside of 0 to 4095" in (tmp_path / "more.errors.csv").read_text()
    )
    _, found = predicted(twelve_run, tmp_path / "10", tmp_path / "10.csv", "--pixel_bits=10")
    assert numbers(found) == numbers(want)


def test_an_ambiguous_set_is_refused_with_the_flag(finished, tmp_path):
    write(tmp_path / "in", lambda a: png(scaled(a, 12) // 3), count=1)
    with pytest.raises(Mistake, match="the only image are 0 to 1365.*--pixel_bits=12"):
        predicted(finished, tmp_path / "in", tmp_path / "o.csv")
    status, found = predicted(finished, tmp_path / "in", tmp_path / "o.csv", "--pixel_bits=12")
    assert status == 0 and len(found) == 1
    with pytest.raises(Mistake, match="--pixel_bits=1000"):
        predicted(finished, tmp_path / "in", tmp_path / "o.csv", "--pixel_bits=1000")


def test_what_was_done_before_does_not_change_the_range(finished, tmp_path, monkeypatch):
    """The bright image has its row when the command is given again; the dark ones have not."""
    write(tmp_path / "in", lambda a: png(scaled(a, 12) // 3))
    (tmp_path / "in" / "0.png").write_bytes(twelve(phantom(0, 0)))
    _, want = predicted(finished, tmp_path / "in", tmp_path / "whole.csv", "--batch_size=1")
    add, rows = predict.PredictionFile.add, []

    def killed(self, *args):
        add(self, *args)
        rows.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(predict.PredictionFile, "add", killed)
    flags = [f"--workdir={finished}", f"--output={tmp_path / 'o.csv'}", "--modality_check=off",
             "--on_bad_file=skip", "--batch_size=1", str(tmp_path / "in")]  # fmt: skip
    assert predict.main(flags) != 0 and rows == [1]
    monkeypatch.undo()
    _, found = predicted(finished, tmp_path / "in", tmp_path / "o.csv", "--batch_size=1")
    assert found == want and len(found) == COUNT


def test_every_page_is_an_image(finished, tmp_path):
    pictures = [phantom(k, k) for k in range(COUNT)]
    _, want = predicted(finished, write(tmp_path / "8", png), tmp_path / "8.csv")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "volume.tif").write_bytes(pages(pictures, thumbnail=grey()))
    _, found = predicted(finished, tmp_path / "in", tmp_path / "o.csv")
    assert [name.rpartition("#")[2] for name in found] == ["1", "2", "3", "4"]
    assert numbers(found) == numbers(want)
    trained = load_trained(finished)
    named = read_images([str(tmp_path / "in")], trained)
    assert len(named) == COUNT and len({name for name, _ in named}) == COUNT
    analyse = make_analysis(trained)
    answer = analyse(tmp_path / "in" / "volume.tif", 3)
    assert answer.frames == COUNT
    flat = [p for task in answer.probabilities.values() for p in task.values()]
    np.testing.assert_allclose(flat, [float(v) for v in numbers(want)[2]], atol=1e-5)


def test_what_a_folder_holds_besides_is_counted(finished, tmp_path, capsys):
    images = write(tmp_path / "in", png)
    (tmp_path / "week2").mkdir()
    (images / "week2").symlink_to(tmp_path / "week2")
    (images / "gone.png").symlink_to(images / "nowhere.png")
    (images / "notes.txt").touch()
    (images / ".cache").mkdir()
    _, found = predicted(finished, images, tmp_path / "o.csv")
    assert len(found) == COUNT
    reasons = (tmp_path / "o.errors.csv").read_text()
    assert "week2,a link to a folder" in reasons.replace('"', "") and "gone.png" in reasons
    said = capsys.readouterr().err
    assert "passed over: 1 files whose names are not of images" in said
    assert "passed over: 1 hidden files or folders" in said


def test_python_and_the_demo_ask_for_the_range_too(finished, tmp_path):
    trained = load_trained(finished)
    path = tmp_path / "dark.png"
    path.write_bytes(png(scaled(phantom(0, 0), 12) // 3))
    with pytest.raises(BadImageError, match="--pixel_bits=12"):
        read_input(Item(str(path)), input_spec(trained))
    with pytest.raises(BadImageError, match="--pixel_bits=12"):
        make_analysis(trained)(path, 1)
    answer = make_analysis(trained, "12")(path, 1)
    (tmp_path / "8.png").write_bytes(png(np.rint(phantom(0, 0) / 3).astype(np.uint8)))
    assert answer.frames == 1 and answer.maps
    with pytest.raises(Mistake, match="--pixel_bits=12"):
        read_images([str(path)], trained)
    assert len(read_images([str(path)], trained, "12")) == 1


def files_of_all_kinds(folder):
    """Encoded pictures by name; those with a range of their own or of 8 bits."""
    folder.mkdir()
    colour = np.stack([grey(k, (48, 64)) for k in range(3)], axis=-1)
    alpha = np.dstack([colour, grey(4, (48, 64))])
    images = {
        "grey.png": Image.fromarray(colour[..., 0]),
        "colour.png": Image.fromarray(colour),
        "alpha.png": Image.fromarray(alpha),
        "grey_alpha.png": Image.fromarray(alpha[..., ::3]),
        "palette.png": Image.fromarray(colour).quantize(32),
        "bits.png": Image.fromarray(colour[..., 0] > 127),
        "photo.jpg": Image.fromarray(colour),
        "grey.jpg": Image.fromarray(colour[..., 0]),
        "inks.jpg": Image.fromarray(colour).convert("CMYK"),
        "colour.tif": Image.fromarray(colour),
        "lab.tif": Image.fromarray(colour).convert("LAB"),
        "colour.bmp": Image.fromarray(colour),
    }
    for name, image in images.items():
        image.save(folder / name)
    turned = Image.Exif()
    turned[0x0112] = 6
    images["photo.jpg"].save(folder / "turned.jpg", exif=turned)
    clear = Image.fromarray(colour).quantize(32)
    clear.save(folder / "clear.png", transparency=3)
    wide = {
        "wide.png": png(scaled(colour[..., 0], 12)),
        "wide.tif": tiff(scaled(colour[..., 0], 12)),
        "said.png": png(scaled(colour[..., 0], 14), sbit=14),
        "white_is_zero.tif": tiff(scaled(colour[..., 0], 12), t262=0),
        "wide_colour.png": png(scaled(colour, 12)),
        "wide_colour.tif": tiff(scaled(colour, 12)),
        "wide_alpha.png": png(np.dstack([scaled(colour, 12), scaled(alpha[..., 3], 16)])),
        "volume.tif": pages([grey(k, (48, 64)) for k in range(3)]),
    }
    for name, data in wide.items():
        (folder / name).write_bytes(data)
    return folder


READ = """
import sys
for name in ("flax", "wlsrl_jax", "optax", "orbax", "grain", "tensorflow_datasets"):
    sys.modules[name] = None
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import json, numpy as np, read_image, run_model
about = json.loads(Path(sys.argv[1], "model.json").read_text())
found = {}
for path in sorted(Path(sys.argv[2]).iterdir()):
    pages = read_image.count_pages(path)
    for page in range(1, pages + 1) if pages > 1 else [0]:
        found[f"{path}#{page}" if page else str(path)] = run_model.read(path, about, page)
np.savez(sys.argv[3], **found)
"""


@pytest.mark.parametrize("channels", [1, 3])
def test_the_exported_reader_gives_the_pixels_of_the_package(finished, tmp_path, channels):
    trained = load_trained(finished)
    trained = dataclasses.replace(trained, data={**trained.data, "pixel_bits": "12"})
    folder = export_run(trained, tmp_path / "model")
    about = json.loads((folder / "model.json").read_text())
    assert about["input"]["pixel_bits"] == "12"
    about["input"]["shape"][-1] = channels
    (folder / "model.json").write_text(json.dumps(about))
    images = files_of_all_kinds(tmp_path / "images")
    done = subprocess.run(
        [sys.executable, "-c", READ, str(folder), str(images), str(tmp_path / "found.npz")],
        capture_output=True, text=True, cwd=tmp_path, env={"PATH": "", "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "found.npz")
    assert len(found.files) == 24
    spec = input_spec(trained)
    spec = dataclasses.replace(spec, shape=(*spec.shape[:2], channels))
    for name in found.files:
        path, _, page = name.partition("#")
        expected = read_input(Item(str(images / path), int(page or 0)), spec, "off").image
        np.testing.assert_array_equal(found[name], expected, err_msg=name)


def test_the_exported_command_decides_over_its_images_and_asks(finished, tmp_path):
    folder = export_run(load_trained(finished), tmp_path / "model")
    images = write(tmp_path / "wide", twelve)
    plain = write(tmp_path / "8", png)

    def rows(*arguments):
        command = [sys.executable, str(folder / "run_model.py"), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return [{k: v for k, v in line.items() if k != "path"} for line in lines], done.stderr

    want, _ = rows(*sorted(plain.iterdir()))
    assert rows(*sorted(images.iterdir()))[0] == want and len(want) == COUNT
    (tmp_path / "dark.png").write_bytes(png(scaled(phantom(0, 0), 12) // 3))
    found, said = rows(tmp_path / "dark.png")
    assert not found and "--pixel_bits=12" in said
    assert len(rows("--pixel_bits=12", tmp_path / "dark.png")[0]) == 1
