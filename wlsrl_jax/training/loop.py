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

from wlsrl_jax.config.fields import check_fields
from wlsrl_jax.data import batches as pipeline
from wlsrl_jax.data.dataset import is_same_data, load_dataset
from wlsrl_jax.evaluate.predict_split import predict_split
from wlsrl_jax.evaluate.predictions import evaluate_predictions, write_predictions
from wlsrl_jax.evaluate.statistics import write_statistics
from wlsrl_jax.evaluate.summary import print_results, results_document
from wlsrl_jax.evaluate.telling import now_and_then
from wlsrl_jax.files import Mistake, plain, read_json, write_json
from wlsrl_jax.metrics import selection_score
from wlsrl_jax.models.predictor import make_predict_step
from wlsrl_jax.runs import checkpoint, provenance
from wlsrl_jax.runs import shipped as pretrained
from wlsrl_jax.runs.documents import read_document
from wlsrl_jax.runs.identity import check_identity, identity
from wlsrl_jax.runs.init_from import take_over
from wlsrl_jax.runs.open import TrainedRun, load_trained
from wlsrl_jax.runs.workdir import check_config, held, write_back
from wlsrl_jax.runtime import environment, processes
from wlsrl_jax.runtime.mesh import batch_sharding, replicated, state_sharding, to_global
from wlsrl_jax.runtime.stop import PreemptedError, StopRequest
from wlsrl_jax.tasks import PHANTOM_NOTE
from wlsrl_jax.training import example_ids
from wlsrl_jax.training import step as steps
from wlsrl_jax.training.log import RunLog
from wlsrl_jax.training.setup import Run, build_run
from wlsrl_jax.training.trial import check_path, try_saving

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
      Mistake: for a wrong config or a workdir of another run.
    """
    check_fields(config)
    if pretrained.is_named(workdir):
        raise Mistake(
            f"--workdir={workdir} comes with the package and is not trained on; name a workdir of "
            f"your own, and start from its weights with --config.init_from={workdir}."
        )
    processes.say(f"devices: {environment.check_devices(config.require_accelerator)}")
    results = workdir / "metrics.json"
    with processes.agreed():
        if (workdir / "config.json").exists():
            check_config(workdir / "config.json", config.to_dict())
    if jax.process_count() > 1:
        own = {"config": config.to_dict(), "commit": environment.git_commit()}
        processes.check_same(own)
    if processes.from_primary(results.exists()):
        document = processes.from_primary(read_json(results) if processes.is_primary() else None)
        processes.say(f"{workdir}: finished run")
        with processes.agreed():
            if processes.is_primary():
                _follow_data(config, workdir)
    else:
        with processes.agreed():
            run = build_run(config)
        stop = processes.agree_on(stop)
        stop.check()
        check_path(workdir)
        with held(workdir):
            with processes.agreed():
                _check_data(run, workdir)
            source = None
            if not checkpoint.exists_in(workdir / "checkpoints"):
                try_saving(workdir, run.mesh)
                if config.init_from:
                    source = _read_source(run)
            document = _train(run, workdir, stop, source)
    if processes.is_primary():
        print_results(document)
        print(f"results: {results}", flush=True)
    return document


def _follow_data(config: Any, workdir: Path) -> None:
    """Keeps the new place of a finished run's data, if they are there."""
    own = read_json(workdir / "config.json")["data"].get("data_dir", "")
    if not config.data.data_dir or config.data.data_dir == own or config.data.dataset == "phantom":
        return
    if is_same_data(read_json(workdir / "data.json"), load_dataset(config.data, config.modality)):
        write_back(workdir / "config.json", config.to_dict(), ("data.data_dir",))
        processes.say(f"config.json: the data are now looked for in {config.data.data_dir}")
    else:
        log.warning(
            "config.data.data_dir=%s holds another preparation than %s was trained on; the run "
            "keeps %s",
            config.data.data_dir,
            workdir,
            own or "the default place",
        )


def _check_data(run: Run, workdir: Path) -> None:
    """A run must end on the data that it was started on."""
    path = workdir / "data.json"
    if path.exists() and read_document(path).get("fingerprint") != run.dataset.fingerprint:
        raise Mistake(
            f"{workdir} was started on another version of {run.dataset.name}: the manifest has "
            "changed since. Restore that data, or start anew in another --workdir."
        )


@dataclasses.dataclass(frozen=True)
class _Source:
    """A run to start from, what it has seen, and how far that is tested here."""

    run: TrainedRun
    seen: provenance.TrainedOn
    asked: list[dict[str, Any]]


def _read_source(run: Run) -> _Source:
    config = run.config
    try:
        trained = load_trained(Path(config.init_from))
    except Mistake as error:
        raise Mistake(f"config.init_from={config.init_from}: {error}") from None
    with processes.agreed():
        seen, asked = provenance.ask_init_from(
            config.init_from, run.dataset, config.on_leak, config.data.data_dir
        )
    for line in provenance.said(asked):
        processes.say(f"init_from: {line}")
    return _Source(trained, seen, asked)


