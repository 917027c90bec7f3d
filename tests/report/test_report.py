"""The report: complete, self-contained, and looked at by a real browser."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from tests.tiny import run, wlsrl
from wlsrl_jax.report.build import NAME, build, number, with_interval, write_report


def show(browser, path, width, dark=False):
    scheme = "dark" if dark else "light"
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
        "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})  # fmt: skip
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
        "features": [{"name": "prefers-color-scheme", "value": scheme}]})  # fmt: skip
    browser.get(path.resolve().as_uri())


def luminance(colour):
    parts = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1200, False)])
def test_in_a_browser(finished, browser, width, dark):
    show(browser, finished / NAME, width, dark)
    severe = [e for e in browser.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
    assert not severe
    run_js = browser.execute_script
    assert run_js("return document.documentElement.scrollWidth") <= width
    # Nor with the widest of names and hashes: a proportional font makes some of them fit.
    run_js("document.querySelectorAll('p').forEach(p => p.append(' ' + 'm'.repeat(60)))")
    assert run_js("return document.documentElement.scrollWidth") <= width
    assert run_js("return [...document.images].every(i => i.complete && i.naturalWidth > 20)")
    assert run_js("return document.images.length") >= 2
    assert run_js("return [...document.images].every(i => i.alt.length > 5)")
    assert run_js("return [...document.querySelectorAll('svg')].every(s => s.ariaLabel)")
    assert run_js("return document.querySelectorAll('svg').length") >= 5
    ids = run_js("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    # Text against its background: WCAG AA asks for 4.5.
    for selector in ("body", ".soft", ".banner", "a"):
        text, paper = run_js(
            "const e = document.querySelector(arguments[0]);"
            "const own = getComputedStyle(e).backgroundColor;"
            "return [getComputedStyle(e).color, own == 'rgba(0, 0, 0, 0)' ?"
            " getComputedStyle(document.body).backgroundColor : own]", selector)  # fmt: skip
        light, shade = sorted((luminance(text), luminance(paper)), reverse=True)
        assert (light + 0.05) / (shade + 0.05) >= 4.5, (selector, text, paper)
    assert browser.execute_cdp_cmd("Page.printToPDF", {})["data"]


class Links(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset")]


def test_self_contained_and_small(finished):
    text = (finished / NAME).read_text()
    links = Links()
    links.feed(text)
    assert links.found and all(v.startswith(("#", "data:")) for v in links.found)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert (finished / NAME).stat().st_size < 5 * 2**20


def test_what_it_says(finished):
    text = (finished / NAME).read_text()
    metrics = json.loads((finished / "metrics.json").read_text())
    assert "PHANTOM DATA" in text and "no medical" in text
    for task in ("TO1", "TO2"):
        assert f"{metrics['test'][task]['accuracy']:.3f}" in text
    assert metrics["data_fingerprint"] in text
    assert "phantom-oct-" not in text  # ids stay out
    assert "phantom-oct-test-" in build([finished], show_ids=True)
    assert "data:image" not in build([finished], pictures=0)


def test_two_runs_are_compared(finished, tmp_path, capsys):
    other = tmp_path / "other"
    run(other, seed=1, loss__name="ce")
    output = tmp_path / "both.html"
    assert wlsrl("report", f"--workdir={finished}", f"--against={other}", f"--output={output}") == 0
    text = output.read_text()
    assert "Comparison on test" in text and "loss.name" in text and ">ce<" in text
    assert text.count("<article>") == 2
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) > 100 and len(ids) == len(set(ids))
    capsys.readouterr()
    assert wlsrl("report", f"--workdir={finished}", f"--against={other}") == 2
    assert "--output=FILE.html" in capsys.readouterr().err
    strange = tmp_path / "strange"
    run(strange, data__phantom__seed=3)
    flags = [f"--workdir={finished}", f"--against={strange}", f"--output={output}"]
    assert wlsrl("report", *flags) == 2
    assert "not trained on the same data" in capsys.readouterr().err


def test_an_old_run_gets_its_statistics(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "statistics.json").unlink()
    write_report([tmp_path / "run"])
    assert (tmp_path / "run" / "statistics.json").read_bytes() == (
        finished / "statistics.json"
    ).read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", None, "holds no finished run"),
        ("predictions.csv", "id,group", "predictions.csv is damaged"),
        ("statistics.json", "{", "statistics.json is damaged"),
        ("data.json", "[", "data.json is damaged"),
    ],
)
def test_damaged_workdirs(finished, tmp_path, capsys, name, content, message):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / name
    path.unlink() if content is None else path.write_text(content)
    assert wlsrl("report", f"--workdir={tmp_path / 'run'}") == 2
    assert message in capsys.readouterr().err


def test_numbers():
    assert number(None) == number(float("nan")) == "–" and number(0.12345) == "0.123"
    assert with_interval({"value": 0.5, "low": None, "high": None}) == "0.500"
    assert with_interval({"value": 0.5, "low": 0.4, "high": 0.6}) == "0.500 (0.400–0.600)"
    assert with_interval({"value": 0.0, "low": -0.4, "high": 0.6}) == "0.000 (-0.400 to 0.600)"
    assert with_interval(None) == "–"
