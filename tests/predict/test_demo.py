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
from wlsrl_jax.tasks import PHANTOM_NOTE


@pytest.fixture(scope="module")
def analyse(finished):
    return make_analysis(load_trained(finished), quality_check="off")


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
        [sys.executable, "-m", "wlsrl_jax", "demo", f"--workdir={finished}", f"--port={port}",
         "--quality_check=off"],
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


SHOWN = "[...document.querySelectorAll('[id^=label-]')].map(e => e.innerText).join(' ')"
NOTHING = f"{MAPS}.length == 0 && !{SHOWN}.includes('%')"


@pytest.fixture
def volume(analyse, tmp_path):
    """A DICOM file of 24 frames, the 12th of which has another answer."""
    pytest.importorskip("pydicom")
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, (48, 48), dtype=np.uint8)
    for k in range(40):
        twelfth = (rng.integers(0, 256, (48, 48)) * np.linspace(k % 2, 1, 48)[:, None]).astype("u1")
        twelfth[: k + 4] = 10 * (k % 25)
        frames = np.stack([first] * 11 + [twelfth] + [first] * 12)
        (tmp_path / "v.dcm").write_bytes(dicom(frames, frames=24))
        before, after = (percents(analyse(tmp_path / "v.dcm", n))["TO1"] for n in (1, 12))
        if np.abs(before - after).max() > 2.5:
            return tmp_path / "v.dcm"
    return pytest.fail("no two frames have answers that differ")


def percents(answer):
    return {t: 100 * np.sort(list(p.values()))[::-1] for t, p in answer.probabilities.items()}


def wait_for_answer(browser, answer):
    """Until the page shows the answer: every percent of every task."""
    for task, values in percents(answer).items():
        text = f"document.querySelector('#label-{task}').innerText.match(/[0-9]+(?=%)/g)"
        wanted = ", ".join(f"{v:.3f}" for v in values)
        wait_for(browser, f"(f => f && f.length == {len(values)} && [{wanted}]"
                          f".every((v, k) => Math.abs(v - f[k]) < 1.01))({text})")  # fmt: skip


def type_frame(browser, text, pause):
    from selenium.webdriver.common.keys import Keys

    box = browser.find_element("css selector", "#frame input")
    box.click()
    box.send_keys(Keys.CONTROL, "a")
    for key in text:
        box.send_keys(key)
        time.sleep(pause)


BOX = "document.querySelector('#frame input')"


def test_what_is_typed_in_the_frame_box_stays_and_is_shown(analyse, page, browser, volume):
    first, twelfth = analyse(volume, 1), analyse(volume, 12)
    upload(browser, page, volume, 1280)
    wait_for_answer(browser, first)
    for pause in (0.05, 0.2, 0.4):
        type_frame(browser, "12", pause)
        wait_for_answer(browser, twelfth)
        time.sleep(0.5)
        assert browser.execute_script(f"return {BOX}.value") == "12"
        wait_for_answer(browser, twelfth)
        type_frame(browser, "1", 0)
        wait_for_answer(browser, first)
        assert browser.execute_script(f"return {BOX}.value") == "1"


@pytest.mark.parametrize(
    ("typed", "message"),
    [("99", "there is no frame 99; this file has 24"), ("0", "there is no frame 0"),
     ("1.5", "Type the number of a frame"), ("\ue003", "Type the number of a frame")],
)  # fmt: skip
def test_no_old_answer_below_a_wrong_frame(analyse, page, browser, volume, typed, message):
    upload(browser, page, volume, 1280)
    wait_for_answer(browser, analyse(volume, 1))
    type_frame(browser, typed, 0.05)
    wait_for(browser, f"{TEXT}.includes('{message}')")
    wait_for(browser, NOTHING, 10)


def test_no_old_answer_below_a_bad_file_or_after_clear(analyse, page, browser, volume):
    upload(browser, page, volume, 1280)
    wait_for_answer(browser, analyse(volume, 1))
    browser.find_element("css selector", "#file button[aria-label=Clear]").click()
    wait_for(browser, NOTHING, 20)
    wait_for(browser, f"{BOX} === null || {BOX}.offsetParent === null", 10)  # nor its frames
    browser.find_element("css selector", "#file input[type=file]").send_keys(str(volume))
    wait_for_answer(browser, analyse(volume, 1))
    browser.find_element("css selector", "#file button[aria-label=Clear]").click()
    wait_for(browser, NOTHING, 20)
    bad = volume.with_name("<b>cut.png")
    bad.write_bytes(b"\x89PNG cut")
    browser.find_element("css selector", "#file input[type=file]").send_keys(str(bad))
    wait_for(browser, f"{TEXT}.includes('This file cannot be used')")
    wait_for(browser, NOTHING, 10)
