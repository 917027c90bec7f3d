"""Fetching the original of a data set, or saying where to get it.

wlsrl download --dataset=octdl --output=DIR

TFDS's download manager fetches; its own extraction needs TensorFlow, so ``archives`` unpacks.
The SHA-256 of a first download is written to ``checksums.tsv`` beside the file, printed, and
checked from then on. Where the publisher gives a checksum, that is checked too.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.core.download.download_manager import DownloadManager

from wlsrl_jax import cli
from wlsrl_jax.data.published import all_specs, archives, get_spec
from wlsrl_jax.files import Mistake, is_disk_full
from wlsrl_jax.runtime.lock import hold

CHECKSUMS = "checksums.tsv"


@dataclasses.dataclass(frozen=True)
class File:
    """A file that can be fetched without a login.

    Attributes:
      url: where it is.
      name: to store it under.
      md5: published by its owner; "" where none is.
    """

    url: str
    name: str
    md5: str = ""


_MENDELEY = "https://data.mendeley.com/public-files/datasets/{}/files/{}/file_downloaded"
_ZENODO = "https://zenodo.org/records/10519652/files/{}?download=1"


def _medmnist(name: str, sums: dict[int, str]) -> dict[str, tuple[File, ...]]:
    files = {size: f"{name}.npz" if size == 28 else f"{name}_{size}.npz" for size in sums}
    return {str(k): (File(_ZENODO.format(f), f, sums[k]),) for k, f in files.items()}


FILES: dict[str, dict[str, tuple[File, ...]]] = {
    "oct2017": {
        "version 2": (
            File(
                _MENDELEY.format("rscbjbr9sj", "5699a1d8-d1b6-45db-bb92-b61051445347"),
                "OCT2017.tar.gz",
            ),
        )
    },
    "octdl": {
        "version 4": (
            File(
                _MENDELEY.format("sncdhf53xc", "2721fe0f-7793-4ef5-b2d0-d31a2ebfdeef"), "OCTDL.zip"
            ),
            File(
                _MENDELEY.format("sncdhf53xc", "82880b41-939c-42b5-9f6b-3304b2c8dca1"),
                "OCTDL_labels.csv",
            ),
        )
    },
    "deepdrid": {
        "version 1.1": (
            File(
                "https://github.com/deepdrdoc/DeepDRiD/archive/refs/tags/v1.1.zip",
                "DeepDRiD-1.1.zip",
            ),
        )
    },
    # MD5 sums of the INFO table of medmnist 3.0.2
    "octmnist": _medmnist(
        "octmnist",
        {
            28: "c68d92d5b585d8d81f7112f81e2d0842",
            64: "e229e9440236b774d9f0dfef9d07bdaf",
            128: "0a97e76651ace45c5d943ee3f65b63ae",
            224: "abc493b6d529d5de7569faaef2773ba3",
        },
    ),
    "retinamnist": _medmnist(
        "retinamnist",
        {
            28: "bd4c0672f1bba3e3a89f0e4e876791e4",
            64: "afda852cc34dcda56f86ad2b2457dbcc",
            128: "e48e916a24454daf90583d4e6efb1a18",
            224: "eae7e3b6f3fcbda4ae613ebdcbe35348",
        },
    ),
}
"""Data set -> variant -> files; the first variant is the default. No login, no form."""

BY_HAND = {
    "octid": "Download the zip of each of the five classes and put them into one folder.",
    "duke_srinivasan": "Accept the terms on the page, and download the zip.",
    "oct_c8": "Download and unpack it with a Kaggle account.",
    "eyepacs": "Join the competition with a Kaggle account; download and unpack train.zip.001 to "
    ".005 (join them first) and trainLabels.csv.zip.",
    "aptos2019": "Join the competition with a Kaggle account; download and unpack it.",
    "messidor2": "Fill in the form on the page; unpack the four parts into IMAGES/ with "
    "messidor-2.csv beside it. Add messidor_data.csv of "
    "https://www.kaggle.com/datasets/google-brain/messidor2-dr-grades.",
    "idrid": "With an IEEE DataPort account (free), download 'B. Disease Grading.zip'.",
    "ddr": "Download all parts of DDR-dataset.zip that the page links to, join and unpack them; "
    "DR_grading/ is what is read.",
}
"""Sets behind a login or a form, or whose addresses are not known to last: what to do."""


class DownloadError(Mistake):
    """A download that failed; the message says what to do."""


def instructions(name: str) -> str:
    """What to fetch by hand, from where, and how to go on.

    Args:
      name: of a data set.

    Returns:
      A few lines.
    """
    spec = get_spec(name)
    return (
        f"{name} cannot be fetched without you. {BY_HAND.get(name, '')}\n"
        f"  page:    {spec.homepage}\n"
        f"  licence: {spec.license}\n"
        f"  layout:  {' '.join((spec.scan.__doc__ or '').split())}\n"
        f"then: wlsrl prepare --dataset={name} --source=DIR"
    )


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def fetch(file: File, folder: Path) -> Path:
    """Fetches one file into a folder, or finds it there, and checks it.

    An interrupted download leaves nothing that a second one would take for the file.

    Args:
      file: what to fetch.
      folder: where to.

    Returns:
      Path of the file.

    Raises:
      DownloadError: if it cannot be fetched, or is not the one that was fetched before or that
        its publisher names; it is not kept then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, listing = folder / file.name, folder / CHECKSUMS
    known = checksums.load_url_infos(listing) if listing.exists() else {}
    if not path.exists():
        _fetch_new(file, path, listing, known)
    sha256 = _digest(path, "sha256")
    if file.url not in known:
        known = checksums.load_url_infos(listing)
        print(f"{file.name}: SHA-256 {sha256}, trusted on first use; kept in {listing}")
    if sha256 != known[file.url].checksum:
        raise DownloadError(
            f"{path} has SHA-256 {sha256}, not {known[file.url].checksum} as in {listing}: it was "
            "changed or damaged. Delete it and run this again."
        )
    if file.md5 and _digest(path, "md5") != file.md5:
        path.unlink()
        _forget(file, listing)
        raise DownloadError(
            f"{file.url}: its MD5 is not {file.md5}, which its publisher names; deleted. Run this "
            "again; if that does not help, the file was changed at its source."
        )
    return path


