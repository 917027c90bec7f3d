"""What is wrong with a folder of images, before anything is trained on it.

wlsrl audit --dataset=octdl --source=DIR --output=DIR
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wlsrl_jax import cli
from wlsrl_jax.cli import console
from wlsrl_jax.data.audit.findings import audit, identical_sets, sentences
from wlsrl_jax.data.audit.inspect import collect
from wlsrl_jax.data.audit.near_duplicates import find_pairs
from wlsrl_jax.data.audit.page import render
from wlsrl_jax.data.images.set_range import add_flag
from wlsrl_jax.data.published.common import DatasetSpec
from wlsrl_jax.data.published.folder import FolderOptions
from wlsrl_jax.data.published.opening import add_source_flags, open_dataset, take_source_flags
from wlsrl_jax.files import Mistake, some, write_json, write_whole
from wlsrl_jax.runtime.threads import ordered_map

PAGE, DOCUMENT = "audit.html", "audit.json"


def audit_folder(
    spec: DatasetSpec,
    source: Path,
    *,
    workers: int | None = None,
    pictures: int = 100,
    show_ids: bool = True,
    leading_zeros: str = "ask",
    pixel_bits: str = "",
) -> tuple[dict[str, Any], str]:
    """Audits a data set.

    Args:
      spec: the data set.
      source: its folder.
      workers: threads; None is one a core.
      pictures: most pairs of images shown of each kind.
      show_ids: name images and patients on the page.
      leading_zeros: of patients, see ``names.one_patient_each``.
      pixel_bits: of ``collect``.

    Returns:
      (document, page as HTML).

    Raises:
      Mistake: if the folder is not of the published layout, or has no usable image.
    """
    mapper = functools.partial(ordered_map, workers=workers)
    source_images = collect(spec, source, mapper, leading_zeros, pixel_bits=pixel_bits)
    images, problems = source_images.images, source_images.problems
    if not images:
        raise Mistake(f"--source={source} holds no usable image.")
    pairs = find_pairs(images, spec.modality, workers)
    found = audit(images, pairs, spec.modality)
    sets = identical_sets(images)
    document = {
        "dataset": spec.name,
        "images": len(images),
        "patients": len({i.subject for i in images}) if found["has_patient_ids"] else None,
        "classes": {
            name: sum(i.record.label == label for i in images)
            for label, name in enumerate(spec.classes)
        },
        **found,
        "identical": [[images[k].record.id for k in members] for members in sets],
        "unusable": [{"path": p.path, "reason": p.reason} for p in problems],
        "notes": source_images.notes,
    }
    page = render(
        spec,
        source,
        images,
        pairs,
        sets,
        document,
        pictures=pictures,
        show_ids=show_ids,
        pixel_range=source_images.pixel_range,
    )
    return document, page


def run(
    name: str,
    source: Path,
    output: Path,
    *,
    options: FolderOptions | None = None,
    **flags: Any,
) -> dict[str, Any]:
    """Audits a source as anybody may have it, and writes ``audit.html`` and ``audit.json``.

    Args:
      name: of the data set.
      source: its folder, or an archive of it.
      output: folder, made if it does not exist.
      options: of ``name="folder"``, a data set of one's own.
      **flags: of ``audit_folder``.

    Returns:
      The document.

    Raises:
      Mistake: with the reason.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Mistake(f"--output={output} cannot be made ({error.strerror}).") from None
    with (
        tempfile.TemporaryDirectory(dir=output, prefix=".unpacked") as scratch,
        open_dataset(name, source, Path(scratch) / "source", options) as (spec, folder),
    ):
        document, page = audit_folder(spec, folder, **flags)
    write_json(output / DOCUMENT, document)
    write_whole(output / PAGE, page.encode())
    return document


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = cli.Parser(
        "audit",
        description="Looks for identical, near-identical, odd and unusable images of a data set.",
    )
    add_source_flags(parser)
    parser.add_argument(
        "--output", required=True, type=cli.output_folder, help=f"folder for {PAGE} and {DOCUMENT}"
    )
    parser.add_argument(
        "--pictures",
        type=cli.number(0),
        default=100,
        help="pairs shown, of each kind; default: %(default)s",
    )
    parser.add_argument(
        "--hide_ids", action="store_true", help="no names of images or patients on the page"
    )
    add_flag(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    flags = vars(make_parser().parse_args(argv))
    name, source, options = take_source_flags(flags)
    output, show_ids = flags.pop("output"), not flags.pop("hide_ids")
    found = run(name, source, output, options=options, show_ids=show_ids, **flags)
    screen = console()
    screen.print(f"{found['dataset']}: {found['images']} images")
    unusable = (f"unusable {p['path']}: {p['reason']}" for p in found["unusable"])
    for line in some(unusable, rest=f"; all of them are in {output / DOCUMENT}"):
        screen.print(line)
    for line in [*sentences(found), *(f"note: {text}" for text in found["notes"])]:
        screen.print(line, soft_wrap=True)
    screen.print(f"audit: {output / PAGE}", soft_wrap=True)


if __name__ == "__main__":
    cli.run_command(main)
