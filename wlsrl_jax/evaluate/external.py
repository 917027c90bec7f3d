"""Evaluating a finished run again, also on another prepared data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from wlsrl_jax.config.check_fields import check_fields
from wlsrl_jax.data.dataset import Dataset, is_same_data, load_dataset
from wlsrl_jax.data.images.steps import describe
from wlsrl_jax.data.text.names import class_key, known_by, split_quoted, unquoted
from wlsrl_jax.evaluate.predict_split import predict_split
from wlsrl_jax.evaluate.predictions import write_predictions
from wlsrl_jax.evaluate.summary import print_results, results_document
from wlsrl_jax.files import Mistake, read_json, write_json
from wlsrl_jax.models.predictor import make_predict_step
from wlsrl_jax.runs import provenance
from wlsrl_jax.runs import shipped as pretrained
from wlsrl_jax.runs.open import load_trained
from wlsrl_jax.runtime import environment, processes
from wlsrl_jax.runtime.mesh import check_batch_size, make_mesh
from wlsrl_jax.runtime.stop import StopRequest
from wlsrl_jax.tasks import MISSING, MODALITIES, Task, tasks_of


def parse_label_map(text: str) -> dict[str, str]:
    """Parses "THEIRS:OURS,...".

    A name with a comma or a colon stands in double quotes, as in ``"AMD, wet":AMD``.

    Raises:
      Mistake: for an entry without a colon, or two for one class.
    """
    found: dict[str, str] = {}
    for entry in split_quoted(text, ","):
        if not entry.strip():
            continue
        pair = split_quoted(entry, ":")
        if len(pair) != 2:
            raise Mistake(
                f"config.eval.label_map={text!r} must read THEIRS:OURS,THEIRS:OURS; a name with a "
                "comma or a colon stands in double quotes."
            )
        theirs, ours = map(unquoted, pair)
        if class_key(theirs) in map(class_key, found):
            raise Mistake(f"config.eval.label_map={text!r} maps {theirs} twice; keep one.")
        found[theirs] = ours
    return found


def map_tasks(
    saved: dict[str, Any], dataset: Dataset, label_map: dict[str, str]
) -> tuple[tuple[Task, ...], list[str]]:
    """The tasks of a run, read from the labels of another data set.

    A class maps to the one that ``label_map`` says, else to the one of its own name, whatever the
    case and the blanks. One that maps nowhere has no label in the task of all classes, and still
    counts as normal or abnormal.

    Args:
      saved: content of the run's ``data.json``.
      dataset: the other data set.
      label_map: their class -> ours.

    Returns:
      (tasks, their classes that map nowhere).

    Raises:
      Mistake: if ``label_map`` names an unknown class.
    """
    ours, known = saved["classes"], known_by(saved["classes"])
    wanted: dict[str, str] = {}
    for theirs, mine in label_map.items():
        if class_key(theirs) in known_by(dataset.classes) and class_key(mine) in known:
            wanted[class_key(theirs)] = known[class_key(mine)]
        else:
            raise Mistake(
                f"config.eval.label_map has {theirs}:{mine}, but {dataset.name} has "
                f"{', '.join(dataset.classes)} and the run has {', '.join(ours)}."
            )
    own = {c: saved["normal"] if c == dataset.normal else c for c in dataset.classes}
    target = {c: wanted.get(class_key(c), known.get(class_key(own[c]), own[c])) for c in own}
    rules = {rule.name: rule.rule for rule in MODALITIES[saved["modality"]].tasks}
    tasks = []
    for task in tasks_of(saved["tasks"]):
        mapped = []
        for theirs, mine in target.items():
            of = (mine, saved["normal"]) if mine in ours else (theirs, dataset.normal)
            found = rules[task.name](*of)
            mapped.append(task.classes.index(found) if found in task.classes else MISSING)
        tasks.append(dataclasses.replace(task, label_map=tuple(mapped)))
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
    split = config.eval.split
    if split not in dataset.splits:
        raise Mistake(f"config.eval.split={split!r}: {name} has {', '.join(dataset.splits)}.")
    same = name == saved["dataset"] and is_same_data(saved, dataset)
    found = provenance.overlap(
        provenance.trained_on(workdir, data.data_dir),
        provenance.tested_on(dataset, split),
        chosen_counts=not (same and split == "validation"),  # its own: that is what it is for
    )
    if name == saved["dataset"] and not same:
        raise Mistake(
            f"{name} has been prepared anew since {workdir} was trained: {found.text} Restore that "
            "preparation, or train again."
        )
    tasks, unmapped = map_tasks(saved, dataset, parse_label_map(config.eval.label_map))
    ours = known_by(saved["classes"])
    alike = [
        f"{c} as {ours[class_key(c)]}"
        for c in dataset.classes
        if c not in saved["classes"] and class_key(c) in ours
    ]
    if alike:
        processes.say(f"classes of {name} in another spelling: {', '.join(alike)}")
    if unmapped:
        processes.say(f"classes of {name} without a counterpart here: {', '.join(unmapped)}")
    mesh = make_mesh(config.mesh.fsdp)
    check_batch_size("config.eval.batch_size", config.eval.batch_size, mesh)
    predictions = predict_split(
        jax.jit(make_predict_step(run.model, mirror=own.eval.mirror)),
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
    document["provenance"] = [found.document(ids=True)]
    if not processes.is_primary():
        return document
    output = pretrained.results_dir(workdir) / f"evaluation-{name}-{split}"
    output.mkdir(exist_ok=True)
    write_predictions(output / "predictions.csv", tasks, {split: predictions})
    write_json(output / "metrics.json", document)
    print_results(document)
    print(f"results: {output / 'metrics.json'}")
    return document
