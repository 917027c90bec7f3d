"""A finished run as a small folder that can be given away.

    wlsrl pack --workdir=RUN --output=DIR [--note=TEXT]

writes what ``packed.py`` describes and a model card. Names of images and patients, and the
machine's paths, stay behind; what holds one all the same is refused.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wlsrl_jax import cli
from wlsrl_jax.data.dataset import division
from wlsrl_jax.files import Mistake, write_json
from wlsrl_jax.report.collect import RunFacts, collect
from wlsrl_jax.report.model_card import model_card
from wlsrl_jax.runs import packed, provenance

_LOCAL_FLAGS = ("workdir", "config.data.data_dir")
_PATH = re.compile(r"(?<![\w.:/<])(?:/|~/|[A-Za-z]:[\\/])[\w.~-]+[\\/]\S*|^/\S+")
_FEWEST_CHARACTERS = 5  # of an id that is looked for: "1" is everywhere


def pack(
    workdir: Path, output: Path, *, note: str = "", training_hashes: bool = True, data_dir: str = ""
) -> Path:
    """Writes a finished run as a folder that can be given away.

    Args:
      workdir: of the run.
      output: folder, made if it does not exist; an earlier packed run there is replaced.
      note: a sentence on the model, told wherever it is used.
      training_hashes: whether the SHA-256 of the training and validation images go along, with
        which others can verify that what they test was not trained on.
      data_dir: of prepared data, if they have moved.

    Returns:
      The folder.

    Raises:
      Mistake: if the run is not finished, if ``output`` holds something else, or if a file would
        name a path, an image or a patient.
    """
    run = collect(workdir, data_dir)
    if packed.is_packed(run.trained.workdir):
        raise Mistake(f"--workdir={workdir} is packed already; copy the folder.")
    if output.exists() and not packed.is_packed(output) and any(output.iterdir()):
        raise Mistake(f"--output={output} holds something else; name a new folder.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".packing") as scratch:
        folder = Path(scratch) / output.name  # of the same name: it is the card's title
        folder.mkdir()
        documents = {
            "config.json": _config(run),
            "data.json": _data(run),
            "metrics.json": run.metrics,
            "statistics.json": run.statistics,
            "environment.json": {**run.environment, "command": _command(run.environment)},
        }
        for name, document in documents.items():
            write_json(folder / name, document)
        if training_hashes:
            seen = run.seen()
            if seen.name not in seen.unverified:  # else there is nothing to say
                asked = provenance.asked_at_start(run.trained.workdir)
                write_json(folder / provenance.NAME, provenance.content(seen, asked))
        (folder / packed.WEIGHTS).write_bytes(packed.to_bytes(run.trained.variables))
        packed.write_mark(folder, note)  # the card is made from the packed run
        (folder / packed.CARD).write_text(model_card(folder), encoding="utf-8")
        packed.write_mark(folder, note)
        check_folder(folder, _ids(run))
        if output.exists():
            shutil.rmtree(output)
        folder.rename(output)
    return output


def _config(run: RunFacts) -> dict[str, Any]:
    config = run.trained.config.to_dict()
    config["data"]["data_dir"] = ""
    config["init_from"] = _without_folder(config["init_from"])
    return config


def _data(run: RunFacts) -> dict[str, Any]:
    found = {**run.trained.data, "audit": _audit(run.trained.data.get("audit", {}))}
    # Where the data are not here, only this very preparation will be known again.
    return {**found, "division": division(run.dataset)} if run.dataset else found


def _command(environment: Mapping[str, Any]) -> list[str]:
    """The command of a run without what is of this machine only."""
    words, kept = list(environment["command"]), []
    while words:
        name, equals, value = words.pop(0).partition("=")
        if name.lstrip("-") in _LOCAL_FLAGS:
            if not equals and words:
                words.pop(0)
            continue
        kept.append(f"{name}{equals}{_without_folder(value)}" if equals else _without_folder(name))
    return kept


def _without_folder(text: str) -> str:
    """The last part of a path of this machine, or two for a config; anything else as it is."""
    if not _PATH.search(text):
        return text
    path = Path(text)
    return f"configs/{path.name}" if path.parent.name == "configs" else path.name


def _audit(found: Mapping[str, Any]) -> dict[str, Any]:
    """What preparation found, with numbers for the names of images and patients."""
    kept: dict[str, Any] = {}
    for key, value in found.items():
        if key == "near_identical":
            kept[key] = {k: v for k, v in value.items() if k != "list"}
        elif key == "odd":
            kept[key] = {kind: _numbered(names) for kind, names in value.items()}
        else:
            names = isinstance(value, list) and any(isinstance(v, str) for v in value)
            kept[key] = _numbered(value) if names else value
    return kept


def _numbered(names: Sequence[str]) -> list[str]:
    return [f"#{k + 1}" for k in range(len(names))]


def _ids(run: RunFacts) -> set[str]:
    """Names of images and patients: those that were tested, and all where the data are here."""
    found: set[str] = set()
    for predictions in run.predictions.values():
        found |= {*predictions.ids.tolist(), *predictions.groups.tolist()}
    if run.dataset is not None:
        for name, details in run.dataset.details.items():
            found |= {name, str(details.get("patient"))}
    return {name for name in found if len(name) >= _FEWEST_CHARACTERS and re.search(r"\d", name)}


def check_folder(folder: Path, ids: set[str]) -> None:
    """Looks for what must not be given away.

    Args:
      folder: of a packed run.
      ids: names of images and patients.

    Raises:
      Mistake: naming the file and what it holds.
    """
    for path in sorted(folder.iterdir()):
        if path.name == packed.WEIGHTS:
            continue
        content = path.read_text(encoding="utf-8")
        texts = _strings(json.loads(content)) if path.suffix == ".json" else content.splitlines()
        for text in texts:
            words = {*re.split(r"[\s,;:|=]+", text), text}
            if named := sorted(words & ids):
                raise Mistake(f"{path.name} would name an image or a patient: {named[0]}.")
            if match := _PATH.search(text):
                raise Mistake(f"{path.name} would hold a path of this machine: {match[0]}.")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, str):
        yield value


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = cli.Parser(
        "pack",
        description="A finished run as a small folder: weights, documents and a model card.",
    )
    cli.add_workdir(parser)
    parser.add_argument("--output", type=cli.output_folder, required=True, help="folder to write")
    parser.add_argument(
        "--without_training_hashes", action="store_true",
        help=f"leave out {provenance.NAME}: then nobody can verify that images are new to it",
    )  # fmt: skip
    cli.add_data_dir(parser)
    parser.add_argument("--note", default="", help="a sentence that is told where it is used")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    args = make_parser().parse_args(argv)
    folder = pack(
        args.workdir,
        args.output,
        note=args.note,
        training_hashes=not args.without_training_hashes,
        data_dir=args.data_dir or "",
    )
    size = sum(path.stat().st_size for path in folder.iterdir())
    if (folder / provenance.NAME).exists():
        print(f"{folder / provenance.NAME}: {provenance.ABOUT}")
    else:
        print(
            f"{folder} does not say what it was trained on: wherever it is tested, that the images "
            "are new to it cannot be verified."
        )
    print(f"{folder}: {size / 1e6:.1f} MB; use it as --workdir={folder}")
