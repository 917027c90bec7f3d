"""A head whose task weight was 0 answers nothing, anywhere, and that is said."""

import csv
import json

import pytest

from tests.predict.test_predict import write_phantoms
from tests.tiny import run
from wlsrl_jax.export.__main__ import export_run
from wlsrl_jax.export.pack import pack
from wlsrl_jax.predict import __main__ as predict
from wlsrl_jax.predict import demo
from wlsrl_jax.report import build
from wlsrl_jax.runs.open import load_trained

WEIGHTS = {"TO1": 1.0, "TO2": 0.0}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    run(folder, task_weights=WEIGHTS, num_epochs=1.0, optimizer__warmup_epochs=0.0)
    return folder


def test_predict_demo_export_report_and_card_leave_it_out(workdir, tmp_path, capsys):
    images = write_phantoms(tmp_path / "images", 2)
    capsys.readouterr()
    assert predict.main([f"--workdir={workdir}", "--modality_check=off", str(images)]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(line for line in out.splitlines() if "," in line))
    assert rows and not [name for name in rows[0] if name.startswith("TO2")]
    assert "left out: TO2, whose head was not trained" in err
    trained = load_trained(workdir)
    answer = demo.make_analysis(trained)(next(images.iterdir()), 1)
    assert answer.probabilities.keys() == answer.maps.keys() == {"TO1"}
    folder = export_run(trained, tmp_path / "model")
    description = json.loads((folder / "model.json").read_text())
    assert description["output"].keys() == {"TO1"} and "TO2" in description["left_out"]
    page = build.build([workdir])
    assert "The head TO2 was not trained" in page and 'href="#TO2' not in page
    card = (pack(workdir, tmp_path / "packed") / "MODEL_CARD.md").read_text()
    assert "TO2: **this head was not trained**" in card
    assert load_trained(tmp_path / "packed").untrained == ("TO2",)


def test_the_results_of_training_say_so(workdir, capsys):
    run(workdir, task_weights=WEIGHTS, num_epochs=1.0, optimizer__warmup_epochs=0.0)
    shown = capsys.readouterr().out
    assert "TO2 head: not trained" in shown and "│ TO2" not in shown
