"""Names of classes in the report and the model card: many, long, of any alphabet, with markup."""

import html
import re
import shutil
import warnings

import numpy as np
import pytest
from markdown_it import MarkdownIt

from tests.data.published.test_folder import class_folders, make
from tests.report.test_report import show
from tests.tiny import run
from wlsrl_jax.report import plots
from wlsrl_jax.report.build import NAME, build, write_report
from wlsrl_jax.report.model_card import model_card

LONG = "neovascular age-related macular degeneration with " + "intraretinal" * 5
NAMES = ("CNV|wet", "`code` **b**", "<b>bold<script>alert(1)", "_other", "$x$ & $y$", "{{ 7 }}",
         "脉络膜新生血管", "الضمور البقعي", LONG, "A & B", "--> x", "normal")  # fmt: skip


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A run on twelve classes with such names, and its report."""
    folder = tmp_path_factory.mktemp("named")
    source = class_folders(folder / "source", NAMES, images=12)
    make(source, folder / "data", {"normal": "normal"})
    workdir = folder / "run $1$ <i>_a_|b"
    run(workdir, data__dataset="folder", data__data_dir=str(folder / "data"))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*[Gg]lyph|.*layout not applied")
        write_report([workdir])
    return workdir


def figures(text):
    """Title, SVG, and (colour, dashes, name) of the legend, of every plot."""
    for figure in re.findall(r"<figure><figcaption>.*?</figure>", text, re.S):
        title, svg = (re.search(p, figure, re.S) for p in ("caption>(.*?)</", "<svg.*?</svg>"))
        rows = re.findall(r"3px (\w+) (#\w+)\"></span><bdi>(.*?)</bdi>", figure, re.S)
        yield title[1], svg[0], [(c, dash, html.unescape(name)) for dash, c, name in rows]


def test_every_class_with_a_curve_is_in_one_legend(named):
    shown = [f for f in figures((named / NAME).read_text()) if f[0].startswith("TO1: ROC")]
    names = [name for _, _, legend in shown for _, _, name in legend]
    assert len(shown) == 2 and len(names) > 8 and len(names) == len(set(names))
    assert set(names) <= set(NAMES)
    text = html.unescape((named / NAME).read_text())
    absent = text.partition("No curve")[2].partition("</p>")[0]
    assert all(name in names or name in absent for name in NAMES)


@pytest.mark.parametrize("count", [1, 2, 8, 9, 20, 60])
def test_no_colour_stands_for_two_classes_of_a_plot(count):
    line = {"y": np.linspace(0, 1, 101), "low": np.zeros(101), "high": np.ones(101)}
    curves = {f"class {k}": {"roc": line, "pr": line} for k in range(count)}
    seen = []
    for _, svg, legend in figures("".join(plots.rank_curve("TO1", curves, "roc"))):
        assert len({colour for colour, _, _ in legend}) == len(legend)
        drawn = re.findall(r"stroke: (#\w{6}); stroke-width: 1.6|stroke: (#\w{6})", svg)
        assert {c for c, _, _ in legend} <= {a or b for a, b in drawn}
        seen += [name for _, _, name in legend]
    assert seen == list(curves)


def test_no_name_is_drawn_by_matplotlib(named):
    for title, svg, _ in figures((named / NAME).read_text()):
        drawn = re.sub(r'aria-label="[^"]*"', "", svg)
        for name in (*NAMES, named.name):
            if name != "normal":
                assert name not in html.unescape(drawn), title


@pytest.mark.parametrize("width", [390, 1200])
def test_legends_stay_inside_and_names_are_text(named, browser, width):
    show(browser, named / NAME, width)
    js = browser.execute_script
    assert js("return document.documentElement.scrollWidth") <= width
    assert js("return [...document.querySelectorAll('.legend li')].length") > 20
    out = js("""
      return [...document.querySelectorAll('.legend li')].filter(e => {
        const a = e.getBoundingClientRect(), f = e.closest('figure').getBoundingClientRect();
        return a.left < f.left - 1 || a.right > f.right + 1 || a.height < 5; }).length""")
    assert out == 0
    assert (
        js("return document.querySelectorAll('article script, article b, article i').length") == 0
    )
    names = js("return [...document.querySelectorAll('#data1 .name')].map(e => e.textContent)")
    assert sorted(names) == sorted(NAMES)
    title = js("return document.querySelector('h1').textContent")
    assert title == named.name
    # One line a row of short names: no column is squeezed to letters.
    assert js("return document.querySelector('#data1 tbody .name').offsetHeight") < 40


def test_sentences_are_apart(named, finished):
    for text in (build([named]), build([finished])):
        plain = re.sub(r"<(style|svg|pre|code).*?</\1>|<[^>]*>", " @ ", text, flags=re.S)
        plain = html.unescape(plain)
        assert not re.findall(r"[a-z)]\.(?:[0-9]|[A-Z][a-z])", plain)
    assert "be verified. " in " ".join(build([named]).split())


def test_paper_has_what_the_screen_folds(named, browser):
    show(browser, named / NAME, 688)  # A4 less its margins
    js = browser.execute_script
    visible = ("return [...document.querySelectorAll('.folded')]"
               ".map(e => e.getBoundingClientRect().height > 20)")  # fmt: skip
    assert js(visible) == [False] * 3
    js("document.querySelector('details summary').click()")
    assert js(visible) == [True, False, False]
    js("document.querySelector('details summary').click()")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert js(visible) == [True] * 3
    words = js("return document.body.innerText")
    for field in ("numpy", "loss.smoothing", "data.data_dir"):
        assert field in words
    wide = js("return [...document.querySelectorAll('table')]"
              ".map(e => e.getBoundingClientRect().right).filter(x => x > 688)")  # fmt: skip
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert not wide  # paper does not scroll


def test_model_card_holds_names_as_they_are(named):
    page = MarkdownIt("commonmark").enable("table").render(model_card(named))
    rows = re.findall(r"<tr>\n<td>(.*?)</td>", page, re.S)
    found = [" ".join(html.unescape(r).split()) for r in rows]
    assert sorted(found[: len(NAMES)]) == sorted(" ".join(n.split()) for n in NAMES)
    assert not re.search(r"<(script|b|i|em)>", page.replace("<em>Model Cards", ""))
    tables = re.findall(r"<table>.*?</table>", page, re.S)
    for table in tables:
        widths = {row.count("<td") + row.count("<th>") + row.count("<th ") for row in
                  re.findall(r"<tr>.*?</tr>", table, re.S)}  # fmt: skip
        assert len(widths) == 1
    assert len(tables) == 3


def test_two_runs_with_odd_names_are_compared(named, tmp_path):
    other = tmp_path / "脉 <u>"
    shutil.copytree(named, other)
    text = build([named, other], pictures=0)
    assert "<u>" not in text and "<i>_a" not in text
    assert any("minus" in title for title, _, _ in figures(text)) or "differences" in text
