"""The classification problems of the paper, as data.

The abstract of Kaloi et al. (iCoMET 2023) names four tasks: TF1 (fundus, normal or
abnormal), TF2 (fundus, diabetic retinopathy grade), TO1 (OCT, disease class) and TO2
(OCT, normal or abnormal). Each is a map from the *one* label that a data set carries,
so two heads can never be trained on labels that contradict each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

MODALITIES = ("oct", "fundus")
MISSING = -1
"""Label of an example that a task does not cover; its loss is exactly zero."""

DR_GRADES = ("0", "1", "2", "3", "4")
"""International clinical diabetic retinopathy severity scale (Wilkinson et al. 2003)."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One classification head.

    Attributes:
      name: "TF1", "TF2", "TO1" or "TO2"; the key of the head's logits.
      classes: names of the C classes, in the order of the logits.
      label_map: entry ``k`` is the class of an example whose data-set label is ``k``,
        or ``MISSING``.
      ordinal: whether the classes are ordered, so that losses and metrics may use the
        distance between them.
    """

    name: str
    classes: tuple[str, ...]
    label_map: tuple[int, ...]
    ordinal: bool = False

    def __post_init__(self) -> None:
        bad = [k for k in self.label_map if not MISSING <= k < len(self.classes)]
        if bad:
            raise ValueError(
                f"Task {self.name}: label_map {self.label_map} names class {bad[0]}, but "
                f"there are {len(self.classes)} classes: {', '.join(self.classes)}."
            )

    @property
    def num_classes(self) -> int:
        """C, the width of the head's logits."""
        return len(self.classes)


def make_tasks(modality: str, classes: Sequence[str], normal: str) -> tuple[Task, ...]:
    """Returns the two tasks of a modality for a data set.

    Args:
      modality: "oct" gives (TO1, TO2), "fundus" gives (TF1, TF2).
      classes: the K class names of the data set, in the order of its labels.
      normal: which of them is the healthy one (grade "0" for fundus data).

    Returns:
      Two tasks whose ``label_map`` has K entries.

    Raises:
      ValueError: for an unknown modality or if ``normal`` is not among ``classes``.
    """
    classes = tuple(classes)
    if normal not in classes:
        raise ValueError(
            f"normal={normal!r} is not a class of this data set: {', '.join(classes)}."
        )
    identity = tuple(range(len(classes)))
    abnormal = tuple(int(name != normal) for name in classes)
    if modality == "oct":
        return (
            Task("TO1", classes, identity),
            Task("TO2", ("normal", "abnormal"), abnormal),
        )
    if modality == "fundus":
        return (
            Task("TF1", ("normal", "abnormal"), abnormal),
            Task("TF2", classes, identity, ordinal=True),
        )
    raise ValueError(f"Unknown modality {modality!r}; choose one of {', '.join(MODALITIES)}.")


def task_labels(tasks: Sequence[Task], labels: np.ndarray) -> dict[str, np.ndarray]:
    """Maps data-set labels to the labels of every task.

    Args:
      tasks: the tasks, all made for the data set that ``labels`` come from.
      labels: ``[N]`` integers in ``[0, K)``; ``MISSING`` stays missing.

    Returns:
      Task name -> ``[N]`` int32 in ``[0, C)`` or ``MISSING``.

    Raises:
      ValueError: if a label is outside ``[-1, K)``.
    """
    labels = np.asarray(labels)
    out = {}
    for task in tasks:
        size = len(task.label_map)
        if labels.size and not (MISSING <= labels.min() and labels.max() < size):
            raise ValueError(
                f"Task {task.name}: labels span {labels.min()}..{labels.max()}, expected "
                f"0..{size - 1} (or {MISSING} for a missing label)."
            )
        table = np.asarray((*task.label_map, MISSING), np.int32)  # index -1 stays missing
        out[task.name] = table[labels]
    return out


def class_counts(tasks: Sequence[Task], labels: np.ndarray) -> Mapping[str, np.ndarray]:
    """Counts the labelled examples of every class of every task.

    Args:
      tasks: the tasks.
      labels: ``[N]`` data-set labels.

    Returns:
      Task name -> ``[C]`` int64 counts; missing labels are not counted.
    """
    return {
        task.name: np.bincount(mapped[mapped != MISSING], minlength=task.num_classes)
        for task, mapped in zip(tasks, task_labels(tasks, labels).values(), strict=True)
    }
