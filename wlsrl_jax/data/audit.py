"""Command line: what is wrong with a folder of images, before anything is trained on it.

python -m wlsrl_jax.data.audit --dataset=octdl --source=DIR --output=DIR
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from wlsrl_jax.data.audit_page import render
from wlsrl_jax.data.builders import all_specs
from wlsrl_jax.data.builders.common import DatasetSpec
from wlsrl_jax.data.builders.folder import FolderOptions, add_flags, take_flags
from wlsrl_jax.data.findings import audit, identical_sets, sentences
from wlsrl_jax.data.near_duplicates import find_pairs
from wlsrl_jax.data.source import open_dataset
from wlsrl_jax.data.source_images import collect, ordered_map
from wlsrl_jax.workdir import write_json, write_whole

PAGE, DOCUMENT = "audit.html", "audit.json"


def audit_folder(
    spec: DatasetSpec,
    source: Path,
    *,
    workers: int | None = None,
    pictures: int = 100,
    show_ids: bool = True,
) -> tuple[dict[str, Any], str]:
    """Audits a data set.

    Args:
      spec: the data set.
      source: its folder.
      workers: threads; None is one a core.
      pictures: most pairs of images shown of each kind.
      show_ids: name images and patients on the page.

    Returns:
      (document, page as HTML).

    Raises:
      ValueError: if the folder is not of the published layout, or has no usable image.
    """
    images, problems = collect(spec, source, functools.partial(ordered_map, workers=workers))
    if not images:
        raise ValueError(f"--source={source} holds no usable image.")
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
    }
    page = render(spec, source, images, pairs, sets, document, pictures=pictures, show_ids=show_ids)
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
      ValueError: with the reason.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output={output} cannot be made ({error.strerror}).") from None
    with (
        tempfile.TemporaryDirectory(dir=output, prefix=".unpacked") as scratch,
        open_dataset(name, source, Path(scratch) / "source", options) as (spec, folder),
    ):
        document, page = audit_folder(spec, folder, **flags)
    write_json(output / DOCUMENT, document)
    write_whole(output / PAGE, page.encode())
    return document


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit status, 0 whatever is found."""
    parser = argparse.ArgumentParser(
        prog="python -m wlsrl_jax.data.audit",
        description="Looks for identical, near-identical, odd and unusable images of a data set.",
    )
    names = [*sorted(all_specs()), "folder (your own)"]
    parser.add_argument("--dataset", required=True, help=", ".join(names))
    parser.add_argument(
        "--source", required=True, type=Path, help="folder as published, or an archive of it"
    )
    parser.add_argument(
        "--output", required=True, type=Path, help=f"folder for {PAGE} and {DOCUMENT}"
    )
    parser.add_argument("--workers", type=int, help="threads; default one a core")
    parser.add_argument("--pictures", type=int, default=100, help="pairs shown, of each kind")
    parser.add_argument(
        "--hide_ids", action="store_true", help="no names of images or patients on the page"
    )
    add_flags(parser)
    flags = vars(parser.parse_args(argv))

    try:
        name, source, output = (flags.pop(f) for f in ("dataset", "source", "output"))
        show_ids = not flags.pop("hide_ids")
        options = take_flags(flags, name)
        found = run(name, source, output, options=options, show_ids=show_ids, **flags)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    console.print(f"{found['dataset']}: {found['images']} images", highlight=False)
    for problem in found["unusable"]:
        console.print(f"unusable {problem['path']}: {problem['reason']}", markup=False)
    for line in sentences(found):
        console.print(line, markup=False, highlight=False)
    console.print(f"audit: {output / PAGE}", soft_wrap=True, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
