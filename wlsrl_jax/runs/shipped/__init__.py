"""Models that come with the package: ``pretrained:NAME`` wherever a workdir is read."""

from __future__ import annotations

from pathlib import Path

from wlsrl_jax.files import Mistake
from wlsrl_jax.runs.packed import is_packed

PREFIX = "pretrained:"
DEFAULT = Path(f"{PREFIX}octdl")
"""What images are graded with where no workdir is named."""

_FOLDER = Path(__file__).resolve().parent


def names() -> list[str]:
    """Names of the models that are shipped."""
    return sorted(folder.name for folder in _FOLDER.iterdir() if is_packed(folder))


def is_named(workdir: str | Path) -> bool:
    """Whether what stands for a workdir is the name of a shipped model."""
    return str(workdir).startswith(PREFIX)


def resolve(workdir: str | Path) -> Path:
    """The folder that a ``--workdir`` or ``config.init_from`` means.

    Args:
      workdir: a path, returned as it is, or "pretrained:NAME".

    Returns:
      The folder.

    Raises:
      Mistake: for a name that is not shipped, with those that are.
    """
    if not is_named(workdir):
        return Path(workdir)
    name = str(workdir).removeprefix(PREFIX)
    if name not in names():
        shipped = ", ".join(f"{PREFIX}{known}" for known in names()) or "none"
        raise Mistake(f"there is no model {workdir}; shipped with the package: {shipped}.")
    return _FOLDER / name


def is_shipped(folder: Path) -> bool:
    """Whether a resolved folder is one of the shipped models."""
    return folder.resolve().parent == _FOLDER


def results_dir(folder: Path) -> Path:
    """Where results about a run go: its own folder, but nothing is written into the package.

    Args:
      folder: as ``resolve`` gives it.

    Returns:
      An existing folder, for a shipped model ``runs/pretrained-NAME`` here.
    """
    if not is_shipped(folder):
        return folder
    own = Path("runs") / f"pretrained-{folder.name}"
    own.mkdir(parents=True, exist_ok=True)
    return own
