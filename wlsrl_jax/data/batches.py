"""From a random-access source of examples to batches, through Grain.

The stream is a function of (source, seed) alone: global batch ``k`` always holds the same
examples with the same augmentation, whatever the number of hosts, and host ``h`` of ``H``
reads the ``h``-th slice of it. The position of the stream is therefore one number, the
count of global batches consumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from wlsrl_jax.data.augment import Augmentation, augment
from wlsrl_jax.data.images.pixels import resize
from wlsrl_jax.data.sampling import sampled_indices
from wlsrl_jax.tasks import Task, task_labels


def _stack(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "image": np.stack([e["image"] for e in examples]),
        "label": np.asarray([e["label"] for e in examples], np.int32),
        "id": np.asarray([e["id"] for e in examples]),
        "group": np.asarray([e["group"] for e in examples]),
    }


def train_batches(
    source: Any,
    *,
    image_size: tuple[int, int],
    ranges: Augmentation,
    global_batch_size: int,
    seed: int,
    sampling: str = "natural",
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    prefetch: int = 16,
) -> grain.IterDataset:
    """Endless shuffled, augmented batches of a training split.

    Each epoch is a fresh permutation; a batch may straddle two epochs, so no example is
    left out. Where classes are not sampled as they occur, each class is gone through in
    permutations of its own; see ``data/sampling.py``.

    Args:
      source: random-access examples with "image", "label", "id" and "group"; its ``labels()``
        are read if ``sampling`` is not "natural".
      image_size: (height, width) of the result, pixels.
      ranges: augmentation.
      global_batch_size: rows over all processes; a multiple of ``process_count``.
      seed: of the order and the augmentation.
      sampling: "natural", "sqrt" or "balanced".
      process_index: this process.
      process_count: number of processes.
      num_threads: threads that read and augment.
      prefetch: batches read ahead.

    Returns:
      A Grain data set of dicts: "image" uint8 ``[B, H, W, C]``, "label" int32 ``[B]``,
      "id" and "group" strings ``[B]``, with B this process's rows.

    Raises:
      Mistake: for an unknown sampling, or one that needs labels which are missing.
    """
    height, width = image_size

    def change(example: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return {**example, "image": augment(example["image"], height, width, ranges, rng)}

    rows = global_batch_size // process_count
    if sampling == "natural":
        examples = grain.MapDataset.source(source).seed(seed).shuffle()
    else:
        order = sampled_indices(source.labels(), sampling, seed)
        examples = order.map(lambda index: source[int(index)]).seed(seed)
    batches = examples.repeat().random_map(change).batch(rows, batch_fn=_stack)
    if process_count > 1:
        batches = batches[process_index::process_count]
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    return batches.to_iter_dataset(options)


def evaluation_batches(
    source: Any,
    *,
    image_size: tuple[int, int],
    global_batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
) -> Iterator[dict[str, Any]]:
    """Every example of a split exactly once, in order, in batches of one shape.

    Args:
      source: random-access examples.
      image_size: (height, width) of the result, pixels.
      global_batch_size: rows over all processes.
      process_index: this process.
      process_count: number of processes.
      num_threads: threads that read and resize.

    Yields:
      Batches as ``train_batches`` gives them, with "index" int64 ``[B]``, the position in
      the source, or -1 for a row that only fills up the last batch.
    """
    height, width = image_size
    rows = global_batch_size // process_count
    total = len(source)

    def prepare(example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "image": resize(example["image"], height, width)}

    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=4 * rows)
    starts = range(
        process_index * rows, -(-total // global_batch_size) * global_batch_size, global_batch_size
    )
    wanted = [i for s in starts for i in range(s, s + rows)]
    mine = grain.MapDataset.source([min(i, total - 1) for i in wanted])
    stream = iter(mine.map(lambda i: prepare(source[i])).to_iter_dataset(options))
    for k in range(0, len(wanted), rows):
        batch = _stack([next(stream) for _ in range(rows)])
        index = np.asarray(wanted[k : k + rows], np.int64)
        batch["index"] = np.where(index < total, index, -1)
        yield batch


def filled_up(rows: np.ndarray, count: int) -> np.ndarray:
    """Repeats the last row until there are ``count``, so that one shape is compiled.

    Args:
      rows: ``[B, ...]``, B from 1 to ``count``.
      count: rows of the result.
    """
    return np.concatenate([rows, np.repeat(rows[-1:], count - len(rows), axis=0)])


def device_batch(batch: dict[str, Any], tasks: Sequence[Task]) -> dict[str, Any]:
    """Keeps what the train step reads: the images and the label of every task.

    Args:
      batch: from ``train_batches``.
      tasks: the tasks of the data set.

    Returns:
      {"image": uint8 ``[B, H, W, C]``, "labels": {task: int32 ``[B]``}}.
    """
    return {"image": batch["image"], "labels": task_labels(tasks, batch["label"])}
