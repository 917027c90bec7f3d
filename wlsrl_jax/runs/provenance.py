"""Whether what is tested was trained on: asked wherever two runs, or a run and a set, meet.

A run keeps ``trained_on.json``: the SHA-256 of the files of its training and validation images, a
patient being the set of its images' hashes. Names and ids are not in it, nor a hash of one, which
trying all numbers would undo. Weights that came from another run bring what that one saw along.
Beside it lies ``trained_on_looks.npz``, perceptual hashes of the same images, which tell an image
that was saved anew; it never leaves the workdir, for a picture can be guessed from such a hash.

Hashes alone, without the pictures that ``audit/near_duplicates.py`` compares after them, must be
nearer to each other (``near_bits_alone`` of a modality). Of the 3 million pairs of 2,459 scans
(OCTDL, OCT2017) 34 are within 8 bits, and 33 of them show the same; an OCTDL scan saved anew as
JPEG of quality 50 or at half its size is within 6. Photographs resemble each other more: of the
19.5 million pairs of 6,248 (EyePACS, APTOS, ODIR), all different, none is within 1 bit, 4 are
within 2; about half of those saved anew at half their size are found.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wlsrl_jax.data.dataset import Dataset, is_same_data, load_dataset
from wlsrl_jax.files import Mistake, read_json, write_json, write_whole
from wlsrl_jax.runs import shipped
from wlsrl_jax.runs.documents import read_config, read_data
from wlsrl_jax.runs.packed import TRAINED_ON
from wlsrl_jax.tasks import MODALITIES

NAME, LOOKS = TRAINED_ON, "trained_on_looks.npz"
ABOUT = (
    "SHA-256 of the files of the images that these weights were trained on (train) or chosen by "
    "(validation); an entry a patient, with its images outside both (other). Who has a copy of an "
    "image file can tell with this whether that image, and which others of its patient, were "
    "among them; who has none learns only how many there were."
)
USED = ("train", "validation")

_BLOCK = 2**22  # pairs compared at a time


@dataclasses.dataclass(frozen=True)
class TrainedOn:
    """What a run's weights have seen.

    Attributes:
      name: of the run, for messages.
      patients: of each, "train", "validation" and "other" -> SHA-256 of its images there.
      unverified: runs that weights came from and of which nobody recorded what they saw.
      looks: perceptual hashes ``[N, 16]`` of training images; None where there are none.
    """

    name: str
    patients: tuple[Mapping[str, Sequence[str]], ...]
    unverified: tuple[str, ...] = ()
    looks: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Tested:
    """Images that a run is, or will be, tested on.

    Attributes:
      name: of the set and split, for messages.
      modality: a name in ``tasks.MODALITIES``.
      ids: of the N images.
      images: SHA-256 of each file; "" of a phantom, which nobody draws twice.
      groups: of each.
      patients: group -> SHA-256 of all its images, also of those in other splits of the set.
      looks: perceptual hashes ``[N, 16]``; None where there are none.
    """

    name: str
    modality: str
    ids: tuple[str, ...]
    images: tuple[str, ...]
    groups: tuple[str, ...]
    patients: Mapping[str, frozenset[str]]
    looks: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What one trained on and the other tests on; an image is in one of the four at most.

    Attributes:
      trained: the run.
      tested: the images.
      trained_on: bool ``[N]``, byte-identical to a training image.
      chosen_by: bool ``[N]``, byte-identical to a validation image.
      same_patient: bool ``[N]``, another image of a patient who was trained on.
      near_identical: bool ``[N]``, looks the same as a training image; None if not looked for.
      chosen_counts: whether ``chosen_by`` is a leak: not where validation itself is looked at.
    """

    trained: TrainedOn
    tested: Tested
    trained_on: np.ndarray
    chosen_by: np.ndarray
    same_patient: np.ndarray
    near_identical: np.ndarray | None
    chosen_counts: bool

    @property
    def verified(self) -> bool:
        """Whether everything that the weights have seen is known."""
        return not self.trained.unverified

    @property
    def leak(self) -> bool:
        """Whether results on these images are certainly not those on images unseen."""
        return bool(self._leaking.any())

    @property
    def suspect(self) -> bool:
        """Whether a warning is due: a leak, a likely one, or what cannot be verified."""
        near = self.near_identical is not None and bool(self.near_identical.any())
        return self.leak or near or not self.verified

    @property
    def _leaking(self) -> np.ndarray:
        found = self.trained_on | self.same_patient
        return found | self.chosen_by if self.chosen_counts else found

    @property
    def patients(self) -> int:
        """Patients (groups) tested who have an image that leaks."""
        return len({self.tested.groups[k] for k in np.flatnonzero(self._leaking)})

    @property
    def text(self) -> str:
        """One sentence for people."""
        total, name = len(self.tested.ids), self.trained.name
        counts = [
            (int(self.trained_on.sum()), "among the images that {} was trained on"),
            (int(self.same_patient.sum()), "other images of patients that {} was trained on"),
            (int(self.chosen_by.sum()) * self.chosen_counts, "images that chose {}'s checkpoint"),
        ]
        if self.near_identical is not None:
            alike = "not those files but, by perceptual hashes, the same pictures as {} trained on"
            counts.append((int(self.near_identical.sum()), alike))
        parts = [f"{count} {said.format(name)}" for count, said in counts if count]
        said = f"of the {total} images of {self.tested.name}, "
        if parts:
            said += ", ".join(parts)
            said += f" ({self.patients} of {len(set(self.tested.groups))} patients or groups)"
        else:
            said += f"none is known to be among those that {name} was trained on"
        if self.near_identical is None and any(self.tested.images):
            said += "; near-identical ones were not looked for, for want of perceptual hashes"
        if not self.verified:
            sources = " and ".join(self.trained.unverified)
            said += f"; what {sources} was trained on is not recorded, so this cannot be verified"
        return said + "."

    def document(self, *, ids: bool = False) -> dict[str, Any]:
        """What is written to JSON.

        Args:
          ids: name the images.

        Returns:
          Counts, what could not be looked at, and ``text``.
        """
        kinds = {
            "trained_on": self.trained_on,
            "same_patient": self.same_patient,
            "chosen_by": self.chosen_by,
            "near_identical": self.near_identical,
        }
        found: dict[str, Any] = {
            "trained": self.trained.name,
            "tested": self.tested.name,
            "images": len(self.tested.ids),
            **{k: None if rows is None else int(rows.sum()) for k, rows in kinds.items()},
            "patients": self.patients,
            "unverified": list(self.trained.unverified),
            "leak": self.leak,
            "warning": self.suspect,
            "text": self.text,
        }
        if ids:
            found["ids"] = {
                k: [self.tested.ids[i] for i in np.flatnonzero(rows)]
                for k, rows in kinds.items()
                if rows is not None and rows.any()
            }
        return found


