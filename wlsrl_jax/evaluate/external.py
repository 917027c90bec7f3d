"""Evaluating a finished run, on its own test split or on another prepared data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

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
from wlsrl_jax.runs.open import TrainedRun, load_trained
from wlsrl_jax.runs.open_data import split_of
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
                f"--label_map={text!r} must read THEIRS:OURS,THEIRS:OURS; a name with a "
                "comma or a colon stands in double quotes."
            )
        theirs, ours = map(unquoted, pair)
        if class_key(theirs) in map(class_key, found):
            raise Mistake(f"--label_map={text!r} maps {theirs} twice; keep one.")
        found[theirs] = ours
    return found


def map_tasks(
    saved: dict[str, Any], dataset: Dataset, label_map: Mapping[str, str]
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
                f"--label_map has {theirs}:{mine}, but {dataset.name} has "
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
            f"--dataset={dataset.name} has images with the preprocessing steps "
            f"{describe(dataset.preprocess)}, but {workdir} was trained on images with "
            f"{describe(own)}. It takes a set that was prepared {flag}."
        )


def evaluate_run(
    workdir: Path,
    stop: StopRequest,
    *,
    dataset: str = "",
    split: str = "test",
    data_dir: str = "",
    label_map: Mapping[str, str] | None = None,
    batch_size: int = 64,
    on_leak: str = "warn",
) -> dict[str, Any]:
    """Evaluates the selected checkpoint of a run; its own files are left as they are.

    Args:
      workdir: a finished run, a packed one, or "pretrained:NAME".
      stop: looked at between batches.
      dataset: a prepared data set; "" is the run's own.
      split: of it.
      data_dir: where it is prepared; "" is where the run's own was.
      label_map: their class -> ours, where names differ.
      batch_size: images at a time, over all devices.
      on_leak: "warn" where an image was trained on, which is recorded in any case, or "refuse".

    Returns:
      The content of ``evaluation-<dataset>-<split>/metrics.json``.

    Raises:
      Mistake: if the workdir holds no finished run, the data are not fit for it, or an image was
        trained on and ``on_leak`` is "refuse".
    """
    workdir = pretrained.resolve(workdir)
    processes.say(f"devices: {environment.check_devices(require_accelerator=False)}")
    if not (workdir / "metrics.json").exists():
        raise Mistake(f"--workdir={workdir} holds no finished run; train it first.")
    run = load_trained(workdir)
    own, saved = run.config, run.data
    opened, found = _open(run, dataset, split, data_dir)
    if found.leak and on_leak == "refuse":
        raise Mistake(f"--on_leak=refuse: {found.text}")
    tasks, unmapped = map_tasks(saved, opened, label_map or {})
    ours = known_by(saved["classes"])
    alike = [
        f"{c} as {ours[class_key(c)]}"
        for c in opened.classes
        if c not in saved["classes"] and class_key(c) in ours
    ]
    if alike:
        processes.say(f"classes of {opened.name} in another spelling: {', '.join(alike)}")
    if unmapped:
        processes.say(f"classes of {opened.name} without a counterpart here: {', '.join(unmapped)}")
    mesh = make_mesh()
    check_batch_size("--batch_size", batch_size, mesh)
    predictions = predict_split(
        jax.jit(make_predict_step(run.model, mirror=own.eval.mirror)),
        run.variables,
        opened.splits[split],
        tasks,
        image_size=(own.data.height, own.data.width),
        batch_size=batch_size,
        mesh=mesh,
        num_threads=own.data.num_threads,
        between_batches=processes.agree_on(stop).check,
    )
    document = results_document(
        tasks,
        {split: predictions},
        dataset=opened,
        seed=own.seed,
        task_weights=own.task_weights,
        selected=read_json(workdir / "metrics.json")["selected"],
    )
    document["provenance"] = [found.document(ids=True)]
    if not processes.is_primary():
        return document
    output = pretrained.results_dir(workdir) / f"evaluation-{opened.name}-{split}"
    output.mkdir(exist_ok=True)
    write_predictions(output / "predictions.csv", tasks, {split: predictions})
    write_json(output / "metrics.json", document)
    print_results(document)
    print(f"results: {output / 'metrics.json'}")
    return document


def _open(
    run: TrainedRun, dataset: str, split: str, data_dir: str
) -> tuple[Dataset, provenance.Overlap]:
    """Opens a data set for a run; see ``evaluate_run``.

    Returns:
      (the data set, what its split has in common with what the run was trained on).

    Raises:
      Mistake: if it has other preprocessing steps, lacks the split, or is the run's own, prepared
        anew since.
    """
    data, saved = run.config.data.copy_and_resolve_references(), run.data
    name = dataset or data.dataset
    with data.unlocked():
        data.dataset = name
        data.data_dir = data_dir or data.data_dir
        if name != saved["dataset"]:
            data.fold = -1  # folds are of one set
    opened = load_dataset(data, run.modality)
    _check_steps(run.workdir, saved.get("preprocess", ()), opened)
    split_of(opened, split)  # refused here where there is none
    same = name == saved["dataset"] and is_same_data(saved, opened)
    found = provenance.overlap(
        provenance.trained_on(run.workdir, data.data_dir),
        provenance.tested_on(opened, split),
        chosen_counts=not (same and split == "validation"),  # its own: that is what it is for
    )
    if name == saved["dataset"] and not same:
        raise Mistake(
            f"{name} has been prepared anew since {run.workdir} was trained: {found.text} Restore "
            "that preparation, or train again."
        )
    return opened, found