def _describe_run(run: Run, workdir: Path, source: _Source | None) -> None:
    if not processes.is_primary():
        return
    own = provenance.of_dataset(provenance.name_of(workdir), run.dataset)
    if source is not None:
        provenance.write(workdir, provenance.joined(own, source.seen), source.asked)
    elif not (workdir / provenance.NAME).exists():
        if run.config.init_from:  # begun by a version that did not ask
            own = dataclasses.replace(own, unverified=(Path(run.config.init_from).name,))
        provenance.write(workdir, own)
    if not (workdir / "config.json").exists():
        write_json(workdir / "environment.json", environment.describe())
        ordered = json.loads(run.config.to_json())  # to_dict sorts the fields
        write_json(workdir / "config.json", ordered)  # last: the mark
    else:
        write_back(workdir / "config.json", run.config.to_dict())
    write_json(workdir / "data.json", run.description)


def _restored(
    manager: Any, run: Run, found: checkpoint.Restored | None
) -> checkpoint.Restored | None:
    """A checkpoint that was read, once it is known to be of this run."""
    if found is not None:
        where = f"{manager.directory}/{found.step}"
        check_identity(found.identity, run.config.to_dict(), run.description, where)
    return found


def _train(run: Run, workdir: Path, stop: StopRequest, source: _Source | None) -> dict[str, Any]:
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
            sampling=config.data.sampling,
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
            skip_not_finite=config.on_nan == "skip",
            mixup_alpha=config.mixup,
        ),
        donate_argnums=0,
        out_shardings=(shardings, replicated(mesh)),
    )
    restored = _restored(
        manager, run, checkpoint.restore_latest(manager, shapes, mesh, last=run.total_steps)
    )
    own = identity(config.to_dict(), run.description)

    def save(state: steps.TrainState, history: checkpoint.History) -> None:
        checkpoint.save(manager, state, history, keep=config.checkpoint.keep, identity=own)

    history, step = [], 0
    if restored is not None:
        step = restored.step
        iterator.set_state({"next_index": restored.global_batches})
        history = checkpoint.read_history(workdir, step)
        processes.say(f"going on from step {step} of {run.total_steps}")
        with processes.agreed():
            _describe_run(run, workdir, None)
    predict = jax.jit(make_predict_step(run.model, mirror=config.eval.mirror))
    example_ids.forget_after(workdir, step)
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
        if source is not None and restored is None:
            state = _take_over(run, state, source.run)
        window: list[_Done] = []
        window_start, began = time.monotonic(), step

        def report(step: int, window: list[_Done]) -> None:
            values = _mean(window, config.on_nan, manager)
            seconds = time.monotonic() - window_start
            run_log.train(step, values, len(window) * config.batch_size / seconds)

        while True:
            if window and (due(step, eval_every) or due(step, config.checkpoint.every_steps)):
                report(step, window)  # a loss that is not finite is never saved
                window_start, window = time.monotonic(), []
            try:
                if due(step, eval_every) and step not in {e["step"] for e in history}:
                    entry = processes.from_primary(_validate(run, predict, state, stop))
                    run_log.evaluation(step, entry["results"], entry["score"])
                    history = [*history, entry]
                    checkpoint.write_history(workdir, history)
                    save(state, history)
                    window_start, window = time.monotonic(), []
                elif due(step, config.checkpoint.every_steps):
                    save(state, history)
                stop.check()
            except PreemptedError as error:
                if window:
                    report(step, window)
                if step > 0:
                    save(state, history)
                    checkpoint.wait(manager)
                    run_log.say(f"{error}: saved step {step}; the same command goes on from there")
                raise
            if step == run.total_steps:
                break
            batch = next(iterator)
            state, metrics = step_fn(
                state, to_global(pipeline.device_batch(batch, run.tasks), mesh)
            )
            step += 1
            done = _Done(step, batch["id"], metrics)
            if step == began + 1:
                jax.block_until_ready(metrics)
                _mean([done], config.on_nan, manager)  # not finite: nothing is written
                if restored is None:
                    with processes.agreed():
                        _describe_run(run, workdir, source)
                run_log.first_step_done(step)
                window_start = time.monotonic()
            if config.log_example_ids:
                example_ids.record(workdir, step, batch["id"])
            if step > began + 1:
                # Metrics are read when the next step is under way, so the device never waits.
                if window and (step - 1) % config.log_every == 0:
                    report(step - 1, window)
                    window_start, window = time.monotonic(), []
                window.append(done)
        checkpoint.wait(manager)
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
        f"model: {' + '.join(run.model.streams)}, {count:,} parameters; "
        f"loss: {run.config.loss.name}; {run.total_steps} steps of {run.config.batch_size}",
    ]
    if run.config.data.sampling != "natural":
        seen = ", ".join(f"{count} {name}" for name, count in run.seen_in_epoch.items())
        lines.insert(1, f"sampling: {run.config.data.sampling}, an epoch shows {seen}")
    return "\n".join([PHANTOM_NOTE, *lines] if run.dataset.is_phantom else lines)


