import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from wlsrl_jax.data.phantoms.source import PHANTOMS, PhantomSource, render

MODALITIES = ("oct", "fundus")


def digest(source, indices):
    return hashlib.sha256(b"".join(source[i]["image"].tobytes() for i in indices)).hexdigest()


@pytest.mark.parametrize("modality", MODALITIES)
def test_an_example_is_a_function_of_seed_split_and_index(modality):
    source = PhantomSource(modality, "train", 20, 32, 48)
    first = [source[i] for i in range(6)]
    again = PhantomSource(modality, "train", 10**6, 32, 48)
    for i in (5, 0, 3):  # another order, another length
        np.testing.assert_array_equal(again[i]["image"], first[i]["image"])
        assert again[i]["label"] == first[i]["label"]
    for other in (
        PhantomSource(modality, "test", 20, 32, 48),
        PhantomSource(modality, "train", 20, 32, 48, seed=1),
    ):
        assert any(np.any(other[i]["image"] != first[i]["image"]) for i in range(6))


@pytest.mark.parametrize("modality", MODALITIES)
def test_another_process_draws_the_same_pixels(modality):
    code = (
        "import hashlib; from wlsrl_jax.data.phantoms.source import PhantomSource;"
        f"s = PhantomSource({modality!r}, 'train', 9, 32, 32);"
        "print(hashlib.sha256(b''.join(s[i]['image'].tobytes() for i in range(4))).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    source = PhantomSource(modality, "train", 9, 32, 32)
    assert done.stdout.strip() == digest(source, range(4))


@pytest.mark.parametrize("modality", MODALITIES)
def test_examples_have_the_form_of_prepared_data(modality):
    source = PhantomSource(modality, "validation", 3, 24, 40)
    example = source[2]
    channels = 1 if modality == "oct" else 3
    assert example["image"].shape == (24, 40, channels) and example["image"].dtype == np.uint8
    assert example["id"] == example["group"] == f"phantom-{modality}-validation-000002"
    assert len({source[i]["id"] for i in range(3)}) == len(source) == 3
    with pytest.raises(IndexError):
        source[3]


@pytest.mark.parametrize("modality", MODALITIES)
def test_labels_need_no_drawing_and_follow_the_balance(modality):
    source = PhantomSource(modality, "train", 20_000, 32, 32)
    labels = source.labels()
    assert [source[i]["label"] for i in range(12)] == labels[:12].tolist()
    shares = np.bincount(labels, minlength=len(PHANTOMS[modality].classes)) / len(labels)
    np.testing.assert_allclose(shares, PHANTOMS[modality].balance, atol=0.015)
    balance = np.arange(len(PHANTOMS[modality].classes), dtype=float)
    labels = PhantomSource(modality, "train", 20_000, 32, 32, balance=balance).labels()
    np.testing.assert_allclose(
        np.bincount(labels, minlength=len(balance)) / 20_000, balance / balance.sum(), atol=0.015
    )


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("size", [(32, 32), (64, 64), (48, 96)])
def test_exactly_the_ill_have_a_lesion(modality, size):
    for label, name in enumerate(PHANTOMS[modality].classes):
        for seed in range(8):
            rng = np.random.Generator(np.random.Philox(key=[seed, label]))
            image, mask = render(modality, label, rng, *size)
            assert mask.shape == size and mask.dtype == bool
            assert mask.any() == (name != PHANTOMS[modality].normal), (name, seed)
            assert mask.mean() < 0.5
            assert image.std() > 5  # not blank


def test_lesions_are_what_the_definition_says():
    def draw(modality, name, count=24):
        label = PHANTOMS[modality].classes.index(name)
        for seed in range(count):
            rng = np.random.Generator(np.random.Philox(key=[seed, label]))
            image, mask = render(modality, label, rng, 96, 96)
            yield image.astype(float), mask

    # Cysts are darker than the retina around them.
    for image, mask in draw("oct", "DME"):
        ring = np.zeros_like(mask)
        ring[2:-2, 2:-2] = (mask[:-4, 2:-2] | mask[4:, 2:-2]) & ~mask[2:-2, 2:-2]
        assert image[mask].mean() < image[ring].mean()
    # The higher the grade, up to severe, the more of the retina is covered by lesions.
    areas = [np.mean([m.mean() for _, m in draw("fundus", g)]) for g in "0123"]
    assert areas[0] == 0 and np.all(np.diff(areas) > 0)
    # CNV lifts more than drusen do.
    assert np.mean([m.mean() for _, m in draw("oct", "CNV")]) > np.mean(
        [m.mean() for _, m in draw("oct", "DRUSEN")]
    )


@pytest.mark.parametrize("modality", MODALITIES)
def test_tone_says_nothing_about_the_label(modality):
    # Far from lesions: vitreous at the top of a B-scan, the rim of a fundus photograph.
    values = {k: [] for k in range(len(PHANTOMS[modality].classes))}
    for label in values:
        for seed in range(150):
            rng = np.random.Generator(np.random.Philox(key=[seed, 1000 + label]))
            image, mask = render(modality, label, rng, 32, 32)
            region = np.zeros((32, 32), bool)
            region[:3] = True
            values[label].append(image[region & ~mask].mean())
    means = np.array([np.mean(v) for v in values.values()])
    spread = np.mean([np.std(v) for v in values.values()])
    # Class means differ by no more than chance allows: 5 standard errors of a difference.
    assert np.ptp(means) < 5 * spread * np.sqrt(2 / 150)


def test_the_millionth_example_costs_no_memory():
    source = PhantomSource("oct", "train", 10**12, 16, 16)
    assert len(source) == 10**12
    assert source[10**12 - 1]["id"] == "phantom-oct-train-999999999999"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "mri"}, "oct, fundus"),
        ({"split": "holdout"}, "train, validation, test"),
        ({"num_examples": 0}, "num_examples"),
        ({"height": 8}, "16x16"),
        ({"balance": [1, 2]}, "4 shares"),
        ({"balance": [1, 2, 3, -1]}, "4 shares"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    good = {"modality": "oct", "split": "train", "num_examples": 4, "height": 32, "width": 32}
    with pytest.raises(ValueError, match=message):
        PhantomSource(**{**good, **change})
    with pytest.raises(ValueError, match="label"):
        render("oct", 4, np.random.default_rng(0), 32, 32)


@pytest.mark.parametrize("modality", MODALITIES)
def test_contact_sheet_command(modality, tmp_path):
    path = tmp_path / "sheet.png"
    command = [
        sys.executable,
        "-m",
        "wlsrl_jax",
        "phantoms",
        f"--modality={modality}",
        f"--output={path}",
        "--side=32",
        "--columns=3",
        "--masks",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in PHANTOMS[modality].classes)
    with Image.open(path) as sheet:
        assert sheet.size == (3 * 36, len(PHANTOMS[modality].classes) * 36)
