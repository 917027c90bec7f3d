"""The table of all fields of a config, for people."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence

from wlsrl_jax import cli
from wlsrl_jax.config.fields import Field, Listed, all_fields
from wlsrl_jax.data.sampling import POWERS
from wlsrl_jax.losses import LOSSES, VARIANTS
from wlsrl_jax.models.by_name import DTYPES, PRESETS, STREAMS
from wlsrl_jax.models.dual_stream import FUSIONS
from wlsrl_jax.models.trunks import NORMS, SEPARABLE, STANDARD
from wlsrl_jax.ops import IMPLEMENTATIONS
from wlsrl_jax.tasks import MODALITIES
from wlsrl_jax.training.class_weights import SCHEMES
from wlsrl_jax.training.optimizer import OPTIMIZERS

LISTS: dict[str, Collection[str]] = {
    "data.sampling.POWERS": POWERS,
    "losses.LOSSES": LOSSES,
    "losses.VARIANTS": VARIANTS,
    "models.by_name.DTYPES": DTYPES,
    "models.by_name.PRESETS": PRESETS,
    "models.by_name.STREAMS": STREAMS,
    "models.dual_stream.FUSIONS": FUSIONS,
    "models.trunks.NORMS": NORMS,
    "models.trunks.SEPARABLE": SEPARABLE,
    "models.trunks.STANDARD": STANDARD,
    "ops.IMPLEMENTATIONS": IMPLEMENTATIONS,
    "tasks.MODALITIES": MODALITIES,
    "training.class_weights.SCHEMES": SCHEMES,
    "training.optimizer.OPTIMIZERS": OPTIMIZERS,
}
"""Where a row of ``FIELDS`` says that names are listed -> the names."""


def allowed(field: Field) -> str:
    """What a field may be, in words: "int > 0", "one of batch, group"."""
    kind = type(field.default).__name__
    if isinstance(field.range, Listed):
        return f"one of {', '.join(LISTS[field.range.place])}"
    if field.range is None:
        return kind
    return field.range.text if kind in ("str", "tuple") else f"{kind} {field.range.text}"


def table_of_fields() -> cli.Table:
    """The table."""
    tasks = ", ".join(rule.name for kind in MODALITIES.values() for rule in kind.tasks)
    table = cli.Table(title=f"TASK is one of {tasks}")
    table.add_column("config.", no_wrap=True)
    for header in ("default", "allowed", "on resume", "meaning"):
        table.add_column(header)
    for field in all_fields():
        free = "may change" if field.free else ""
        table.add_row(field.name, repr(field.default), allowed(field), free, field.meaning)
    return table


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    return cli.Parser(
        "fields", description="Every field of a config: --config.NAME=VALUE sets one."
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    make_parser().parse_args(argv)
    cli.print_table(table_of_fields())