def overlap(trained: TrainedOn, tested: Tested, *, chosen_counts: bool = True) -> Overlap:
    """Finds the images and patients that a run was trained on among those that are tested.

    Args:
      trained: what the run's weights have seen.
      tested: the images.
      chosen_counts: whether an image that chose the run's checkpoint counts as a leak.

    Returns:
      What both have.
    """
    seen = {name: _all(trained.patients, name) for name in USED}
    whole = frozenset().union(
        *(_all((p,), *p) for p in trained.patients if p.get("train"))
    )  # patients who were trained on, with their other images
    train = np.asarray([h in seen["train"] for h in tested.images], bool)
    chosen = ~train & np.asarray([h in seen["validation"] for h in tested.images], bool)
    known = {group for group, hashes in tested.patients.items() if not whole.isdisjoint(hashes)}
    patient = ~train & ~chosen & np.asarray([g in known for g in tested.groups], bool)
    near = None
    if trained.looks is not None and tested.looks is not None:
        bits = MODALITIES[tested.modality].near_bits_alone
        alike = _near(tested.looks, trained.looks, bits)
        near = alike & ~train & ~chosen & ~patient
    return Overlap(trained, tested, train, chosen, patient, near, chosen_counts)


def _all(patients: Iterable[Mapping[str, Sequence[str]]], *names: str) -> frozenset[str]:
    return frozenset(h for p in patients for name in names for h in p.get(name, ()))


