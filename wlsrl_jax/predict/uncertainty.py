"""Several predictions an image, their mean, and how uncertain it is.

    wlsrl uncertainty --workdir=RUN --method=tta
    wlsrl uncertainty --workdir=RUN --method=ensemble --ensemble=RUN2,RUN3

writes ``uncertainty-METHOD-SPLIT/`` into the workdir: ``predictions.csv`` and ``referral.json``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from wlsrl_jax import cli
from wlsrl_jax.cli import Table, print_table
from wlsrl_jax.data.augment import Augmentation, augment
from wlsrl_jax.data.batches import evaluation_batches
from wlsrl_jax.data.dataset import Dataset
from wlsrl_jax.data.text.tables import float32_cell, safe_cell, write_csv
from wlsrl_jax.evaluate.predictions import label_cells, probability_columns
from wlsrl_jax.evaluate.referral import referral_curve, uncertainties
from wlsrl_jax.files import Mistake, write_json
from wlsrl_jax.metrics import evaluate_task
from wlsrl_jax.models.predictor import make_predict_step
from wlsrl_jax.runs import provenance
from wlsrl_jax.runs.open import TrainedRun, load_trained
from wlsrl_jax.runs.open_data import open_dataset, split_of
from wlsrl_jax.runs.shipped import results_dir
from wlsrl_jax.tasks import task_labels

METHODS = ("single", "tta", "dropout", "ensemble")
BATCH = 64
SHOWN = ("accuracy", "balanced_accuracy", "auroc", "qwk", "log_loss", "ece")

Members = Callable[[np.ndarray, int], list[dict[str, jax.Array]]]
"""Function of (uint8 images ``[B, H, W, C]``, number of the first) -> a prediction a member."""


def single(run: TrainedRun) -> Members:
    """The run's own prediction."""
    predict = run.predictor()
    return lambda images, first: [predict(jnp.asarray(images))]


def test_time_augmentation(run: TrainedRun, count: int, seed: int = 0) -> Members:
    """The image itself, and variants drawn as in training (Wang et al., Neurocomputing 2019).

    A variant is a function of (seed, number of the image, member) alone.
    """
    predict = run.predictor()
    height, width, _ = run.image_shape
    ranges = Augmentation(**run.config.augment)

    def members(images: np.ndarray, first: int) -> list[dict[str, jax.Array]]:
        found = [predict(jnp.asarray(images))]
        for member in range(1, count):
            rngs = [
                np.random.Generator(np.random.Philox(key=[seed, (first + i) << 16 | member]))
                for i in range(len(images))
            ]
            changed = [
                augment(image, height, width, ranges, rng)
                for image, rng in zip(images, rngs, strict=True)
            ]
            found.append(predict(jnp.asarray(np.stack(changed))))
        return found

    return members


