"""Where the templates of pages come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def templates(*, autoescape: bool, filters: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """Opens the templates.

    Args:
      autoescape: for HTML.
      filters: name -> function of a value, for use in the templates.

    Returns:
      A Jinja environment.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("wlsrl_jax.html"),
        autoescape=autoescape,
        # In HTML a line break is a space, between sentences too; in Markdown each one counts.
        trim_blocks=not autoescape,
        lstrip_blocks=not autoescape,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= dict(filters or {})
    return environment
