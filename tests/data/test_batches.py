import itertools

import grain
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlsrl_jax.data import batches as pipeline
from wlsrl_jax.data.augment import Augmentation
from wlsrl_jax.data.phantoms.source import PhantomSource
from wlsrl_jax.data.sampling import epoch_counts

RANGES = Augmentation(flip=0.5, rotation=10.0, shift=0.1, speckle=0.1)


@pytest.fixture(scope="module")
def source():
    return PhantomSource("oct", "train", 30, 32, 32, 0)


def batches(source, **changes):
    options = {"image_size": (32, 32), "ranges": RANGES, "global_batch_size": 8, "seed": 3}
    return pipeline.train_batches(source, **{**options, **changes})


def take(stream, count):
    return list(itertools.islice(iter(stream), count))


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def test_same_seed_same_batches_whatever_the_threads(source):
    first = take(batches(source, num_threads=1, prefetch=1), 6)
    second = take(batches(source, num_threads=3, prefetch=8), 6)
    for a, b in zip(first, second):
        assert_equal(a, b)
    other = take(batches(source, seed=4), 1)[0]
    assert other["id"].tolist() != first[0]["id"].tolist()


def test_each_epoch_holds_every_example_once_across_batch_borders(source):
    ids = [i for b in take(batches(source), 15) for i in b["id"]]  # 120 examples: 4 epochs
    epochs = [ids[k : k + 30] for k in range(0, 120, 30)]
    assert all(sorted(e) == sorted(epochs[0]) and len(set(e)) == 30 for e in epochs)
    assert len({tuple(e) for e in epochs}) == 4


def test_an_example_is_augmented_anew_in_each_epoch(source):
    seen = {}
    for batch in take(batches(source), 8):
        for name, image in zip(batch["id"], batch["image"]):
            seen.setdefault(name, []).append(image)
    assert sum((a[0] != a[1]).any() for a in seen.values() if len(a) > 1) >= 25


@pytest.mark.parametrize("sampling", ["natural", "sqrt", "balanced"])
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_slices_of_the_global_batch(source, hosts, sampling):
    whole = take(batches(source, sampling=sampling), 5)
    parts = [take(batches(source, sampling=sampling, process_index=h, process_count=hosts), 5)
             for h in range(hosts)]  # fmt: skip
    for k in range(5):
        joined = {key: np.concatenate([p[k][key] for p in parts]) for key in whole[k]}
        assert_equal(joined, whole[k])


@pytest.mark.parametrize("sampling", ["natural", "sqrt", "balanced"])
def test_position_can_be_saved_and_set_at_every_step(source, sampling):
    stream = _Finite(batches(source, sampling=sampling))
    grain.experimental.assert_equal_output_after_checkpoint(stream)


@pytest.mark.parametrize("sampling", ["natural", "sqrt", "balanced"])
def test_a_count_of_batches_is_the_position(source, sampling):
    whole = take(batches(source, sampling=sampling), 10)  # 80 examples of 30: three epochs
    for position in (1, 4, 9):
        stream = iter(batches(source, sampling=sampling))
        stream.set_state({"next_index": position})
        assert_equal(next(stream), whole[position])


def test_natural_order_is_what_it_always_was(source):
    first = take(batches(source), 1)[0]
    assert [int(i[-2:]) for i in first["id"]] == [29, 22, 16, 7, 26, 3, 18, 19]
    assert first["image"].sum(dtype=int) == 566284


class Labelled:
    """Images without a picture: 60, 25, 0, 14 and 1 of five classes."""

    COUNTS = (60, 25, 0, 14, 1)

    def __init__(self):
        self._labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), self.COUNTS))

    def __len__(self):
        return len(self._labels)

    def labels(self):
        return self._labels

    def __getitem__(self, index):
        image = np.full((4, 4, 1), 128, np.uint8)
        return {"image": image, "label": int(self._labels[index]), "id": str(index), "group": ""}