def _near(mine: np.ndarray, theirs: np.ndarray, distance: int) -> np.ndarray:
    """Whether each of ``[N, 16]`` is within a number of bits of one of ``[M, 16]``.

    Of ``distance + 1`` parts of the bits one at least is equal in such a pair, so that only pairs
    with an equal part are compared.
    """
    theirs = np.unique(theirs, axis=0)
    a, b = (np.ascontiguousarray(x).view(np.uint64) for x in (mine, theirs))
    a_bits, b_bits = (np.unpackbits(x, axis=1).astype(np.uint64) for x in (mine, theirs))
    found = np.zeros(len(a), bool)
    for part in np.array_split(np.arange(128), distance + 1):
        powers = np.uint64(1) << np.arange(len(part), dtype=np.uint64)
        keys, others = a_bits[:, part] @ powers, b_bits[:, part] @ powers
        order = np.argsort(others, kind="stable")
        first, last = (np.searchsorted(others[order], keys, side) for side in ("left", "right"))
        left = np.flatnonzero(~found & (last > first))
        block = np.cumsum((last - first)[left]) // _BLOCK
        for rows in np.split(left, np.flatnonzero(np.diff(block)) + 1):
            counts = (last - first)[rows]
            inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            i, j = np.repeat(rows, counts), order[np.repeat(first[rows], counts) + inside]
            bits = np.bitwise_count(a[i] ^ b[j]).sum(axis=1)
            found[i[bits <= distance]] = True
    return found


def tested_on(dataset: Dataset, split: str, ids: Iterable[str] | None = None) -> Tested:
    """The images of a split, or some of them.

    Args:
      dataset: the data set.
      split: of it.
      ids: of those that are tested; None is all.

    Returns:
      What ``overlap`` asks for.
    """
    source = dataset.splits[split]
    name = f"{dataset.name} ({split})"
    if dataset.is_phantom:
        count = len(source)
        names = tuple(f"{split}-{k}" for k in range(count))
        return Tested(name, dataset.modality, names, ("",) * count, names, {}, None)
    wanted = None if ids is None else set(ids)
    chosen = tuple(i for i in source.ids() if wanted is None or i in wanted)
    patients: dict[str, set[str]] = {}
    for facts in dataset.details.values():
        patients.setdefault(facts["group"], set()).add(facts["sha256"])
    groups = tuple(dataset.details[i]["group"] for i in chosen)
    return Tested(
        name,
        dataset.modality,
        chosen,
        tuple(dataset.details[i]["sha256"] for i in chosen),
        groups,
        {g: frozenset(patients[g]) for g in set(groups)},
        _looks_of(dataset, chosen),
    )


def _looks_of(dataset: Dataset, ids: Sequence[str]) -> np.ndarray | None:
    if dataset.looks is None:
        return None
    place = {name: k for k, name in enumerate(dataset.details)}
    return dataset.looks[[place[i] for i in ids]]


def ask(
    trained: TrainedOn, dataset: Dataset, split: str, ids: Iterable[str] | None = None
) -> Overlap:
    """Finds what a run was trained on in a split of data that are divided for a run.

    Args:
      trained: what the run's weights have seen.
      dataset: the data set; its validation split is there to choose checkpoints by.
      split: of it.
      ids: of those that are tested; None is all.

    Returns:
      What both have.
    """
    return overlap(trained, tested_on(dataset, split, ids), chosen_counts=split == "test")


def of_dataset(name: str, dataset: Dataset) -> TrainedOn:
    """What a run on a data set trains on.

    Args:
      name: of the run.
      dataset: its data, as divided for it.

    Returns:
      The patients with an image in training or validation; none of phantoms.
    """
    if dataset.is_phantom:
        return TrainedOn(name, ())
    patients: dict[str, dict[str, list[str]]] = {}
    for split, source in dataset.splits.items():
        key = split if split in USED else "other"
        for image in source.ids():
            facts = dataset.details[image]
            patients.setdefault(facts["group"], {}).setdefault(key, []).append(facts["sha256"])
    found = [
        {key: tuple(sorted(set(p[key]))) for key in (*USED, "other") if key in p}
        for p in patients.values()
        if not p.keys().isdisjoint(USED)
    ]
    # The order of the hashes, so that the file tells nothing of names or of who came when.
    found.sort(key=lambda p: sorted(p.items()))
    train = dataset.splits.get("train")
    looks = None if train is None else _looks_of(dataset, tuple(train.ids()))
    return TrainedOn(name, tuple(found), (), looks)


def joined(own: TrainedOn, source: TrainedOn) -> TrainedOn:
    """What a run has seen whose weights started from those of another."""
    looks = [x for x in (own.looks, source.looks) if x is not None]
    have = {frozenset(p.items()) for p in own.patients}
    return TrainedOn(
        own.name,
        (*own.patients, *(p for p in source.patients if frozenset(p.items()) not in have)),
        tuple(dict.fromkeys((*own.unverified, *source.unverified))),
        np.concatenate(looks) if looks else None,
    )


def name_of(workdir: str | Path) -> str:
    """What a run is called in messages and documents: no path of this machine."""
    folder = shipped.resolve(workdir)
    return f"{shipped.PREFIX}{folder.name}" if shipped.is_shipped(folder) else folder.resolve().name


