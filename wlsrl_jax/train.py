"""The training loop: build, restore, step, evaluate, save."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wlsrl_jax import checkpoint, environment, evaluate
from wlsrl_jax import train_step as steps
from wlsrl_jax.check_fields import check_fields
from wlsrl_jax.data import pipeline
from wlsrl_jax.metrics import selection_score
from wlsrl_jax.preemption import PreemptedError, StopRequest
from wlsrl_jax.results import print_results, results_document
from wlsrl_jax.run_log import PHANTOM_NOTE, RunLog
from wlsrl_jax.setup_run import Run, build_run
from wlsrl_jax.sharding import batch_sharding, replicated, state_sharding, to_global
from wlsrl_jax.workdir import check_config, keep_lines, locked, read_json, write_json

log = logging.getLogger(__name__)


def train(config: Any, workdir: Path, stop: StopRequest) -> dict[str, Any]:
    """Trains, or goes on training, until the results are written.

    Starts from the workdir's newest readable checkpoint, else from
    ``config.init_from``, else from scratch. Kill it at any moment: the same command goes
    on and ends with the same bits.

    Args:
      config: the config.
      workdir: directory of the run; made if it does not exist.
      stop: looked at between compiled calls.

    Returns:
      The content of ``metrics.json``.

    Raises:
      PreemptedError: after saving, if ``stop`` was asked for.
      ValueError: for a wrong config or a workdir of another run.
    """
    check_fields(config)
    print(f"devices: {environment.check_devices(config.require_accelerator)}", flush=True)
    results = workdir / "metrics.json"
    if (workdir / "config.json").exists():
        check_config(workdir / "config.json", json.loads(config.to_json()))
    if results.exists():
        document = read_json(results)
        print(f"{workdir}: finished run")
        print_results(document)
        return document
    run = build_run(config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--workdir={workdir} cannot be made ({error.strerror}); choose another."
        ) from None
    with locked(workdir):
        _check_data(run, workdir)
        weights = None  # read before anything is written: a wrong init_from leaves no run behind
        if config.init_from and not checkpoint.saved_steps(workdir / "checkpoints"):
            weights = _read_source(config.init_from)
        if jax.process_index() == 0:
            _describe_run(run, workdir)
        document = _train(run, workdir, stop, weights)
    print_results(document)
    print(f"results: {results}")
    return document


def _check_data(run: Run, workdir: Path) -> None:
    """A run must end on the data that it was started on."""
    path = workdir / "data.json"
    if path.exists() and read_json(path)["fingerprint"] != run.dataset.fingerprint:
        raise ValueError(
            f"{workdir} was started on another version of {run.dataset.name}: the manifest has "
            "changed since. Restore that data, or start anew in another --workdir."
        )


def _read_source(source: str) -> dict[str, Any]:
    try:
        return checkpoint.read_weights(Path(source))
    except ValueError as error:
        raise ValueError(f"config.init_from={source}: {error}") from None


def _describe_run(run: Run, workdir: Path) -> None:
    if not (workdir / "config.json").exists():
        write_json(workdir / "environment.json", environment.describe())
        write_json(workdir / "config.json", json.loads(run.config.to_json()))  # last: the mark
    tasks = {
        t.name: {"classes": t.classes, "label_map": t.label_map, "ordinal": t.ordinal}
        for t in run.tasks
    }
    write_json(
        workdir / "data.json",
        {
            "dataset": run.dataset.name,
            "modality": run.dataset.modality,
            "phantom": run.dataset.is_phantom,
            "fingerprint": run.dataset.fingerprint,
            "classes": run.dataset.classes,
            "normal": run.dataset.normal,
            "tasks": tasks,
            "class_weights": run.class_weights,
            "examples": {name: len(source) for name, source in run.dataset.splits.items()},
        },
    )


def _train(
    run: Run, workdir: Path, stop: StopRequest, weights: dict[str, Any] | None
) -> dict[str, Any]:
    config, mesh = run.config, run.mesh
    shapes = run.state_shapes
    shardings = state_sharding(mesh, shapes)
    manager = checkpoint.open_manager(workdir / "checkpoints")
    iterator = iter(
        pipeline.train_batches(
            run.dataset.splits["train"],
            image_size=run.image_size,
            ranges=run.augmentation,
            global_batch_size=config.batch_size,
            seed=config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_threads=config.data.num_threads,
        )
    )
    step_fn = jax.jit(
        steps.make_train_step(
            run.model,
            run.optimizer,
            run.losses,
            dict(config.task_weights),
            seed=config.seed,
            ema_decay=config.optimizer.ema_decay,
            accumulation=config.optimizer.accumulation,
        ),
        donate_argnums=0,
        out_shardings=(shardings, replicated(mesh)),
    )
    restored = checkpoint.restore_latest(manager, shapes, mesh, iterator)
    history, step = [], 0
    if restored is not None:
        iterator, step = restored.iterator, restored.step
        history = checkpoint.read_history(workdir, step)
        print(f"going on from step {step} of {run.total_steps}", flush=True)
    predict = jax.jit(steps.make_predict_step(run.model))
    ids_path = workdir / "example_ids.jsonl"
    keep_lines(ids_path, lambda line: line["step"] <= step)
    eval_every = run.every(config.eval.every_epochs)

    def due(step: int, every: int) -> bool:
        return step > 0 and (step % every == 0 or step == run.total_steps)

    evaluated = {e["step"] for e in history}
    with RunLog(workdir, run.total_steps, step, evaluated, run.dataset.is_phantom) as run_log:
        run_log.say(_opening(run))
        # Compiled before the input threads start and compete for the cores; both at a time.
        with ThreadPoolExecutor(1) as beside:
            if restored is None:
                initial = beside.submit(jax.jit(run.init_state, out_shardings=shardings))
            step_fn.lower(*_step_arguments(run, shapes, shardings)).compile()
        state = initial.result() if restored is None else restored.state
        if weights is not None:
            state = _take_over(state, weights, config.init_from)
        window: list[dict[str, jax.Array]] = []
        window_start, first = time.monotonic(), True

        def report(step: int, window: list[dict[str, jax.Array]]) -> None:
            values = _mean(window, step)
            seconds = time.monotonic() - window_start
            run_log.train(step, values, len(window) * config.batch_size / seconds)

        while True:
            if window and (due(step, eval_every) or due(step, config.checkpoint.every_steps)):
                report(step, window)  # a loss that is not finite is never saved
                window_start, window = time.monotonic(), []
            try:
                if due(step, eval_every) and step not in {e["step"] for e in history}:
                    entry = _validate(run, predict, state, stop)
                    run_log.evaluation(step, entry["results"], entry["score"])
                    history = [*history, entry]
                    checkpoint.write_history(workdir, history)
                    checkpoint.save(manager, state, iterator, history, keep=config.checkpoint.keep)
                    window_start, window = time.monotonic(), []
                elif due(step, config.checkpoint.every_steps):
                    checkpoint.save(manager, state, iterator, history, keep=config.checkpoint.keep)
                stop.check()
            except PreemptedError as error:
                if step > 0:
                    checkpoint.save(manager, state, iterator, history, keep=config.checkpoint.keep)
                    manager.wait_until_finished()
                    run_log.say(f"{error}: saved step {step}; the same command goes on from there")
                raise
            if step == run.total_steps:
                break
            batch = next(iterator)
            if config.log_example_ids:
                with ids_path.open("a", encoding="utf-8") as file:
                    line = {"step": step + 1, "ids": batch["id"].tolist()}
                    file.write(json.dumps(line) + "\n")
            state, metrics = step_fn(
                state, to_global(pipeline.device_batch(batch, run.tasks), mesh)
            )
            step += 1
            if first:
                jax.block_until_ready(metrics)
                run_log.first_step_done(step)
                window_start, first = time.monotonic(), False
                continue
            # Metrics are read when the next step is under way, so the device never waits.
            if window and (step - 1) % config.log_every == 0:
                report(step - 1, window)
                window_start, window = time.monotonic(), []
            window.append(metrics)
        manager.wait_until_finished()
        return _finish(run, workdir, manager, history, shapes, predict, stop, run_log)


def _step_arguments(run: Run, shapes: Any, shardings: Any) -> tuple[Any, Any]:
    """Shapes and shardings of (state, batch)."""
    rows, split = run.config.batch_size, batch_sharding(run.mesh)
    image = jax.ShapeDtypeStruct((rows, *run.image_shape), np.uint8, sharding=split)
    label = jax.ShapeDtypeStruct((rows,), np.int32, sharding=split)
    state = jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings
    )
    return state, {"image": image, "labels": {task.name: label for task in run.tasks}}


def _opening(run: Run) -> str:
    count = sum(math.prod(p.shape) for p in jax.tree.leaves(run.state_shapes.params))
    sizes = ", ".join(f"{len(s)} {name}" for name, s in run.dataset.splits.items())
    lines = [
        f"data: {run.dataset.name} ({run.dataset.modality}), {sizes}",
        f"model: {run.config.model.streams} stream, {count:,} parameters; "
        f"loss: {run.config.loss.name}; {run.total_steps} steps of {run.config.batch_size}",
    ]
    return "\n".join([PHANTOM_NOTE, *lines] if run.dataset.is_phantom else lines)


def _take_over(state: steps.TrainState, weights: dict[str, Any], source: str) -> steps.TrainState:
    params, fresh = checkpoint.transfer(state.params, weights["params"])
    stats, fresh_stats = checkpoint.transfer(state.batch_stats, weights["batch_stats"])
    if len(fresh) == len(jax.tree.leaves(params)):
        raise ValueError(
            f"config.init_from={source}: no parameter has a name and shape of this "
            "model; check config.model."
        )
    for name in fresh + fresh_stats:
        print(f"init_from: {name} starts afresh (absent there or of another shape)")
    copy = jax.tree.map(lambda x: x.copy(), {"params": params, "batch_stats": stats})
    return dataclasses.replace(state, params=params, batch_stats=stats, ema=copy)


def _mean(window: list[dict[str, jax.Array]], step: int) -> dict[str, float]:
    fetched = jax.device_get(window)
    values = {k: float(np.mean([m[k] for m in fetched])) for k in fetched[0]}
    if not math.isfinite(values["loss"]):
        raise ValueError(
            f"the loss is {values['loss']} within the {len(window)} steps up to step {step}. "
            "Lower config.optimizer.learning_rate and start in another --workdir."
        )
    return values


def _predict(run: Run, predict: Any, variables: Any, split: str, stop: StopRequest) -> Any:
    return evaluate.predict_split(
        predict,
        variables,
        run.dataset.splits[split],
        run.tasks,
        image_size=run.image_size,
        batch_size=run.config.eval.batch_size,
        mesh=run.mesh,
        num_threads=run.config.data.num_threads,
        between_batches=stop.check,
    )


def _validate(run: Run, predict: Any, state: steps.TrainState, stop: StopRequest) -> Any:
    predictions = _predict(run, predict, state.ema, "validation", stop)
    results, _ = evaluate.evaluate_predictions(run.tasks, predictions)
    trained = {t: v for t, v in results.items() if run.config.task_weights[t] > 0}
    return {"step": int(state.step), "score": selection_score(trained), "results": results}


def _finish(
    run: Run,
    workdir: Path,
    manager: Any,
    history: checkpoint.History,
    shapes: Any,
    predict: Any,
    stop: StopRequest,
    run_log: RunLog,
) -> dict[str, Any]:
    """Opens the test split, once, with the checkpoint that validation selected."""
    best = checkpoint.best_entry(history)
    assert best is not None  # the last step is always evaluated
    checkpoint.prune(manager, history, run.config.checkpoint.keep)
    try:
        selected = checkpoint.restore_state(manager, best["step"], shapes, run.mesh)
    except Exception as error:  # Orbax raises many kinds for a damaged file
        raise ValueError(
            f"{manager.directory}/{best['step']}, the selected checkpoint, cannot be read. "
            f"Delete the checkpoints from {best['step']} on; the same command makes them anew."
        ) from error
    run_log.say(
        f"testing step {best['step']}, the best of {len(history)} evaluations on validation"
    )
    splits = {s: _predict(run, predict, selected.ema, s, stop) for s in ("validation", "test")}
    evaluate.write_predictions(workdir / "predictions.csv", run.tasks, splits)
    document = results_document(
        run.tasks,
        splits,
        dataset=run.dataset,
        seed=run.config.seed,
        task_weights=run.config.task_weights,
        selected={
            "step": best["step"],
            "score": best["score"],
            "rule": "highest mean validation score, the earliest of equals",
        },
    )
    write_json(workdir / "metrics.json", document)
    return document
