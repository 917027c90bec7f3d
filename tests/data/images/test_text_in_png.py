"""Some cameras write a long report into their PNG files; that is no damage."""

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from wlsrl_jax.data.images.decode import decode
from wlsrl_jax.data.images.limits import BadImageError

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 48), dtype=np.uint8)


def png(text):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("report", text, zip=True)
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG", pnginfo=notes)
    return buffer.getvalue()


def test_much_text_is_no_damage():
    np.testing.assert_array_equal(decode(png("x" * 5_000_000), 1)[..., 0], PIXELS)


def test_a_bomb_of_text_is_refused():
    with pytest.raises(BadImageError, match="damaged"):
        decode(png("x" * 200_000_000), 1)
