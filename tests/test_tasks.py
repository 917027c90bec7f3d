import numpy as np
import pytest

from wlsrl_jax import tasks

OCTDL = ("AMD", "DME", "ERM", "NO", "RAO", "RVO", "VID")


def test_heads_never_contradict_each_other():
    labels = np.arange(7)
    mapped = tasks.task_labels(tasks.make_tasks("oct", OCTDL, "NO"), labels)
    np.testing.assert_array_equal(mapped["TO1"], labels)
    np.testing.assert_array_equal(mapped["TO2"], [1, 1, 1, 0, 1, 1, 1])


def test_fundus_grades_are_ordinal_and_abnormal_above_zero():
    tf1, tf2 = tasks.make_tasks("fundus", tasks.DR_GRADES, "0")
    assert tf2.ordinal and not tf1.ordinal
    assert tf1.label_map == (0, 1, 1, 1, 1)
    assert tf2.num_classes == 5


def test_missing_label_stays_missing_and_is_not_counted():
    both = tasks.make_tasks("fundus", tasks.DR_GRADES, "0")
    labels = np.array([-1, 0, 4])
    assert all(m[0] == tasks.MISSING for m in tasks.task_labels(both, labels).values())
    counts = tasks.class_counts(both, labels)
    np.testing.assert_array_equal(counts["TF1"], [1, 1])
    np.testing.assert_array_equal(counts["TF2"], [1, 0, 0, 0, 1])


@pytest.mark.parametrize("label", [-2, 5])
def test_label_out_of_range_is_an_error(label):
    with pytest.raises(ValueError, match="TF1: labels span"):
        tasks.task_labels(tasks.make_tasks("fundus", tasks.DR_GRADES, "0"), np.array([label]))


def test_wrong_arguments_name_the_choices():
    with pytest.raises(ValueError, match="oct, fundus"):
        tasks.make_tasks("mri", ("a", "b"), "a")
    with pytest.raises(ValueError, match="not a class of this data set: a, b"):
        tasks.make_tasks("oct", ("a", "b"), "c")
    with pytest.raises(ValueError, match="label_map"):
        tasks.Task("TO1", ("a",), (0, 1))
