"""Names of preprocessing steps: parsing, checking, telling."""

from __future__ import annotations

from collections.abc import Sequence

from wlsrl_jax.data.images.pixels import STEPS
from wlsrl_jax.files import Mistake
from wlsrl_jax.tasks import MODALITIES


def parse_steps(text: str) -> tuple[str, ...]:
    """Parses "NAME,NAME"."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def check_steps(steps: Sequence[str], modality: str) -> tuple[str, ...]:
    """Checks names of steps.

    Args:
      steps: in the order in which they are to be applied.
      modality: a name in ``tasks.MODALITIES``.

    Returns:
      The steps.

    Raises:
      Mistake: naming ``--preprocess``, for a step that is unknown, of the other modality, or
        named twice.
    """
    usable = ", ".join(MODALITIES[modality].steps)
    for name in steps:
        if name not in STEPS:
            raise Mistake(
                f"--preprocess: {name!r} is no step; those for {modality} images are {usable}."
            )
        if name not in MODALITIES[modality].steps:
            raise Mistake(f"--preprocess: {name} is not for {modality} images; those are {usable}.")
    if len(set(steps)) < len(steps):
        raise Mistake(f"--preprocess={','.join(steps)} names a step twice.")
    return tuple(steps)


def describe(steps: Sequence[str]) -> str:
    """Names steps in a sentence: "white_borders, flatten", or "none"."""
    return ", ".join(steps) or "none"
