"""A source as anybody may have it, a folder, an archive or a file, as a folder and its data set."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wlsrl_jax import cli
from wlsrl_jax.data.published import all_specs, archives, folder, get_spec
from wlsrl_jax.data.published.common import DatasetSpec
from wlsrl_jax.files import Mistake


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which data set lies where, and ``--workers``."""
    names = ", ".join([*sorted(all_specs()), "folder (your own)"])
    parser.add_argument("--dataset", required=True, help=f"one of {names}")
    parser.add_argument(
        "--source", required=True, type=cli.path, help="folder as published, or an archive of it"
    )
    parser.add_argument("--workers", type=cli.number(1), help="threads; default: one per core")
    parser.add_argument(
        "--leading_zeros",
        choices=["ask", "same", "different"],
        default="ask",
        help="whether 007 and 7 are one patient, where both occur; default: %(default)s",
    )
    folder.add_flags(parser)


def take_source_flags(
    flags: dict[str, Any],
) -> tuple[str, Path, folder.FolderOptions | None]:
    """Takes the flags of ``add_source_flags``, but for ``--workers``, out of the others.

    Args:
      flags: all flags by name; those that are returned are removed.

    Returns:
      (name of the data set, its source, options of a data set of one's own).

    Raises:
      Mistake: for flags that do not go together.
    """
    name, source = flags.pop("dataset"), flags.pop("source")
    return name, source, folder.take_flags(flags, name)


def _inside(unpacked: Path) -> Path:
    """What an archive holds, below the folders that only wrap it."""
    while len(inner := list(unpacked.iterdir())) == 1 and inner[0].is_dir():
        unpacked = inner[0]
    return unpacked


@contextlib.contextmanager
def open_dataset(
    name: str, source: Path, scratch: Path, options: folder.FolderOptions | None = None
) -> Iterator[tuple[DatasetSpec, Path]]:
    """Opens a source; nothing is ever written into it.

    Args:
      name: of the data set.
      source: its folder, an archive of it, a folder of its archives, or a MedMNIST file.
      scratch: folder for what is unpacked, deleted at the end.
      options: of ``name="folder"``, a data set of one's own.

    Yields:
      (the data set, the folder to scan).

    Raises:
      Mistake: with the reason; paths in ``scratch`` are shown as paths in the source.
    """
    if not source.exists():
        raise Mistake(f"--source={source} is not a directory.")
    if source.is_dir() and not any(source.iterdir()):
        raise Mistake(f"--source={source} is empty; unpack the download there first.")
    spec = None if options else get_spec(name)
    try:
        with (spec.open if spec else archives.opened)(source, scratch) as opened:
            if not opened.is_dir():
                raise Mistake(f"--source={source} is neither a directory nor an archive.")
            if spec is None and options is not None:
                opened = _inside(opened) if opened == scratch else opened
                spec = folder.make_spec(options, opened, sorted(all_specs()))
            assert spec is not None
            yield spec, opened
    except Mistake as error:
        error.args = (str(error).replace(str(scratch), str(source)),)
        raise