def monte_carlo_dropout(run: TrainedRun, count: int, seed: int = 0) -> Members:
    """Dropout left on, running statistics of the norms (Gal and Ghahramani, ICML 2016).

    Raises:
      Mistake: if the run was trained without dropout.
    """
    rate = run.config.model.dropout
    if not rate:
        raise Mistake(
            f"--method=dropout: {run.workdir} was trained without dropout (config.model.dropout)."
        )
    variables = jax.device_put(run.variables)
    step = make_predict_step(run.model, mirror=run.config.eval.mirror)

    @jax.jit
    def predict(images: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        def drop(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if not isinstance(context.module, nn.Dropout):
                return call(*args, **kwargs)
            kept = jax.random.bernoulli(key, 1.0 - rate, args[0].shape)
            return jnp.where(kept, args[0] / (1.0 - rate), 0.0)

        with nn.intercept_methods(drop):
            return step(variables, images)  # a member is one network, which sees both sides

    def members(images: np.ndarray, first: int) -> list[dict[str, jax.Array]]:
        start = jax.random.fold_in(jax.random.key(seed), first)
        keys = [jax.random.fold_in(start, member) for member in range(count)]
        return [predict(jnp.asarray(images), key) for key in keys]

    return members


def ensemble(runs: Sequence[TrainedRun]) -> Members:
    """Runs on the same data (Lakshminarayanan et al., NeurIPS 2017).

    Raises:
      Mistake: if the runs differ in their tasks or input, naming the one that does.
    """
    for other in runs[1:]:
        if other.tasks != runs[0].tasks or other.image_shape != runs[0].image_shape:
            raise Mistake(f"--ensemble: {other.workdir} has other tasks, classes or image size.")
    predictors = [run.predictor() for run in runs]
    return lambda images, first: [predict(jnp.asarray(images)) for predict in predictors]


def ask_members(
    runs: Sequence[TrainedRun], dataset: Dataset, split: str, data_dir: str = ""
) -> list[provenance.Overlap]:
    """Asks of every member whether what is tested was trained on.

    Args:
      runs: the members, of which the first one's data are tested.
      dataset: of the first one.
      split: that is tested.
      data_dir: of prepared data, if it has moved.

    Returns:
      What each has in common with the split.

    Raises:
      Mistake: if another member than the first was trained on an image that is tested, or on
        other data.
    """
    found = [
        provenance.ask(provenance.trained_on(run.workdir, data_dir), dataset, split) for run in runs
    ]
    for run, seen in zip(runs[1:], found[1:], strict=True):
        if seen.leak:
            raise Mistake(
                f"--ensemble: {run.workdir} was trained on images that are tested here: {seen.text}"
                " Members are runs on one division of the data, with other seeds."
            )
        if run.data["fingerprint"] != runs[0].data["fingerprint"]:
            raise Mistake(
                f"--ensemble: {run.workdir} was trained on other data, or on another preparation "
                f"of it: {seen.text} Members are runs on one division of the data."
            )
    return found


def predict_members(
    run: TrainedRun, source: Any, members: Members
) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
    """Predictions of every member on a split.

    Args:
      run: for the size of its input.
      source: of the split.
      members: what predicts.

    Returns:
      (ids, labels of the data set ``[N]``, task -> ``[M, N, C]``).
    """
    ids: list[str] = []
    labels: list[int] = []
    parts: list[dict[str, np.ndarray]] = []
    stream = evaluation_batches(
        source, image_size=run.image_shape[:2], global_batch_size=BATCH,
        num_threads=run.config.data.num_threads,
    )  # fmt: skip
    for batch in stream:
        found, keep = members(batch["image"], len(ids)), batch["index"] >= 0
        parts.append(
            {t.name: np.stack([np.asarray(m[t.name])[keep] for m in found]) for t in run.tasks}
        )
        ids += batch["id"][keep].tolist()
        labels += batch["label"][keep].tolist()
    joined = {t.name: np.concatenate([p[t.name] for p in parts], axis=1) for t in run.tasks}
    return ids, np.asarray(labels), joined


def _write_rows(
    path: Path, run: TrainedRun, ids: Sequence[str], labels: dict[str, np.ndarray],
    mean: dict[str, np.ndarray], measures: dict[str, dict[str, np.ndarray]],
) -> None:  # fmt: skip
    names = [t.name for t in run.tasks]
    uncertain = [(n, m) for n in names for m in measures[n]]

    def rows() -> Iterator[list[str]]:
        columns = probability_columns(run.tasks)
        yield ["id", *names, *columns, *(f"{n}/{m}" for n, m in uncertain)]
        for k, name in enumerate(ids):
            values = [v for n in names for v in mean[n][k]]
            values += [measures[n][m][k] for n, m in uncertain]
            truth = label_cells(run.tasks, labels, k)
            yield [safe_cell(str(name)), *truth, *map(float32_cell, values)]

    write_csv(path, rows())


def _members(args: argparse.Namespace, runs: Sequence[TrainedRun]) -> Members:
    if args.method == "ensemble":
        return ensemble(runs)
    if args.method == "tta":
        return test_time_augmentation(runs[0], args.members, args.seed)
    if args.method == "dropout":
        return monte_carlo_dropout(runs[0], args.members, args.seed)
    return single(runs[0])


def _check(args: argparse.Namespace) -> None:
    if bool(args.ensemble) != (args.method == "ensemble"):
        raise Mistake("--ensemble=RUN2,RUN3 goes with --method=ensemble, and the reverse.")


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = cli.Parser(
        "uncertainty",
        description="Uncertainty of a run's predictions, and what referring the uncertain brings.",
    )
    cli.add_workdir(parser)
    cli.add_choice(
        parser, "--method", METHODS,
        "what the members are: the run itself, test-time augmentation, dropout, several runs",
    )  # fmt: skip
    parser.add_argument(
        "--ensemble", type=cli.path_list, default=(), metavar="WORKDIR,...", help="the other runs"
    )
    parser.add_argument(
        "--members", type=cli.number(2), default=8, help="of tta and dropout; default: %(default)s"
    )
    cli.add_split(parser, ["validation", "test"])
    parser.add_argument(
        "--seed",
        type=cli.number(0, 2**32 - 1),
        default=0,
        help="of tta and dropout; default: %(default)s",
    )
    cli.add_data_dir(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    args = make_parser().parse_args(argv)
    _check(args)
    data_dir = args.data_dir or ""
    runs = [load_trained(workdir) for workdir in (args.workdir, *args.ensemble)]
    run, members = runs[0], _members(args, runs)
    dataset = open_dataset(run, data_dir)
    source = split_of(dataset, args.split)
    asked = [o.document(ids=True) for o in ask_members(runs, dataset, args.split, data_dir)]
    ids, raw, found = predict_members(run, source, members)
    labels = task_labels(run.tasks, raw)
    mean = {name: p.mean(axis=0, dtype=np.float64) for name, p in found.items()}
    measures = {name: uncertainties(p.astype(np.float64)) for name, p in found.items()}
    count = next(iter(found.values())).shape[0]
    document: dict[str, Any] = {
        "note": run.note, "method": args.method, "members": count, "split": args.split,
        "seed": args.seed, "provenance": asked, "metrics": {}, "referral": {},
    }  # fmt: skip
    title = f"{args.method}, {count} members, {args.split}"
    table = Table(title="\n".join(filter(None, [title, run.note])))
    for column in ("task", *SHOWN, "accuracy, 20% referred"):
        table.add_column(column.replace("_", " "), justify="left" if column == "task" else "right")
    for task in run.tasks:
        values, _ = evaluate_task(task, labels[task.name], mean[task.name])
        curve = referral_curve(
            task, labels[task.name], mean[task.name], measures[task.name]["entropy"]
        )
        document["metrics"][task.name] = values
        document["referral"][task.name] = curve
        cells = [f"{values[m]:.3f}" if m in values else "-" for m in SHOWN]
        table.add_row(task.name, *cells, f"{curve['accuracy'][4]:.3f}")
    output = results_dir(run.workdir) / f"uncertainty-{args.method}-{args.split}"
    output.mkdir(exist_ok=True)
    _write_rows(output / "predictions.csv", run, ids, labels, mean, measures)
    write_json(output / "referral.json", document)
    print_table(table)
    print("\n".join(provenance.said(asked)))
    print(f"results: {output}")
