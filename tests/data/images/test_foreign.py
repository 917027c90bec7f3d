"""Formats that people have: read, or told with what reads them."""

import numpy as np
import pytest
from PIL import Image, features

from wlsrl_jax.data.images.decode import decode, is_image_name, read_file
from wlsrl_jax.data.images.limits import BadImageError
from wlsrl_jax.data.images.listing import find_images


def picture():
    rng = np.random.default_rng(0)
    return Image.fromarray(np.kron(rng.integers(60, 200, (4, 5)), np.ones((8, 8))).astype(np.uint8))


@pytest.mark.parametrize(
    ("name", "kind", "feature"),
    [("a.webp", "WEBP", "webp"), ("a.gif", "GIF", ""), ("a.jfif", "JPEG", ""),
     ("a.JP2", "JPEG2000", "jpg_2000"), ("a.avif", "AVIF", "avif"), ("a.pgm", "PPM", "")],
)  # fmt: skip
def test_more_formats_are_read(tmp_path, name, kind, feature):
    if feature and not features.check(feature):
        pytest.skip(f"Pillow here has no {feature}")
    picture().save(tmp_path / name, kind)
    assert [i.problem for i in find_images([str(tmp_path)]).items] == [""]
    found = decode(read_file(tmp_path / name), 1)[..., 0]
    np.testing.assert_allclose(found[4::8, 4::8], np.asarray(picture())[4::8, 4::8], atol=6)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_refused_and_its_frames_counted(tmp_path, kind):
    path = tmp_path / f"a.{kind.lower()}"
    frames = [Image.fromarray(np.asarray(picture()) // k) for k in (2, 3)]
    picture().save(path, kind, save_all=True, append_images=frames)
    with pytest.raises(BadImageError, match=f"an animated {kind} of 3 frames; save those"):
        decode(read_file(path), 1)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.heic", b"\0\0\0\x18ftypheic" + bytes(20), "an HEIC photograph; .*pillow-heif"),
        ("a.jpg", b"\0\0\0\x18ftypmif1" + bytes(20), "an HEIC photograph"),
        ("a.svg", b"<?xml version='1.0'?><svg/>", "an SVG drawing; .*CairoSVG"),
        ("a.pdf", b"%PDF-1.7", "a PDF document; .*PyMuPDF"),
        ("a.E2E", b"CMDb" + bytes(50), "a Heidelberg volume .*eyepy"),
        ("a.vol", b"HSF-OCT-103", "a Heidelberg volume .*eyepy"),
        ("a.fda", b"FOCTFDA", "a Topcon volume .*oct-converter"),
        ("a.fds", b"unknown", "a Topcon volume .*oct-converter"),
    ],
)
def test_a_format_that_is_not_read_names_what_reads_it(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadImageError, match=reason):
        read_file(tmp_path / name)


def test_volumes_beside_images_are_not_passed_over(tmp_path):
    picture().save(tmp_path / "a.png")
    (tmp_path / "b.e2e").write_bytes(b"CMDb")
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    listed = find_images([str(tmp_path)])
    assert [item.path[-5:] for item in listed.items] == ["a.png", "b.e2e"]
    assert sum(listed.passed_over.values()) == 1
    assert is_image_name(tmp_path / "c.HEIC") and not is_image_name(tmp_path / "notes.txt")


def test_the_content_counts_and_not_the_name(tmp_path):
    picture().save(tmp_path / "a.heic", "JPEG")  # as some telephones write them
    assert decode(read_file(tmp_path / "a.heic"), 1).shape == (32, 40, 1)
