"""The audit as one HTML page, with the pairs of images side by side."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from wlsrl_jax.data.audit.findings import ODDITIES, sentences
from wlsrl_jax.data.audit.inspect import SourceImage
from wlsrl_jax.data.audit.near_duplicates import Pair
from wlsrl_jax.data.images.decode import decode, read_file
from wlsrl_jax.data.images.limits import BadImageError
from wlsrl_jax.data.images.read_image import PixelRange
from wlsrl_jax.data.published.common import DatasetSpec
from wlsrl_jax.html.page import templates
from wlsrl_jax.html.picture import jpeg_uri
from wlsrl_jax.runtime.version import VERSION

_WIDTH = 300  # pixels of a picture


def _thumbnail(source: Path, image: SourceImage, pixel_range: PixelRange | None) -> str:
    try:
        data = read_file(source / image.record.path)
        pixels = decode(data, 3, image.record.frame, pixel_range)
    except BadImageError:  # it was good a moment ago
        return ""
    height, width = pixels.shape[:2]
    scale = min(1.0, _WIDTH / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return jpeg_uri(np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)), 75)


def _card(
    spec: DatasetSpec,
    source: Path,
    image: SourceImage,
    show_ids: bool,
    pixel_range: PixelRange | None,
) -> dict[str, Any]:
    return {
        "picture": _thumbnail(source, image, pixel_range),
        "class": spec.classes[image.record.label],
        "id": image.record.id if show_ids else "",
        "patient": image.record.patient if show_ids else None,
        "official": image.record.official,
    }


def _order(images: Sequence[SourceImage], members: Sequence[int]) -> tuple[int, int]:
    """What matters most first: other classes, then other patients."""
    return (
        -len({images[k].record.label for k in members}),
        -len({images[k].subject for k in members}),
    )


def render(
    spec: DatasetSpec,
    source: Path,
    images: Sequence[SourceImage],
    pairs: Sequence[Pair],
    sets: Sequence[Sequence[int]],
    document: Mapping[str, Any],
    *,
    pictures: int,
    show_ids: bool,
    pixel_range: PixelRange | None = None,
) -> str:
    """Makes the page.

    Args:
      spec: the data set.
      source: its folder, from which the pictures are read.
      images: of the source.
      pairs: near-identical images.
      sets: byte-identical ones.
      document: of the audit.
      pictures: most pairs shown of each kind.
      show_ids: name images and patients.
      pixel_range: of wide pixels of which the files do not say it.

    Returns:
      HTML without any reference to something outside.
    """
    by_id = {i.record.id: i for i in images}
    near = sorted(pairs, key=lambda p: (_order(images, (p.first, p.second)), p.correlation))

    def differ(members: Sequence[int]) -> list[str]:
        found = []
        if len({images[k].record.label for k in members}) > 1:
            found.append("other class")
        if len({images[k].subject for k in members}) > 1 and document["has_patient_ids"]:
            found.append("other patient")
        return found

    def card(image: SourceImage) -> dict[str, Any]:
        return _card(spec, source, image, show_ids, pixel_range)

    def cards(members: Sequence[int]) -> list[dict[str, Any]]:
        return [card(images[k]) for k in members]

    return (
        templates()
        .get_template("audit.html.j2")
        .render(
            version=VERSION,
            date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
            document=document,
            sentences=sentences(document, show_ids=show_ids),
            near=[
                {
                    "cards": cards((p.first, p.second)),
                    "correlation": p.correlation,
                    "differ": differ((p.first, p.second)),
                }
                for p in near[:pictures]
            ],
            identical=[
                {"cards": cards(members[:2]), "more": len(members) - 2, "differ": differ(members)}
                for members in sorted(sets, key=lambda m: _order(images, m))[:pictures]
            ],
            odd=[
                {
                    "title": ODDITIES[kind],
                    "count": len(ids),
                    "cards": [card(by_id[name]) for name in ids[: max(1, pictures // 4)]],
                }
                for kind, ids in document["odd"].items()
            ],
            show_ids=show_ids,
        )
    )
