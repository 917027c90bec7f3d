"""Evaluating a finished run again, also on another prepared data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from wlsrl_jax.config.check_fields import check_fields
from wlsrl_jax.data.dataset import Dataset, is_same_data, load_dataset
from wlsrl_jax.data.images.steps import describe
from wlsrl_jax.evaluate import predict_split as evaluate
from wlsrl_jax.evaluate.summary import print_results, results_document
from wlsrl_jax.files import Mistake, read_json, write_json
from wlsrl_jax.runs import shipped as pretrained
from wlsrl_jax.runs.open import load_trained
from wlsrl_jax.runtime import environment, processes
from wlsrl_jax.runtime.mesh import check_batch_size, make_mesh
from wlsrl_jax.runtime.stop import StopRequest
from wlsrl_jax.tasks import MISSING, TASKS, Task
from wlsrl_jax.train import step as steps


def parse_label_map(text: str) -> dict[str, str]:
    """Parses "THEIRS:OURS,...".

    Raises:
      Mistake: for an entry without a colon, or a class that stands twice.
    """
    pairs = [entry.split(":") for entry in text.split(",") if entry]
    if any(len(pair) != 2 for pair in pairs):
        raise Mistake(f"config.eval.label_map={text!r} must read THEIRS:OURS,THEIRS:OURS.")
    names = [theirs.strip() for theirs, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Mistake(f"config.eval.label_map={text!r} names {', '.join(twice)} twice.")
    return {theirs.strip(): ours.strip() for theirs, ours in pairs}


def map_tasks(
    saved: dict[str, Any], dataset: Dataset, label_map: dict[str, str]
) -> tuple[tuple[Task, ...], list[str]]:
    """The tasks of a run, read from the labels of another data set.

    A class maps to the one that ``label_map`` says, else to the one of its own name. One
    that maps nowhere has no label in the task of all classes, and still counts as normal
    or abnormal.

    Args:
      saved: content of the run's ``data.json``.
      dataset: the other data set.
      label_map: their class -> ours.

    Returns:
      (tasks, their classes that map nowhere).

    Raises:
      Mistake: if ``label_map`` names an unknown class.
    """
    ours = saved["classes"]
    for theirs, mine in label_map.items():
        if theirs not in dataset.classes or mine not in ours:
            raise Mistake(
                f"config.eval.label_map has {theirs}:{mine}, but {dataset.name} has "
                f"{', '.join(dataset.classes)} and the run has {', '.join(ours)}."
            )
    target = {
        c: label_map.get(c, saved["normal"] if c == dataset.normal else c) for c in dataset.classes
    }
    rules = {rule.name: rule.rule for rule in TASKS[saved["modality"]]}
    tasks = []
    for name, task in saved["tasks"].items():
        mapped = []
        for theirs, mine in target.items():
            known = mine in ours
            found = rules[name](*((mine, saved["normal"]) if known else (theirs, dataset.normal)))
            mapped.append(task["classes"].index(found) if found in task["classes"] else MISSING)
        tasks.append(Task(name, tuple(task["classes"]), tuple(mapped), task["ordinal"]))
    return tuple(tasks), [c for c in dataset.classes if target[c] not in ours]


def _check_steps(workdir: Path, own: Sequence[str], dataset: Dataset) -> None:
    """A network knows images that went through the steps of its own data set, and no others."""
    if tuple(own) != dataset.preprocess:
        flag = f"with --preprocess={','.join(own)}" if own else "without --preprocess"
        raise Mistake(
            f"config.eval.dataset={dataset.name!r} has images with the preprocessing steps "
            f"{describe(dataset.preprocess)}, but {workdir} was trained on images with "
            f"{describe(own)}. It takes a set that was prepared {flag}."
        )


def evaluate_workdir(config: Any, workdir: Path, stop: StopRequest) -> dict[str, Any]:
    """Evaluates the selected checkpoint of a run; its own files are left as they are.

    Args:
      config: ``config.eval`` says on what; everything else is the run's own.
      workdir: a finished run, a packed one, or "pretrained:NAME".
      stop: looked at between batches.

    Returns:
      The content of ``evaluation-<dataset>-<split>/metrics.json``.

    Raises:
      Mistake: if the workdir holds no run or a field is wrong.
    """
    check_fields(config)
    workdir = pretrained.resolve(workdir)
    processes.say(f"devices: {environment.check_devices(config.require_accelerator)}")
    if not (workdir / "metrics.json").exists():
        raise Mistake(f"--workdir={workdir} holds no finished run; train it first.")
    run = load_trained(workdir)
    own, saved = run.config, run.data
    name = config.eval.dataset or own.data.dataset
    data = own.data
    with data.unlocked():
        data.dataset = name
        data.data_dir = config.data.data_dir or own.data.data_dir
        data.fold = own.data.fold if name == saved["dataset"] else -1  # folds are of one set
    dataset = load_dataset(data, own.modality)
    _check_steps(workdir, saved.get("preprocess", ()), dataset)
    if name == saved["dataset"] and not is_same_data(saved, dataset):
        raise Mistake(
            f"{name} has been prepared anew since {workdir} was trained, so its test images may "
            "have been trained on. Restore that preparation, or train again."
        )
    split = config.eval.split
    if split not in dataset.splits:
        raise Mistake(f"config.eval.split={split!r}: {name} has {', '.join(dataset.splits)}.")
    tasks, unmapped = map_tasks(saved, dataset, parse_label_map(config.eval.label_map))
    if unmapped:
        processes.say(f"classes of {name} without a counterpart here: {', '.join(unmapped)}")
    mesh = make_mesh(config.mesh.fsdp)
    check_batch_size("config.eval.batch_size", config.eval.batch_size, mesh)
    predictions = evaluate.predict_split(
        jax.jit(steps.make_predict_step(run.model, mirror=own.eval.mirror)),
        run.variables,
        dataset.splits[split],
        tasks,
        image_size=(own.data.height, own.data.width),
        batch_size=config.eval.batch_size,
        mesh=mesh,
        num_threads=config.data.num_threads,
        between_batches=processes.agree_on(stop).check,
    )
    document = results_document(
        tasks,
        {split: predictions},
        dataset=dataset,
        seed=own.seed,
        task_weights=own.task_weights,
        selected=read_json(workdir / "metrics.json")["selected"],
    )
    if not processes.is_primary():
        return document
    output = pretrained.results_dir(workdir) / f"evaluation-{name}-{split}"
    output.mkdir(exist_ok=True)
    evaluate.write_predictions(output / "predictions.csv", tasks, {split: predictions})
    write_json(output / "metrics.json", document)
    print_results(document)
    print(f"results: {output / 'metrics.json'}")
    return document
