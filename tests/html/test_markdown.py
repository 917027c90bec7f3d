"""Any name stands in Markdown as it is, whatever it is made of."""

import html
import random
import re

import pytest
from markdown_it import MarkdownIt

from wlsrl_jax.html.markdown import code_block, escape

NAMES = ["CNV|wet", "`a`", "a\nb", "<b>x</b><script>", "_other", "*x*", "$x$", "[a](b)", "![a](b)",
         "# x", "- x", "1. x", "> x", "==", "---", "&lt;", "a\\|b", ":eyes:", "    four", "~~x~~",
         "\u2028x", "\r\n| x |", "脉络膜", "الضمور", "{{ 7 * 7 }}", "x\x00y"]  # fmt: skip
PLACES = ["{}", "- {}\n", "Before\n{}", "Made of {} and more", "## {}",
          "| x | y |\n| --- | --- |\n| {} | 1 |"]  # fmt: skip
MARKUP = re.compile(r"<(em|strong|code|pre|a|img|s|h1|blockquote|ol|b|hr|script)\b")


def invented(count):
    rng = random.Random(0)
    parts = [*"\\`*_[]()<>|&~$#!-+=.:;{}^@/'\"ab1 \n\r\t", "&amp;", "<b>", "脉", "![", "](", "1. ",
             "- ", "# ", "**", "__", "``", "    "]  # fmt: skip
    return ["".join(rng.choices(parts, k=rng.randint(1, 9))) for _ in range(count)]


@pytest.mark.parametrize("place", PLACES)
def test_a_name_is_text_in_every_place(place):
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for name in [*NAMES, *invented(2000)]:
        page = markdown.render(place.format(escape(name)))
        text = " ".join(html.unescape(re.sub("<[^>]*>", "", page)).split())
        wanted = " ".join(name.replace("\x00", "\ufffd").split())
        assert wanted in text and not MARKUP.search(page), (name, page)
        assert page.count("<td") == 2 * place.count("---: ") + 2 * ("| x | y |" in place), name


def test_what_means_nothing_stays_as_it_is():
    for text in ("0.912 (0.880–0.940)", "-0.123", "+0.5", "<0.001", "macro_f1", "p < 0.05",
                 "log loss", "DME & CNV", "0.1.0", "32x32", "phantom"):  # fmt: skip
        assert escape(text) == text


def test_a_block_of_code_ends_where_it_should():
    text = "python -m x --workdir='a\n```\n# not a heading\n````\nb'"
    (token,) = MarkdownIt().parse(code_block(text))
    assert token.type == "fence" and token.content == text + "\n"