def _forget(file: File, listing: Path) -> None:
    lines = [r for r in listing.read_text("utf-8").splitlines() if r.split("\t")[0] != file.url]
    listing.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _fetch_new(file: File, path: Path, listing: Path, known: dict) -> None:
    staging = path.with_name(f".{path.name}.downloading")
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was interrupted
    manager = DownloadManager(
        download_dir=staging,
        url_infos=known or None,
        register_checksums=file.url not in known,
        register_checksums_path=listing,
        force_checksums_validation=file.url in known,
        max_simultaneous_downloads=1,
    )
    try:
        os.replace(manager.download(file.url), path)
    except Exception as error:  # requests, urllib3, TFDS: each has kinds of its own
        if is_disk_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        reason = (str(error).strip() or repr(error)).splitlines()
        raise DownloadError(
            f"{file.url} cannot be fetched ({' '.join(reason[:4])}). Nothing is kept of it; run "
            "the same command again, or fetch it with a browser."
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def download(name: str, output: Path, variant: str = "") -> Path:
    """Fetches a data set and unpacks it.

    Args:
      name: of the data set.
      output: folder; files go into ``downloads/``, what is unpacked into ``original/``.
      variant: such as the size of a MedMNIST set; "" is the first.

    Returns:
      The folder for ``prepare --source``.

    Raises:
      DownloadError: if it cannot be fetched without a person, or failed.
      archives.BadArchiveError: if an archive is damaged or hostile.
    """
    get_spec(name)
    if name not in FILES:
        raise DownloadError(instructions(name))
    variants = FILES[name]
    if variant and variant not in variants:
        raise DownloadError(f"--variant={variant}: {name} has {', '.join(variants)}.")
    variant = variant or next(iter(variants))
    output.mkdir(parents=True, exist_ok=True)

    def tell() -> None:
        print(f"waiting: another command fetches {name} to {output}", file=sys.stderr, flush=True)

    with hold(output / ".lock", waiting=tell, remove=True):
        return _fetch_and_unpack(variants[variant], output)


def _fetch_and_unpack(files: Sequence[File], output: Path) -> Path:
    paths = [fetch(file, output / "downloads") for file in files]
    original = output / "original"
    if original.exists():
        return original
    staging = output / ".original.unpacking"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        for path in paths:
            if archives.is_archive(path):
                archives.unpack(path, staging / archives.stem(path))
            else:
                with contextlib.suppress(OSError):
                    os.link(path, staging / path.name)
                if not (staging / path.name).exists():  # no hard links here
                    shutil.copyfile(path, staging / path.name)
        os.replace(staging, original)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return original


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = cli.Parser(
        "download",
        description="Fetches the original of a data set, or says where to get it.",
    )
    names = ", ".join(sorted(all_specs()))
    parser.add_argument("--dataset", required=True, help=f"one of {names}")
    parser.add_argument("--output", required=True, type=cli.output_folder, help="folder to make")
    parser.add_argument("--variant", default="", help="size of a MedMNIST set: 28, 64, 128, 224")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    args = make_parser().parse_args(argv)
    original = download(args.dataset, args.output / args.dataset, args.variant)
    print(f"unpacked: {original}")
    print(f"now: wlsrl prepare --dataset={args.dataset} --source={original}")
