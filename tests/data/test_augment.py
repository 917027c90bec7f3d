import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlsrl_jax.data.augment import Augmentation, augment
from wlsrl_jax.data.images.pixels import resize

NONE = Augmentation(flip=0.0)
FIELDS = [f.name for f in dataclasses.fields(Augmentation)]


def image(channels=1, size=(32, 40)):
    y, x = np.mgrid[: size[0], : size[1]]
    wave = 120 + 60 * np.sin(x / 5.0) + 40 * np.cos(y / 3.0) + x
    return np.clip(np.repeat(wave[..., None], channels, 2), 0, 255).astype(np.uint8)


def test_all_off_is_the_identity():
    np.testing.assert_array_equal(augment(image(), 32, 40, NONE, np.random.default_rng(0)), image())


def test_flip_is_a_mirror():
    out = augment(image(3), 32, 40, Augmentation(flip=1.0), np.random.default_rng(0))
    np.testing.assert_array_equal(out, image(3)[:, ::-1])


@pytest.mark.parametrize("name", [f for f in FIELDS if f != "flip"])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_change_changes_and_repeats(name, channels):
    ranges = dataclasses.replace(NONE, **{name: 30.0 if name == "rotation" else 0.3})
    a, b, other = (augment(image(channels), 24, 24, ranges, np.random.default_rng(s))
                   for s in (1, 1, 2))  # fmt: skip
    assert a.shape == (24, 24, channels) and a.dtype == np.uint8
    np.testing.assert_array_equal(a, b)
    assert (a != other).any()
    assert (a != resize(image(channels), 24, 24)).any()


def test_switching_one_off_moves_no_other():
    """Geometry is the same with and without noise."""
    geometry = dataclasses.replace(NONE, rotation=20.0, shift=0.1)
    rng = np.random.default_rng
    plain = augment(image(), 32, 40, geometry, rng(5)).astype(int)
    noisy = augment(image(), 32, 40, dataclasses.replace(geometry, noise=0.02), rng(5))
    assert np.abs(plain - noisy).mean() < 10


def test_rotation_keeps_the_centre_and_the_angle():
    spot = np.zeros((65, 65, 3), np.uint8)
    spot[32, 52] = 255
    ranges = dataclasses.replace(NONE, rotation=180.0)
    for seed in range(5):
        out = augment(spot, 65, 65, ranges, np.random.default_rng(seed))[..., 0].astype(float)
        y, x = (np.average(g, weights=out) for g in np.mgrid[:65, :65])
        assert abs(np.hypot(y - 32, x - 32) - 20) < 0.7


def test_speckle_is_multiplicative():
    flat = np.full((64, 64, 1), 0, np.uint8)
    ranges = dataclasses.replace(NONE, speckle=0.5)
    assert augment(flat, 64, 64, ranges, np.random.default_rng(0)).max() == 0


@given(st.integers(16, 50), st.integers(16, 50), st.sampled_from([1, 3]), st.integers(0, 9))
def test_any_size_in_any_size_out(height, width, channels, seed):
    ranges = Augmentation(0.5, 180.0, 0.2, 0.2, 0.2, 0.3, 0.3, 0.2, 0.1)
    out = augment(image(channels, (33, 21)), height, width, ranges, np.random.default_rng(seed))
    assert out.shape == (height, width, channels) and out.dtype == np.uint8