def sampled(sampling, examples, **changes):
    options = {"image_size": (4, 4), "global_batch_size": 10, "sampling": sampling, **changes}
    found = take(batches(Labelled(), **options), examples // options["global_batch_size"])
    return [np.concatenate([b[k] for b in found]) for k in ("label", "id")]


@pytest.mark.parametrize(
    ("sampling", "expected"), [("balanced", [25, 25, 0, 25, 25]), ("sqrt", [44, 29, 0, 21, 6])]
)
def test_each_epoch_shows_classes_in_exact_proportion(sampling, expected):
    assert epoch_counts(Labelled.COUNTS, sampling).tolist() == expected
    labels, ids = sampled(sampling, 400)
    for epoch in labels.reshape(4, 100):
        assert np.bincount(epoch, minlength=5).tolist() == expected
    np.testing.assert_array_equal(labels, Labelled().labels()[ids.astype(int)])
    for k, count in enumerate(Labelled.COUNTS):
        # Within a class each round through its images holds each once, in an order of its own.
        shown = ids[labels == k]
        rounds = [tuple(shown[i : i + count]) for i in range(0, len(shown) - count + 1, count or 1)]
        if count:
            assert rounds and all(len(set(r)) == count for r in rounds)
        if count > 1:
            assert len(set(rounds)) == len(rounds)
            assert np.ptp(np.unique(shown, return_counts=True)[1]) <= 1


@pytest.mark.parametrize("sampling", ["sqrt", "balanced"])
def test_every_batch_has_nearly_the_proportions_of_the_epoch(sampling):
    expected = epoch_counts(Labelled.COUNTS, sampling) / 100
    labels, _ = sampled(sampling, 500, global_batch_size=20)
    for batch in labels.reshape(-1, 20):
        apart = np.abs(np.bincount(batch, minlength=5) - 20 * expected)
        assert (apart <= 2 * (1 + 4 * expected)).all()
        for k in range(4):
            assert len(set(batch[k::4])) > 1  # a micro-batch, where four are accumulated


@pytest.mark.parametrize("sampling", ["sqrt", "balanced"])
def test_sampled_order_follows_the_seed(sampling):
    first, again, other = (list(sampled(sampling, 100, seed=s)[1]) for s in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("sampling", ["natural", "sqrt", "balanced"])
def test_augmentation_follows_the_seed(sampling):
    # One and the same image everywhere, so that only its augmentation can differ.
    first, again, other = (
        take(batches(Labelled(), sampling=sampling, seed=s), 1)[0]["image"] for s in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert all((a != b).any() for a, b in zip(first, other, strict=True))


def test_sampling_that_cannot_be():
    with pytest.raises(ValueError, match=r"sampling='even'; choose one of natural, sqrt, balanced"):
        batches(Labelled(), sampling="even")
    unknown = Labelled()
    unknown._labels[[3, 7]] = -1
    with pytest.raises(ValueError, match="2 have none; use natural"):
        batches(unknown, sampling="balanced")


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=9).filter(any),
    st.sampled_from(["natural", "sqrt", "balanced"]),
)
def test_an_epoch_stays_as_long_as_the_split(counts, sampling):
    shown = epoch_counts(np.array(counts), sampling)
    assert shown.sum() == sum(counts)
    np.testing.assert_array_equal(shown > 0, np.array(counts) > 0)
    power = {"natural": 1.0, "sqrt": 0.5, "balanced": 0.0}[sampling]
    ideal = np.where(shown > 0, np.array(counts, float) ** power, 0)
    assert (np.abs(shown - sum(counts) * ideal / ideal.sum()) < 1 + 1e-6).all()


class _Finite(grain.IterDataset):
    """The first five batches."""

    def __iter__(self):
        return _FiniteIterator(self._parent.__iter__())


class _FiniteIterator(grain.DatasetIterator):
    def __init__(self, parent):
        super().__init__(parent)
        self._count = 0

    def __next__(self):
        if self._count == 5:
            raise StopIteration
        self._count += 1
        return next(self._parent)

    def get_state(self):
        return {"parent": self._parent.get_state(), "count": self._count}

    def set_state(self, state):
        self._parent.set_state(state["parent"])
        self._count = state["count"]


@pytest.mark.parametrize(
    ("size", "hosts"), [(1, 1), (7, 1), (8, 1), (30, 1), (64, 1), (8, 2), (30, 2), (64, 2)]
)
def test_evaluation_reads_each_example_once(source, size, hosts):
    found, shapes = [], set()
    for host in range(hosts):
        for batch in pipeline.evaluation_batches(source, image_size=(32, 32),
                                                 global_batch_size=size, process_index=host,
                                                 process_count=hosts):  # fmt: skip
            shapes.add(batch["image"].shape)
            found += [(i, n) for i, n in zip(batch["index"], batch["id"]) if i >= 0]
    assert len(shapes) == 1
    assert sorted(found) == [(i, source[i]["id"]) for i in range(30)]


def test_a_reader_that_fails_says_so(source):
    class Broken:
        def __len__(self):
            return 4

        def __getitem__(self, index):
            raise OSError("disk gone")

        def __repr__(self):
            return "Broken"

    with pytest.raises(OSError, match="disk gone"):
        take(batches(Broken()), 1)
