"""The range of wide pixels: what the file says, else one of the set, else asked for."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.data.images import wide
from tests.data.images.wide import png, scaled, tiff
from wlsrl_jax.data.images.decode import decode, open_image
from wlsrl_jax.data.images.limits import BadImageError
from wlsrl_jax.data.images.read_image import (
    Extent,
    PixelRange,
    RangeError,
    Wide,
    count_pages,
    decide_range,
    has_wide_pixels,
)

GREY = wide.grey()
TWELVE = scaled(GREY, 12)
COLOUR = np.stack([wide.grey(k) for k in range(3)], axis=-1)
NOT_SAID = {
    "12 in a PNG": (png(TWELVE), 12),
    "12 in a TIFF": (tiff(TWELVE), 12),
    "16 in a PNG": (png(scaled(GREY, 16)), 16),
    "8 in a TIFF": (tiff(GREY.astype(np.uint16)), 8),
    "14 in a PNG": (png(scaled(GREY, 14)), 14),
    "10 in 32 bits": (tiff(scaled(GREY, 10).astype(np.uint32)), 10),
    "12 in 16 bits with a sign": (tiff(TWELVE.astype(np.int16), sign=True), 12),
    "15 in 16 bits with a sign": (tiff(scaled(GREY, 15).astype(np.int16), sign=True), 15),
    "maximum of the type": (tiff(TWELVE, t281=65535), 12),
    "maximum of one image": (tiff(TWELVE, t281=4000), 12),
    "maximum that pixels exceed": (tiff(TWELVE, t281=1023), 12),
}


def only(data, frame=0):
    return decide_range([open_image(data, frame).extent])


@pytest.mark.parametrize("name", NOT_SAID)
def test_the_smallest_range_that_holds_the_set_gives_the_8_bit_pixels(name):
    data, bits = NOT_SAID[name]
    assert only(data) == PixelRange(bits)
    np.testing.assert_array_equal(decode(data, 1, 0, only(data))[..., 0], GREY)
    with pytest.raises(BadImageError, match="--pixel_bits=12"):
        decode(data, 1)


SAID = {
    "sBIT of a writer that does not scale": png(TWELVE, sbit=12),
    "sBIT of a writer that scales": png(TWELVE << 4 | TWELVE >> 8, sbit=12),
    "MaxSampleValue": tiff(TWELVE, t281=4095),
    "SMaxSampleValue": tiff(TWELVE.astype(np.int16), sign=True, t341=4095),
}


@pytest.mark.parametrize("name", SAID)
def test_the_file_says_the_range(name):
    image = open_image(SAID[name])
    assert image.extent is None
    np.testing.assert_array_equal(decode(SAID[name], 1)[..., 0], GREY)
    # Nothing else is asked, whatever the other images are.
    np.testing.assert_array_equal(decode(SAID[name], 1, 0, PixelRange(16))[..., 0], GREY)


def test_a_dark_image_scaled_as_the_png_standard_says_stays_dark():
    dark = (scaled(GREY, 12) >> 5 << 4).astype(np.uint16)  # low bits are empty: it was scaled
    assert dark.max() < 4096
    assert decode(png(dark, sbit=12), 1).max() == 8


def test_packed_twelve_bits():
    values = TWELVE.astype(np.uint32).ravel()
    pairs = values[::2] << 12 | values[1::2]
    packed = np.stack([pairs >> 16, pairs >> 8 & 255, pairs & 255], axis=-1).astype(np.uint8)
    data = tiff(packed.reshape(40, -1), t256=48, t258=12)
    np.testing.assert_array_equal(decode(data, 1)[..., 0], GREY)


@pytest.mark.parametrize("bits", [12, 16])
def test_white_is_zero(bits):
    data = tiff(scaled(255 - GREY, bits), t262=0)
    np.testing.assert_array_equal(decode(data, 1, 0, only(data))[..., 0], GREY)
    np.testing.assert_array_equal(decode(tiff(255 - GREY, t262=0), 1)[..., 0], GREY)
    with pytest.raises(BadImageError, match="whether 0 is black or white"):
        decode(tiff(scaled(GREY, bits), t262=None), 1, 0, PixelRange(bits))


def test_values_below_zero():
    values = (scaled(GREY, 12).astype(np.int32) - 2048).astype(np.int16)
    data = tiff(values, sign=True)
    assert only(data) == PixelRange(12, signed=True) == PixelRange.parse("s12")
    np.testing.assert_array_equal(decode(data, 1, 0, only(data))[..., 0], GREY)
    noise = tiff(np.where(values < 0, -5, values).astype(np.int16), sign=True)
    with pytest.raises(RangeError, match="-5 to 2047.*--pixel_bits=s12"):
        only(noise)
    assert decode(noise, 1, 0, PixelRange(11))[..., 0].min() == 0  # the user says: below is black


@pytest.mark.parametrize("bits", [12, 16])
def test_wide_colours(bits):
    """Pillow would keep the higher byte of each alone."""
    for data in (png(scaled(COLOUR, bits)), tiff(scaled(COLOUR, bits))):
        np.testing.assert_array_equal(decode(data, 3, 0, only(data)), COLOUR)


@pytest.mark.parametrize("bits", [12, 16])
def test_wide_transparency_lies_on_black(bits):
    alpha = np.where(np.arange(48) < 24, 65535, 0)
    values = np.dstack([scaled(COLOUR, bits), np.broadcast_to(alpha, (40, 48))]).astype(np.uint16)
    for data in (png(values), tiff(values, t338=2)):
        found = decode(data, 3, 0, PixelRange(bits))
        np.testing.assert_array_equal(found[:, :24], COLOUR[:, :24])
        assert not found[:, 24:].any()
    # Multiplied by it already (1), or something else than transparency (0).
    for extra in (0, 1):
        found = decode(tiff(values, t338=extra), 3, 0, PixelRange(bits))
        np.testing.assert_array_equal(found, COLOUR)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("pixels", [GREY, COLOUR], ids=["grey", "colour"])
def test_wide_images_are_turned_as_others_are(pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    channels = pixels.ndim if pixels.ndim == 3 else 1
    want = decode(tiff(pixels, t274=orientation), channels)
    np.testing.assert_array_equal(decode(png(pixels, exif=exif), channels), want)
    deep = pixels.astype(np.uint16)
    for data in (tiff(deep, t274=orientation), png(deep, exif=exif)):
        np.testing.assert_array_equal(decode(data, channels, 0, PixelRange(8)), want)


def test_an_image_that_cannot_be_of_the_range_is_refused():
    data = png(TWELVE)
    with pytest.raises(BadImageError, match="4095 is outside of 0 to 1023"):
        decode(data, 1, 0, PixelRange(10, given=True))
    with pytest.raises(BadImageError, match="nearly black in 0 to 65535"):
        decode(png(TWELVE // 2), 1, 0, PixelRange(16))
    assert decode(data, 1, 0, PixelRange(16, given=True)).max() == 16  # the user insists


def ends(*highs, low=0, top=65535):
    return [Extent(low, high, top) for high in highs]


def test_the_range_is_of_the_set():
    assert decide_range([]) is None
    assert decide_range(ends(200, 900, 3000)) == PixelRange(12)
    assert decide_range(ends(*[1500] * 10)) == PixelRange(12)
    for few in ([1500], [1500] * 9, [5000, 600]):  # 11 or 12 bits? 13 or 14?
        with pytest.raises(RangeError, match="--pixel_bits=12"):
            decide_range(ends(*few))
    assert decide_range(ends(20_000)) == PixelRange(16)  # nothing else is left
    with pytest.raises(RangeError, match="0 to 65536"):
        decide_range(ends(65536, top=2**31 - 1))


@pytest.mark.parametrize("text", ["7", "33", "12.0", "-12", "u8", "s", "0x10", "１２"])
def test_the_flag_says_what_it_takes(text):
    with pytest.raises(RangeError, match="0 to 4095"):
        PixelRange.parse(text)
    assert str(PixelRange.parse("s12")) == "s12"


def test_pages(tmp_path):
    pictures = [wide.grey(k) for k in range(3)]
    data = wide.pages(pictures, thumbnail=GREY[:20, :24])
    (tmp_path / "volume.tif").write_bytes(data)
    assert count_pages(tmp_path / "volume.tif") == 3  # a thumbnail is none
    for source in (data, tmp_path / "volume.tif"):
        for k, picture in enumerate(pictures):
            np.testing.assert_array_equal(np.asarray(open_image(source, k + 1)), picture)
        with pytest.raises(BadImageError, match="3 pages"):
            open_image(source)
        with pytest.raises(BadImageError, match="no page 4"):
            open_image(source, 4)
    deep = wide.pages([scaled(p, 12) for p in pictures])
    assert isinstance(open_image(deep, 2), Wide)
    np.testing.assert_array_equal(decode(deep, 1, 2, PixelRange(12))[..., 0], pictures[1])


def test_an_animation_is_no_picture():
    file = io.BytesIO()
    frames = [Image.fromarray(wide.grey(k)) for k in range(2)]
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(BadImageError, match="animated PNG of 2 frames"):
        decode(file.getvalue(), 1)


def test_an_image_that_fills_fewer_bits_than_the_others_is_refused():
    """12 bits among 14: not black enough to see, and four times too dark."""
    with pytest.raises(BadImageError, match="exactly 4095, all of 12 bits"):
        decode(png(TWELVE), 1, 0, PixelRange(14))
    assert decode(png(TWELVE - (TWELVE == 4095)), 1, 0, PixelRange(14)).max() == 64


def test_8_bit_files_are_not_decoded_to_find_the_range(tmp_path):
    for name, data in {"a.png": png(TWELVE), "b.tif": tiff(TWELVE), "c.png": None, "d.tif": None,
                       "e.jpg": None, "f.png": b"", "g.tif": b"II*\0"}.items():  # fmt: skip
        if data is None:
            Image.fromarray(GREY).save(tmp_path / name)
        else:
            (tmp_path / name).write_bytes(data)
    found = [p.name for p in sorted(tmp_path.iterdir()) if has_wide_pixels(p)]
    assert found == ["a.png", "b.tif"]
