"""The page, in a real browser: what is dropped is graded as ``predict`` grades it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.data.images.test_dicom import dicom
from tests.predict.test_predict import write_phantoms
from tests.tiny import ROOT, read_predictions
from wlsrl_jax.data.phantoms.source import PhantomSource
from wlsrl_jax.predict.demo import DISCLAIMER, import_gradio, main, make_analysis
from wlsrl_jax.runs.open import load_trained
from wlsrl_jax.train.log import PHANTOM_NOTE


@pytest.fixture(scope="module")
def analyse(finished):
    return make_analysis(load_trained(finished))


def test_the_answer_is_the_evaluations(finished, analyse, tmp_path):
    (path,) = write_phantoms(tmp_path, 1).glob("*.png")
    answer = analyse(path, 1)
    truth = next(r for r in read_predictions(finished) if r["id"] == path.stem.rsplit("-", 1)[0])
    for task, values in answer.probabilities.items():
        for name, value in values.items():
            assert value == pytest.approx(float(truth[f"{task}/{name}"]), abs=1e-5)
        assert answer.maps[task].shape == (256, 256, 3)


def test_a_volume_is_read_frame_by_frame(analyse, tmp_path):
    pytest.importorskip("pydicom")
    source = PhantomSource("oct", "test", 2, 32, 32)
    frames = np.stack([source[k]["image"][..., 0] for k in range(2)])
    (tmp_path / "v.dcm").write_bytes(dicom(frames, frames=2))
    Image.fromarray(frames[1]).save(tmp_path / "second.png")
    second = analyse(tmp_path / "v.dcm", 2)
    assert second.frames == 2
    assert second.probabilities == analyse(tmp_path / "second.png", 1).probabilities
    with pytest.raises(ValueError, match="no frame 3; this file has 2"):
        analyse(tmp_path / "v.dcm", 3)


def test_without_gradio_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"pip install 'wlsrl_jax\[demo\]'"):
        import_gradio()


def test_no_such_run():
    pytest.importorskip("gradio")
    with pytest.raises(ValueError, match="nowhere is not a workdir"):
        main(["--workdir=nowhere"])


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory):
    """Address of a served page, which leaves nothing of what was dropped behind."""
    folder = tmp_path_factory.mktemp("dropped")
    pytest.importorskip("gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "wlsrl_jax.predict.demo", f"--workdir={finished}", f"--port={port}"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line.startswith(f"http://127.0.0.1:{port} ") and DISCLAIMER in line, line
        yield f"http://127.0.0.1:{port}"
        (own,) = folder.glob("wlsrl_jax_demo_*")
        assert own.stat().st_mode & 0o077 == 0  # nobody else reads it
        assert list(own.rglob("*.png"))
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=20)
        assert process.returncode == 0 and "Traceback" not in rest, rest
        assert not list(folder.rglob("*.png"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def wait_for(browser, script, seconds=60):
    end = time.monotonic() + seconds
    while not (found := browser.execute_script(f"return {script}")):
        if time.monotonic() > end:
            text = browser.execute_script("return document.body.innerText")
            pytest.fail(f"{script} stays false; the page says: {text}")
        time.sleep(0.1)
    return found


def upload(browser, page, path, width):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})  # fmt: skip
    browser.get(page)
    wait_for(browser, "document.querySelector('#file input[type=file]') !== null")
    browser.find_element("css selector", "#file input[type=file]").send_keys(str(path))


TEXT = "document.body.innerText"
MAPS = "[...document.querySelectorAll('[id^=map-] img')]"


@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(analyse, page, browser, tmp_path, width):
    (path,) = write_phantoms(tmp_path, 1, size=64).glob("*.png")
    upload(browser, page, path, width)
    wait_for(browser, f"{MAPS}.length == 2 && {MAPS}.every(i => i.complete && i.naturalWidth > 99)")
    assert browser.execute_script(f"return {MAPS}.every(i => i.alt.length > 5)")
    for task, values in analyse(path, 1).probabilities.items():
        label = wait_for(browser, f"document.querySelector('#label-{task}').innerText")
        for name, value in values.items():
            after = label.rsplit(name, 1)[1].split()[0]  # "56%" follows the name
            assert abs(float(after.rstrip("%")) / 100 - value) < 0.006, (task, name, label)
    text = browser.execute_script(f"return {TEXT}")
    assert DISCLAIMER in text and PHANTOM_NOTE in text
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events
             if e["method"] == "Network.requestWillBeSent"]  # fmt: skip
    assert asked and all(u.startswith((page, "data:", "blob:")) for u in asked)


def test_the_other_modality_and_a_bad_file(page, browser, tmp_path):
    path = next(write_phantoms(tmp_path / "fundus", 1, "fundus", 96).glob("*.png"))
    upload(browser, page, path, 1280)
    wait_for(browser, f"{TEXT}.includes('looks like a fundus photograph')")
    (tmp_path / "cut.png").write_bytes(path.read_bytes()[:300])
    upload(browser, page, tmp_path / "cut.png", 1280)
    wait_for(browser, f"{TEXT}.includes('This file cannot be used: truncated')")
