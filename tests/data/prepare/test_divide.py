"""Folds and growth, as properties of random data sets."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlsrl_jax.data.audit.inspect import SourceImage
from wlsrl_jax.data.audit.look import Fingerprint
from wlsrl_jax.data.audit.near_duplicates import Pair
from wlsrl_jax.data.prepare.divide import Division, divide
from wlsrl_jax.data.published import get_spec
from wlsrl_jax.data.published.common import Record

SPEC = get_spec("oct2017")
LOOK = Fingerprint(np.zeros(128, bool), np.zeros((48, 48), np.uint8), 100, 100, ())


@st.composite
def image_sets(draw, most=50):
    count = draw(st.integers(2, most))
    patients = st.one_of(st.none(), st.integers(0, 15).map(lambda n: f"patient{n}"))
    images = [
        SourceImage(
            Record(f"{k}.png", f"image{k}", draw(st.integers(0, 3)), draw(patients)),
            f"digest{draw(st.integers(0, 60))}", 1, LOOK,
        )
        for k in range(count)
    ]  # fmt: skip
    index = st.integers(0, count - 1)
    chosen = draw(st.lists(st.tuples(index, index), max_size=5))
    return images, [Pair(min(p), max(p), 0.9) for p in chosen if p[0] != p[1]]


def inseparable(images, pairs):
    """Pairs of positions that may never be in two splits."""
    found = [(p.first, p.second) for p in pairs]
    for key in (lambda i: i.record.patient, lambda i: i.sha256):
        first = {}
        for k, image in enumerate(images):
            if key(image) is not None:
                found.append((first.setdefault(key(image), k), k))
    return found


@given(image_sets(), st.integers(2, 5), st.integers(0, 2))
@settings(max_examples=60)
def test_every_fold_keeps_together_what_belongs_together(case, folds, seed):
    images, pairs = case
    how = Division(seed=seed, folds=folds, allow_missing_classes=True)
    done, left_out, _ = divide(SPEC, images, how, pairs=pairs)
    assert not left_out and [i.record for i in done] == [i.record for i in images]
    assert all(len(i.folds) == folds and i.folds.count("test") == 1 for i in done)
    for a, b in inseparable(images, pairs):
        assert done[a].split == done[b].split and done[a].folds == done[b].folds
        assert done[a].group == done[b].group


@given(image_sets(), st.sampled_from([{"folds": 3}, {"repeats": 2}, {}]), st.data())
@settings(max_examples=60)
def test_growth_moves_no_image_in_any_fold(case, columns, data):
    images, pairs = case
    cut = data.draw(st.integers(1, len(images)))
    old = images[:cut]
    how = Division(allow_missing_classes=True, **columns)
    before, _, _ = divide(SPEC, old, how, pairs=[p for p in pairs if p.second < cut])
    previous = {i.record.id: (i.split, *i.folds) for i in before}
    after, left_out, _ = divide(SPEC, images, how, pairs=pairs, previous=previous)
    now = {i.record.id: (i.split, *i.folds) for i in after}
    assert all(now[name] == where for name, where in previous.items())
    assert len(after) + len(left_out) == len(images)
    # What was left out would have joined groups of different splits; nothing kept does, but for
    # old images whose groups a new one has shown to be the same.
    together = collections.defaultdict(set)
    for image in after:
        together[image.group].add(now[image.record.id])
    for group, places in together.items():
        if len(places) > 1:
            assert all(i.record.id in previous for i in after if i.group == group)


def test_folds_are_balanced_by_class():
    images = [
        SourceImage(Record(f"{k}", f"image{k}", k % 4, f"p{k}"), f"d{k}", 1, LOOK)
        for k in range(200)
    ]
    done, _, lacking = divide(SPEC, images, Division(folds=5))
    assert not lacking
    for fold in range(5):
        counts = collections.Counter((i.folds[fold], i.record.label) for i in done)
        assert all(counts["test", label] == 10 for label in range(4))
        assert all(counts["validation", label] == 5 for label in range(4))


def test_an_official_split_has_no_folds():
    images = [
        SourceImage(Record(f"{k}", f"i{k}", k % 4, f"p{k}", "train"), f"d{k}", 1, LOOK)
        for k in range(40)
    ]
    with pytest.raises(ValueError, match="--split=grouped"):
        divide(SPEC, images, Division(mode="official", folds=2))


def test_a_class_of_identical_images_is_there_and_is_told_to_be_one_group():
    images = [
        SourceImage(Record(f"{k}.png", f"image{k}", k % 4, f"patient{k}"),
                    "same" if k % 4 == 1 else f"digest{k}", 1, LOOK)
        for k in range(48)
    ]  # fmt: skip
    with pytest.raises(ValueError) as caught:
        divide(SPEC, images, Division(), pairs=[])
    (line,) = [x for x in str(caught.value).splitlines() if x.startswith("  class")]
    assert line.startswith("  class DME is missing in ")
    assert "its 12 images are 1 group, of the same patient or of identical" in line
