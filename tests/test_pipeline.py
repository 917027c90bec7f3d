import itertools

import grain
import numpy as np
import pytest

from wlsrl_jax.data import pipeline
from wlsrl_jax.data.phantom import PhantomSource
from wlsrl_jax.data.transforms import Augmentation

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


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_read_slices_of_the_global_batch(source, hosts):
    whole = take(batches(source), 5)
    parts = [take(batches(source, process_index=h, process_count=hosts), 5) for h in range(hosts)]
    for k in range(5):
        joined = {key: np.concatenate([p[k][key] for p in parts]) for key in whole[k]}
        assert_equal(joined, whole[k])


def test_position_can_be_saved_and_set_at_every_step(source):
    grain.experimental.assert_equal_output_after_checkpoint(_Finite(batches(source)))


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
