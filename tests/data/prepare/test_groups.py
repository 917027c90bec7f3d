import collections

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlsrl_jax.data.prepare.groups import (
    SPLITS,
    Item,
    assign_groups,
    missing_classes,
    split_groups,
    stay_where_they_were,
)


@st.composite
def collections_of_images(draw):
    count = draw(st.integers(1, 60))
    numbers = st.integers(0, 12)
    return [
        Item(
            id=f"image{k}",
            label=draw(st.integers(0, 3)),
            patient=draw(st.one_of(st.none(), numbers.map(lambda n: f"patient{n}"))),
            digest=f"digest{draw(st.integers(0, 40))}",
        )
        for k in range(count)
    ]


@given(collections_of_images(), st.integers(0, 3))
def test_no_patient_and_no_identical_image_is_in_two_splits(items, seed):
    groups = assign_groups(items)
    where = split_groups([i.label for i in items], groups, seed=seed)
    by_patient, by_digest = collections.defaultdict(set), collections.defaultdict(set)
    for item, group in zip(items, groups):
        if item.patient is not None:
            by_patient[item.patient].add(where[group])
        by_digest[item.digest].add(where[group])
    assert all(len(s) == 1 for s in by_patient.values())
    assert all(len(s) == 1 for s in by_digest.values())
    assert set(where) == set(groups) and set(where.values()) <= set(SPLITS)


@given(collections_of_images(), st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(items, random):
    groups = dict(zip((i.id for i in items), assign_groups(items)))
    where = split_groups([i.label for i in items], list(groups.values()))
    shuffled = list(items)
    random.shuffle(shuffled)
    again = assign_groups(shuffled)
    assert {i.id: g for i, g in zip(shuffled, again)} == groups
    assert split_groups([i.label for i in shuffled], again) == where


@given(collections_of_images(), st.integers(0, 60))
@settings(max_examples=60)
def test_growth_moves_nothing(items, cut):
    old = items[:cut]
    groups = assign_groups(old)
    where = split_groups([i.label for i in old], groups)
    previous = {i.id: where[g] for i, g in zip(old, groups)}
    grown = assign_groups(items)
    fixed, left_out = stay_where_they_were([i.id for i in items], grown, previous)
    result = split_groups([i.label for i in items], grown, fixed=fixed)
    final = {i.id: previous.get(i.id, result[g]) for i, g in zip(items, grown)}
    assert all(final[name] == split for name, split in previous.items())
    assert not set(left_out) & previous.keys()
    # Of what is kept, no new image is in another split than an old one of its group.
    together = collections.defaultdict(set)
    for item, group in zip(items, grown):
        if item.id not in left_out:
            together[group].add(final[item.id])
    torn = {g for g, s in together.items() if len(s) > 1}
    assert all(i.id in previous for i, g in zip(items, grown) if g in torn and i.id not in left_out)


def test_identical_images_join_their_patients_through_chains():
    items = [Item("a", 0, "p1", "x"), Item("b", 0, "p2", "x"), Item("c", 0, "p2", "y"),
             Item("d", 0, "p3", "y"), Item("e", 0, "p4", "z"), Item("f", 0, None, "z"),
             Item("g", 0, None, "w")]  # fmt: skip
    assert assign_groups(items) == ["p1", "p1", "p1", "p1", "f", "f", "g"]


def test_fractions_hold_in_every_class():
    labels = [0] * 700 + [1] * 200 + [2] * 30
    groups = [f"g{k}" for k in range(len(labels))]
    where = split_groups(labels, groups)
    for label, total in ((0, 700), (1, 200), (2, 30)):
        found = collections.Counter(where[g] for g, k in zip(groups, labels) if k == label)
        for split, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
            assert abs(found[split] - share * total) <= 1


def test_three_patients_of_a_class_reach_every_split():
    labels, groups = [0] * 3 + [1] * 30, [f"g{k}" for k in range(33)]
    where = split_groups(labels, groups)
    assert not missing_classes(labels, [where[g] for g in groups], ("rare", "frequent"))
    assert missing_classes([0, 1], ["train", "test"], ("a", "b")) == {
        "a": ["validation", "test"], "b": ["train", "validation"]}  # fmt: skip


def test_another_seed_is_another_division():
    labels, groups = [0] * 100, [f"g{k}" for k in range(100)]
    assert split_groups(labels, groups, seed=1) != split_groups(labels, groups, seed=2)
    assert split_groups(labels, groups, seed=1) == split_groups(labels, groups, seed=1)


def test_wrong_fractions():
    with pytest.raises(ValueError, match="sum to 1"):
        split_groups([0], ["a"], fractions={"train": 0.5, "test": 0.2})