def _take_over(run: Run, state: steps.TrainState, source: TrainedRun) -> steps.TrainState:
    params, stats, told = take_over(run.tasks, state.params, state.batch_stats, source)
    for line in told:
        processes.say(f"init_from: {line}")
    copy = jax.tree.map(lambda x: x.copy(), {"params": params, "batch_stats": stats})
    return dataclasses.replace(state, params=params, batch_stats=stats, ema=copy)


@dataclasses.dataclass(frozen=True)
class _Done:
    """A step that was started: its number, the ids of this process's rows, what it gives."""

    step: int
    ids: np.ndarray
    metrics: dict[str, jax.Array]


def _mean(window: list[_Done], on_nan: str, manager: Any) -> dict[str, float]:
    """Mean metrics of steps, skipped ones left out.

    Raises:
      Mistake: for a loss or gradient that is not finite, unless such steps are skipped; names
        the step, the examples and the last checkpoint.
    """
    fetched = jax.device_get([done.metrics for done in window])
    good = [m for m in fetched if math.isfinite(m["loss"]) and math.isfinite(m["gradient_norm"])]
    skipped = len(fetched) - len(good)
    if skipped and on_nan == "stop":
        done, metrics = next(
            pair for pair in zip(window, fetched, strict=True) if pair[1] not in good
        )
        ids = [name for part in processes.gather(done.ids.tolist()) for name in part]
        checkpoint.wait(manager)
        last = checkpoint.last_step(manager)
        raise Mistake(
            f"step {done.step}: the loss is {metrics['loss']}, the gradient's norm "
            f"{metrics['gradient_norm']}. The batch: {', '.join(ids)}. The last good checkpoint "
            f"is {'none' if last is None else f'{manager.directory}/{last}'}. Lower "
            "config.optimizer.learning_rate in another --workdir, look at these images, or set "
            "config.on_nan=skip."
        )
    values = {k: float(np.mean([m[k] for m in good or fetched])) for k in fetched[0]}
    return {**values, "skipped_steps": skipped} if skipped else values


def _predict(run: Run, predict: Any, variables: Any, split: str, stop: StopRequest) -> Any:
    return predict_split(
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
    """A result as it is stored: what is undefined is None."""
    predictions = _predict(run, predict, state.ema, "validation", stop)
    results, _ = evaluate_predictions(run.tasks, predictions)
    trained = {t: v for t, v in results.items() if run.config.task_weights[t] > 0}
    score = selection_score(trained)
    return plain({"step": int(state.step), "score": score, "results": results})


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
        selected = _restored(
            manager,
            run,
            checkpoint.restore_state(manager, best["step"], shapes, run.mesh, last=run.total_steps),
        )
    except checkpoint.DamagedError as error:
        raise Mistake(
            f"{manager.directory}/{best['step']}, the selected checkpoint, cannot be read. "
            f"Delete the checkpoints from {best['step']} on; the same command makes them anew."
        ) from error
    assert selected is not None
    defined = sum(checkpoint.is_defined(entry) for entry in history)
    if defined:
        why = f"the best of {defined} evaluations on validation"
        rule = "highest mean validation score, the earliest of equals"
    else:
        why = f"the last one: validation ({len(run.dataset.splits['validation'])} images) has no "
        why += "defined score, so nothing was selected"
        rule = "the last step, because no validation score is defined"
    run_log.say(f"testing step {best['step']}, {why}")
    variables = selected.state.ema
    try:
        splits = {s: _predict(run, predict, variables, s, stop) for s in ("validation", "test")}
    except PreemptedError as error:
        run_log.say(f"{error}: saved step {run.total_steps}; the same command tests the run anew")
        raise
    document = results_document(
        run.tasks,
        splits,
        dataset=run.dataset,
        seed=run.config.seed,
        task_weights=run.config.task_weights,
        selected={
            "step": best["step"],
            "score": best["score"],
            "rule": rule,
        },
    )
    asked = processes.from_primary(provenance.asked_at_start(workdir))
    if asked:
        document["provenance"] = asked
    with processes.agreed():
        if processes.is_primary():
            write_predictions(workdir / "predictions.csv", run.tasks, splits)
            trained = [t for t in run.tasks if run.config.task_weights[t.name] > 0]
            tell = now_and_then(run_log.say)
            write_statistics(workdir, trained, splits, run.dataset, tell=tell)
            write_json(workdir / "metrics.json", document)  # last: the mark of a finished run
    return document
