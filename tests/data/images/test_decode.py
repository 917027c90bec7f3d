import io
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.sources import picture
from wlsrl_jax.data.images.decode import decode, presize
from wlsrl_jax.data.images.limits import BadImageError
from wlsrl_jax.data.images.pixels import black_border, crop_field
from wlsrl_jax.data.images.read_image import MIN_SIDE, PixelRange

DATA = os.environ.get("WLSRL_TEST_DATA")


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_grey_and_colour():
    assert decode(picture(0), 1).shape == (30, 40, 1)
    assert decode(picture(0), 3).shape == (30, 40, 3)
    assert decode(picture(0, "fundus"), 1).shape == (30, 40, 1)


def test_sixteen_bits_keep_their_range():
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    out = decode(encoded(Image.fromarray(ramp)), 1, pixel_range=PixelRange(16))[..., 0]
    np.testing.assert_allclose(out, ramp / 257.0, atol=0.5)
    assert out.max() == 255 and len(np.unique(out)) == 256


def test_transparency_is_laid_on_black():
    pixels = np.full((20, 20, 4), 200, np.uint8)
    pixels[:, :10, 3] = 0
    out = decode(encoded(Image.fromarray(pixels)), 3)
    assert (out[:, :10] == 0).all()
    visible = 200 * 200 // 255
    assert abs(int(out[0, 15, 0]) - visible) <= 1
    palette = Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).quantize(2)
    assert abs(int(decode(encoded(palette), 1)[0, 0, 0]) - 90) <= 3


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    image = Image.fromarray(np.zeros((20, 40), np.uint8))
    assert decode(encoded(image, "JPEG", exif=exif), 1).shape == (40, 20, 1)


def huge_header():
    """A PNG that claims 60000 x 60000 pixels."""
    data = bytearray(encoded(Image.new("L", (32, 32))))
    data[16:24] = (60000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"patient 17, left eye", "not an image"),
        (picture(0, size=(64, 64))[:900], "truncated or damaged"),
        (encoded(Image.new("L", (64, 64)))[:60], "truncated or damaged"),
        (encoded(Image.new("L", (1, 1))), "1x1 pixels"),
        (encoded(Image.new("L", (200, MIN_SIDE - 1))), "below 16 pixels"),
        (huge_header(), "pixels"),
        (encoded(Image.new("F", (32, 32)), "TIFF"), "floating-point"),
    ],
)
def test_bad_files_are_refused_with_the_reason(data, reason):
    with pytest.raises(BadImageError, match=reason):
        decode(data, 1)


def test_crop_field_finds_the_round_field():
    image = np.zeros((120, 200, 3), np.uint8)
    cv2.circle(image, (110, 60), 50, (180, 90, 40), -1)
    out = crop_field(image)
    assert out.shape[0] == out.shape[1] and abs(out.shape[0] - 101) <= 6
    dark = np.zeros((50, 80, 3), np.uint8)
    assert crop_field(dark).shape == (80, 80, 3)
    # A field cut off above and below stays whole and is padded to a square.
    assert crop_field(image[30:90]).shape[0] == crop_field(image[30:90]).shape[1]


@pytest.mark.parametrize("level", [255, 200, 128, 60])
def test_crop_field_finds_the_field_on_white_and_grey(level):
    rng = np.random.default_rng(level)
    y, x = np.mgrid[:300, :400]
    field = ((y - 140) ** 2 + (x - 230) ** 2 < 110**2)[..., None]
    eye = np.array([170, 90, 50]) + cv2.GaussianBlur(rng.normal(0, 90, (300, 400, 3)), (0, 0), 3)
    on_black = np.where(field, eye, 0).clip(0, 255).astype(np.uint8)
    page = np.where(field, eye, level).clip(0, 255).astype(np.uint8)
    cv2.putText(page, "OD", (5, 60), 0, 1.0, (0, 0, 0), 2)
    _, data = cv2.imencode(".jpg", page[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    for file in (page, cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]):
        out, expected = crop_field(np.ascontiguousarray(file)), crop_field(on_black)
        assert abs(out.shape[0] - expected.shape[0]) <= 8
        assert (out[:20, :20] == 0).all()
        side = 200
        middle = [
            cv2.resize(a, (side, side))[60:140, 60:140].astype(float) for a in (out, expected)
        ]
        assert np.abs(middle[0] - middle[1]).mean() < 6


@pytest.mark.parametrize("corner", [0, 12, 30])
def test_a_black_border_is_left_as_it_is(corner):
    image = np.full((120, 200, 3), corner, np.uint8)
    cv2.circle(image, (110, 60), 50, (180, 90, 40), -1)
    assert black_border(image) is image


@pytest.mark.skipif(not DATA, reason="WLSRL_TEST_DATA is not set")
@pytest.mark.parametrize("folder", ["odir_sample", "eyepacs_sample", "aptos_sample"])
def test_real_photographs_on_black_are_left_as_they_are(folder):
    names = sorted(p for p in Path(DATA, folder).rglob("*") if p.suffix.startswith((".jp", ".pn")))
    for path in names[::20]:
        image = decode(path.read_bytes(), 3)
        if image[0, 0].min() < 200:  # a few of ODIR are on white
            assert black_border(image) is image, path.name


@pytest.mark.skipif(not DATA, reason="WLSRL_TEST_DATA is not set")
def test_real_photographs_on_white_are_cropped():
    (path,) = Path(DATA, "odir_sample").rglob("2177_left.jpg")
    out = crop_field(decode(path.read_bytes(), 3))
    assert (out[:9, :9] == 0).all() and (out.min(axis=2) > 240).mean() < 0.001


def test_presize_gives_the_same_png_each_time():
    data = picture(3, "fundus", size=(90, 70))
    first = presize(data, "fundus", 32, 32)
    assert first == presize(data, "fundus", 32, 32)
    assert decode(first, 3).shape == (32, 32, 3)
    # Channels keep their places.
    red = encoded(Image.fromarray(np.tile(np.array([250, 20, 10], np.uint8), (64, 64, 1))))
    np.testing.assert_allclose(decode(presize(red, "fundus", 32, 32), 3)[16, 16], [250, 20, 10])
    assert decode(presize(picture(3), "oct", 16, 24), 1).shape == (16, 24, 1)
