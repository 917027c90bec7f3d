"""Text that somebody gave, such as the name of a class, inside Markdown."""

from __future__ import annotations

import re
from typing import Any

_MEANS_SOMETHING = re.compile(
    r"[\\`*\[\]|~$]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # not that of macro_f1
    r"|<(?=[A-Za-z/!?])"  # a tag, not p <0.001
    r"|&(?=#|[A-Za-z]+[0-9]*;)"
    r"|:(?=[\w+-]+:)"  # an emoji
    r"|(?<!\S)#"  # a heading, at its end too
)
_STARTS_BLOCK = re.compile(r"^( ?)(>|[-+](?=[\s-]|$)|=(?=[=\s]*$))")  # quotation, list ...
_NUMBERED = re.compile(r"^( ?[0-9]{1,9})([.)])(?=\s|$)")
_LINE_BREAK = re.compile("\r\n|[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x1f\x7f]")


def escape(value: Any) -> str:
    """Text that Markdown shows as it is, in a line, a table's cell or a heading.

    A line break becomes a character reference, so that it ends neither a line nor a table. Text
    that means nothing to Markdown, numbers among it, stays as it is.

    Args:
      value: what ``str`` makes text of.

    Returns:
      One line.
    """
    text = re.sub("^[ \t]+", " ", str(value)).replace("\t", " ")  # four blanks would be code
    text = _MEANS_SOMETHING.sub(r"\\\g<0>", text)
    text = _NUMBERED.sub(r"\1\\\2", _STARTS_BLOCK.sub(r"\1\\\2", text))
    return _CONTROL.sub("\ufffd", _LINE_BREAK.sub("&#10;", text))


def code_block(text: str) -> str:
    """A block of code whose fence is longer than any run of backticks in it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
