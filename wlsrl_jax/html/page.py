"""Where the templates of pages come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from markupsafe import Markup

from wlsrl_jax.html.markdown import code_block, escape


def templates(
    *, markdown: bool = False, filters: Mapping[str, Callable[..., Any]] | None = None
) -> Any:
    """Opens the templates, which escape every value but what is marked as safe.

    Args:
      markdown: for Markdown instead of HTML.
      filters: name -> function of a value, for use in the templates.

    Returns:
      A Jinja environment.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("wlsrl_jax.html"),
        autoescape=not markdown,
        finalize=_in_markdown if markdown else None,
        # In HTML a line break is a space, between sentences too; in Markdown each one counts.
        trim_blocks=markdown,
        lstrip_blocks=markdown,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"code_block": lambda text: Markup(code_block(text)), **(filters or {})}
    return environment


def _in_markdown(value: Any) -> Any:
    return value if isinstance(value, Markup) else escape(value)
