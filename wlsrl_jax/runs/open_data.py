"""The data set that a finished run was trained on, opened again."""

from __future__ import annotations

from typing import Any

from wlsrl_jax.data.dataset import Dataset, is_same_data, load_dataset
from wlsrl_jax.files import Mistake
from wlsrl_jax.runs.open import TrainedRun


def open_dataset(run: TrainedRun, data_dir: str = "") -> Dataset:
    """Opens a run's own data set.

    Args:
      run: the run.
      data_dir: of prepared data, where it has moved since; "" is the run's own.

    Returns:
      The data set.

    Raises:
      Mistake: if the data were prepared anew since.
      Mistake: if the data are not there, with the flag that says where they are.
    """
    from wlsrl_jax.data.prepare.place import MANIFEST, dataset_dir  # TFDS is slow to import

    data = run.config.data
    if data_dir:
        data = data.copy_and_resolve_references()
        data.data_dir = data_dir
    try:
        dataset = load_dataset(data, run.modality)
    except Mistake as error:
        if run.data["phantom"] or (dataset_dir(data.dataset, data.data_dir) / MANIFEST).exists():
            raise
        raise Mistake(
            f"{error} If the data of {run.workdir} have moved, --data_dir=DIR says where they are."
        ) from None
    if not is_same_data(run.data, dataset):
        raise Mistake(
            f"{dataset.name} has been prepared anew since {run.workdir} was trained, so images of "
            "any split may have been trained on. Restore that preparation, or train again."
        )
    return dataset


def open_split(run: TrainedRun, split: str, data_dir: str = "") -> Any:
    """Opens a split of a run's own data set; see ``open_dataset``.

    Returns:
      Its source.

    Raises:
      Mistake: also if the split does not exist.
    """
    return split_of(open_dataset(run, data_dir), split)


def split_of(dataset: Dataset, split: str) -> Any:
    """A split of an open data set.

    Raises:
      Mistake: if it does not exist.
    """
    if split not in dataset.splits:
        raise Mistake(f"--split={split}: {dataset.name} has {', '.join(dataset.splits)}.")
    return dataset.splits[split]
