"""Predictions of a split, every example counted exactly once."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from wlsrl_jax.data import batches as pipeline
from wlsrl_jax.evaluate.predictions import Predictions
from wlsrl_jax.runtime import processes
from wlsrl_jax.runtime.mesh import to_global
from wlsrl_jax.tasks import Task, task_labels


def predict_split(
    predict_step: Callable[..., Any],
    variables: Any,
    source: Any,
    tasks: Sequence[Task],
    *,
    image_size: tuple[int, int],
    batch_size: int,
    mesh: Any,
    num_threads: int = 2,
    between_batches: Callable[[], None] = lambda: None,
) -> Predictions:
    """Runs the model over a split.

    Args:
      predict_step: compiled function of (variables, images) -> task -> probabilities.
      variables: model variables.
      source: random-access examples.
      tasks: tasks whose labels to attach.
      image_size: (height, width) of the model's input, pixels.
      batch_size: global batch; the last one is filled up and the filling thrown away.
      mesh: devices.
      num_threads: threads that read and resize.
      between_batches: called after every batch; may raise to stop (preemption).

    Returns:
      Predictions of the ``len(source)`` examples, on every process.
    """
    rows: list[dict[str, Any]] = []
    stream = pipeline.evaluation_batches(
        source,
        image_size=image_size,
        global_batch_size=batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=num_threads,
    )
    for batch in stream:
        output = predict_step(variables, to_global(batch["image"], mesh))
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            output = {
                t: multihost_utils.global_array_to_host_local_array(
                    p, mesh, jax.sharding.PartitionSpec(("data", "fsdp"))
                )
                for t, p in output.items()
            }
        keep = batch["index"] >= 0
        rows.append(
            {
                "index": batch["index"][keep],
                "id": batch["id"][keep],
                "group": batch["group"][keep],
                "label": batch["label"][keep],
                **{f"p/{t}": np.asarray(p)[keep] for t, p in output.items()},
            }
        )
        between_batches()
    joined = _of_all_processes({k: np.concatenate([r[k] for r in rows]) for k in rows[0]})
    return Predictions(
        joined["id"],
        joined["group"],
        task_labels(tasks, joined["label"]),
        {t.name: joined[f"p/{t.name}"] for t in tasks},
    )


def _of_all_processes(mine: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Joins the rows of all processes in the order of their "index"."""
    if jax.process_count() == 1:
        return mine
    buffer = io.BytesIO()
    np.savez(buffer, **mine)  # type: ignore[arg-type]
    parts = [np.load(io.BytesIO(p)) for p in processes.gather_bytes(buffer.getvalue())]
    order = np.argsort(np.concatenate([p["index"] for p in parts]))
    return {k: np.concatenate([p[k] for p in parts])[order] for k in mine}
