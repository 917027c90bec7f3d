"""The manifest of a preparation, checked before anything of it is believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from wlsrl_jax.data.prepare.groups import SPLITS
from wlsrl_jax.data.text.names import are_different_names
from wlsrl_jax.files import Mistake
from wlsrl_jax.tasks import MODALITIES

_TEXTS = ("id", "group", "class", "split", "sha256")


def parse_manifest(
    content: bytes, name: str, *, remedy: str = "prepare it again with --overwrite"
) -> dict[str, Any]:
    """Reads the content of ``manifest.json``.

    Args:
      content: of the file.
      name: of the file, for messages.
      remedy: what to do where it is damaged.

    Returns:
      The manifest; every image has an id of its own, a known class and split, as many folds as the
      others, a group, a patient (or None), a SHA-256, and attributes, which may be empty.

    Raises:
      Mistake: if it is damaged, naming what is wrong.
    """
    try:
        manifest = json.loads(content)
        problem = _problem(manifest)
    except (ValueError, RecursionError) as error:
        problem = str(error)
    if problem:
        raise Mistake(f"{name} is damaged ({problem}); {remedy}.")
    for image in manifest["images"]:
        image.setdefault("attributes", {})
    return manifest


def _problem(manifest: Any) -> str:
    if not isinstance(manifest, dict):
        return "no JSON object"
    classes: Any = manifest.get("classes")
    images, settings = manifest.get("images"), manifest.get("settings")
    if manifest.get("modality") not in [*MODALITIES]:
        return f"modality {manifest.get('modality')!r:.80}"
    if not are_different_names(classes):
        return "classes are no list of different names"
    if manifest.get("normal") not in classes:
        return f"normal {manifest.get('normal')!r:.80} is no class"
    if not isinstance(settings, dict) or not _is_size(settings.get("size")):
        return "settings.size is no height and width"
    steps = settings.get("preprocess", [])
    if not isinstance(steps, list) or not all(isinstance(s, str) for s in steps):
        return "settings.preprocess is no list of names"
    if not isinstance(manifest.get("pixel_bits", ""), str):
        return "pixel_bits is no text"
    if not isinstance(manifest.get("audit", {}), dict):
        return "audit is no object"
    if not isinstance(images, list) or not images:
        return "no images"
    for number, image in enumerate(images, start=1):
        if problem := _image_problem(image, classes):
            return f"image {number}: {problem}"
    if len({image["id"] for image in images}) < len(images):
        return "two images have one id"
    if len({len(image.get("folds", ())) for image in images}) > 1:
        return "images differ in their number of folds"
    return ""


def _image_problem(image: Any, classes: list[str]) -> str:
    if not isinstance(image, dict):
        return "no object"
    for key in _TEXTS:
        if not isinstance(image.get(key), str) or not image[key]:
            return f"no {key}"
    if image["class"] not in classes:
        return f"class {image['class']!r:.80} is not one of the set"
    folds = image.get("folds", [])
    if not isinstance(folds, list) or not all(s in SPLITS for s in (image["split"], *folds)):
        return f"a split is not one of {', '.join(SPLITS)}"
    if not isinstance(image.get("patient"), str | None):
        return "patient is no text"
    attributes = image.get("attributes", {})
    if not isinstance(attributes, Mapping) or not all(
        isinstance(v, str) for v in attributes.values()
    ):
        return "attributes are no texts"
    return ""


def _is_size(found: Any) -> bool:
    return (
        isinstance(found, list)
        and len(found) == 2
        and all(type(side) is int and 16 <= side <= 2**15 for side in found)
    )