def trained_on(workdir: str | Path, data_dir: str = "") -> TrainedOn:
    """What the weights of a run have seen.

    Args:
      workdir: of a run, packed or not, or "pretrained:NAME".
      data_dir: of prepared data; where a run kept no record, its data tell.

    Returns:
      Its record; with the run itself among the ``unverified`` if nothing is left that says.

    Raises:
      Mistake: if the record, the config or the description of the data is damaged, naming it.
    """
    folder, name = shipped.resolve(workdir), name_of(workdir)
    if (folder / NAME).exists():
        return _read(folder, name)
    config = read_config(folder)
    saved, _ = read_data(folder, config.modality)
    for place in dict.fromkeys((data_dir or config.data.data_dir, config.data.data_dir)):
        config.data.data_dir = place
        try:
            dataset = load_dataset(config.data, config.modality)
        except (Mistake, OSError):
            continue
        if is_same_data(saved, dataset):
            found = of_dataset(name, dataset)
            before = (Path(config.init_from).name,) if config.init_from else ()
            return dataclasses.replace(found, unverified=before)
    return TrainedOn(name, (), (name,))


def _read(folder: Path, name: str) -> TrainedOn:
    path = folder / NAME
    found = read_json(path, remedy="restore it, or delete it and nothing can be verified")
    try:
        patients = tuple({k: tuple(map(str, v)) for k, v in p.items()} for p in found["patients"])
        unverified = tuple(map(str, found["unverified"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise Mistake(f"{path} is damaged ({error!r}); restore it.") from None
    looks = None
    if (folder / LOOKS).exists():
        try:
            with np.load(folder / LOOKS, allow_pickle=False) as arrays:
                looks = np.asarray(arrays["train"], np.uint8).reshape(-1, 16)
        except Exception as error:  # zipfile, zlib and NumPy raise many kinds for a damaged file
            raise Mistake(f"{folder / LOOKS} is damaged ({error}); delete it.") from None
    return TrainedOn(name, patients, unverified, looks)


def content(trained: TrainedOn, asked: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The content of ``trained_on.json``.

    Args:
      trained: what the weights have seen.
      asked: what was found when the run started from the weights of another.

    Returns:
      A document.
    """
    return {
        "about": ABOUT,
        "unverified": list(trained.unverified),
        "init_from": list(asked),
        "patients": [dict(p) for p in trained.patients],
    }


def write(workdir: Path, trained: TrainedOn, asked: Sequence[Mapping[str, Any]] = ()) -> None:
    """Writes a run's record, and the perceptual hashes beside it."""
    if trained.looks is not None and len(trained.looks):
        file = io.BytesIO()
        np.savez_compressed(file, train=trained.looks)
        write_whole(workdir / LOOKS, file.getvalue())
    write_json(workdir / NAME, content(trained, asked))


def asked_at_start(workdir: Path) -> list[dict[str, Any]]:
    """What was found when a run started from the weights of another; [] where it did not."""
    path = workdir / NAME
    if not path.exists():
        return []
    return list(read_json(path).get("init_from", []))


def ask_init_from(
    source: str, dataset: Dataset, on_leak: str, data_dir: str = ""
) -> tuple[TrainedOn, list[dict[str, Any]]]:
    """Asks whether weights to start from were trained on what this run will test.

    Args:
      source: ``config.init_from``.
      dataset: of this run.
      on_leak: ``config.on_leak``.
      data_dir: of prepared data.

    Returns:
      (what those weights have seen, a document a split to record).

    Raises:
      Mistake: if they were, unless ``on_leak`` is "warn".
    """
    seen = trained_on(source, data_dir)
    # Test stays shut for both; validation may have chosen the other run and choose this one.
    found = [ask(seen, dataset, split) for split in ("validation", "test")]
    leaks = [o.text for o in found if o.leak]
    if leaks and on_leak == "refuse":
        raise Mistake(
            f"config.init_from={source}: {' '.join(leaks)} Results would not be those on unseen "
            "images. Start from other weights, divide the data as they were (prepare --split_file "
            "of that preparation), or set config.on_leak=warn, which records it in the results."
        )
    return seen, [o.document() for o in found]


def said(documents: Iterable[Mapping[str, Any]]) -> list[str]:
    """The lines for a terminal: warnings, and what was verified."""
    return [f"{'WARNING: ' if d['warning'] else ''}{d['text']}" for d in documents]
