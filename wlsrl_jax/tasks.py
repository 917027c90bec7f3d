"""The modalities and the classification problems of the paper, as data.

The abstract of Kaloi et al. (iCoMET 2023) names four tasks: TF1 (fundus, normal or
abnormal), TF2 (fundus, diabetic retinopathy grade), TO1 (OCT, disease class) and TO2
(OCT, normal or abnormal). Each is a map from the *one* label that a data set carries,
so two heads can never be trained on labels that contradict each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

MISSING = -1
"""Label of an example that a task does not cover; its loss is exactly zero."""

DR_GRADES = ("0", "1", "2", "3", "4")
"""International clinical diabetic retinopathy severity scale (Wilkinson et al. 2003)."""

PHANTOM_NOTE = "PHANTOM DATA: a rehearsal of the pipeline, not evidence about patients"
"""Stands beside every result on phantoms, wherever one is shown or written."""


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


@dataclasses.dataclass(frozen=True)
class TaskRule:
    """How a task follows from the one class that a data set gives an image.

    Attributes:
      name: of the task.
      classes: of the task, in the order of the logits; None takes the data set's.
      rule: (class of the data set, its healthy class) -> class of the task, or None for
        an image that the task does not cover; by default the class itself.
      ordinal: whether the classes are ordered.
    """

    name: str
    classes: tuple[str, ...] | None = None
    rule: Callable[[str, str], str | None] = lambda name, normal: name
    ordinal: bool = False


def _normal_or_abnormal(name: str, normal: str) -> str:
    return "normal" if name == normal else "abnormal"


@dataclasses.dataclass(frozen=True)
class Modality:
    """A kind of image, and what follows from it wherever images are read, graded or told of.

    Only what is drawn or fitted has its place elsewhere: phantoms (``data/phantoms/``), and what
    such a picture looks like (``data/images/modality.py``, ``data/images/quality.py``).

    Attributes:
      name: in configs, flags and documents.
      article: "a" or "an", before the noun.
      noun: of one image; an "s" makes it several.
      channels: of an image, 1 for grey, 3 for RGB.
      round_field: whether a picture is a round field on black, to which it is cropped.
      graded: whether the classes of all its data sets are ``DR_GRADES``; else each has its own.
      size: (height, width) to which a data set of your own is prepared, pixels.
      steps: of ``data.images.pixels.STEPS``, those that suit it.
      tasks: what its images are graded for; a line here is all that a new task needs.
      near_bits: most bits, of 128, in which the perceptual hashes of two pictures differ whose
        textures are compared; see ``data/audit/near_duplicates.py``.
      near_correlation: of the textures, from which two pictures show the same.
      near_bits_alone: most bits in which they differ where nothing but hashes is left to compare;
        see ``runs/provenance.py``.
    """

    name: str
    article: str
    noun: str
    channels: int
    round_field: bool
    graded: bool
    size: tuple[int, int]
    steps: tuple[str, ...]
    tasks: tuple[TaskRule, ...]
    near_bits: int
    near_correlation: float
    near_bits_alone: int


OCT = Modality(
    name="oct",
    article="an",
    noun="OCT B-scan",
    channels=1,
    round_field=False,
    graded=False,
    size=(128, 256),
    steps=("clahe", "white_borders", "flatten"),
    tasks=(
        TaskRule("TO1"),
        TaskRule("TO2", ("normal", "abnormal"), _normal_or_abnormal),
    ),
    near_bits=20,
    near_correlation=0.85,
    near_bits_alone=8,
)
FUNDUS = Modality(
    name="fundus",
    article="a",
    noun="fundus photograph",
    channels=3,
    round_field=True,
    graded=True,
    size=(192, 192),
    steps=("ben_graham", "clahe"),
    tasks=(
        TaskRule("TF1", ("normal", "abnormal"), _normal_or_abnormal),
        TaskRule("TF2", ordinal=True),
    ),
    near_bits=8,
    near_correlation=0.97,
    near_bits_alone=1,
)
MODALITIES = {modality.name: modality for modality in (OCT, FUNDUS)}
"""Name -> modality."""


def make_tasks(modality: str, classes: Sequence[str], normal: str) -> tuple[Task, ...]:
    """Returns the tasks of a modality for a data set.

    Args:
      modality: a name in ``MODALITIES``; "oct" gives (TO1, TO2), "fundus" gives (TF1, TF2).
      classes: the K class names of the data set, in the order of its labels.
      normal: which of them is the healthy one (grade "0" for fundus data).

    Returns:
      Tasks whose ``label_map`` has K entries.

    Raises:
      ValueError: for an unknown modality, if ``normal`` is not among ``classes``, or if a
        task's rule gives a class that the task does not have.
    """
    if modality not in MODALITIES:
        raise ValueError(f"Unknown modality {modality!r}; choose one of {', '.join(MODALITIES)}.")
    classes = tuple(classes)
    if normal not in classes:
        raise ValueError(
            f"normal={normal!r} is not a class of this data set: {', '.join(classes)}."
        )
    tasks = []
    for rule in MODALITIES[modality].tasks:
        own = rule.classes or classes
        mapped = [rule.rule(name, normal) for name in classes]
        unknown = [m for m in mapped if m is not None and m not in own]
        if unknown:
            raise ValueError(
                f"Task {rule.name}: its rule gives {unknown[0]!r}, its classes are "
                f"{', '.join(own)}."
            )
        label_map = tuple(MISSING if m is None else own.index(m) for m in mapped)
        tasks.append(Task(rule.name, own, label_map, rule.ordinal))
    return tuple(tasks)


def tasks_document(tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """Writes tasks as documents have them.

    Args:
      tasks: the tasks.

    Returns:
      Name -> "classes", "label_map" and "ordinal", in order.
    """
    return {
        t.name: {"classes": t.classes, "label_map": t.label_map, "ordinal": t.ordinal}
        for t in tasks
    }


def tasks_of(document: Mapping[str, Mapping[str, Any]]) -> tuple[Task, ...]:
    """Reads tasks from a document: the inverse of ``tasks_document``.

    Args:
      document: what ``tasks_document`` gave.

    Returns:
      The tasks, in order.

    Raises:
      ValueError: if a ``label_map`` names a class that its task does not have.
    """
    return tuple(
        Task(name, tuple(found["classes"]), tuple(found["label_map"]), found["ordinal"])
        for name, found in document.items()
    )


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
