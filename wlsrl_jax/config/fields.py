"""Every field of a config, once: its name, default, range and meaning, and whether it is free.

``wlsrl fields`` prints the table. The default of a field that is added must be what was done
before there was one: a run that was started without the field goes on as if it had the default.
Importing this imports no JAX.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from wlsrl_jax.files import Mistake, flatten, unflatten
from wlsrl_jax.tasks import MODALITIES


@dataclasses.dataclass(frozen=True)
class Range:
    """Which values a field may have.

    Attributes:
      text: what stands after "must be".
      holds: whether a value of the field's type is inside.
    """

    text: str
    holds: Callable[[Any], bool]


@dataclasses.dataclass(frozen=True)
class Listed:
    """Names that are listed elsewhere, and checked there when the field is used.

    Attributes:
      place: the list or table, as "losses.LOSSES"; ``training/fields_table.py`` looks there.
    """

    place: str


@dataclasses.dataclass(frozen=True)
class Field:
    """A row of ``FIELDS``.

    Attributes:
      name: dotted; a part ``TASK`` stands for the name of each task of the modality.
      default: which also says the type.
      range: which values it may have; None: any of its type.
      meaning: of its value, with the unit.
      free: whether it may change when a run is resumed, for it changes no result.
    """

    name: str
    default: Any
    range: Range | Listed | None
    meaning: str
    free: bool = False


def _number(text: str, holds: Callable[[Any], bool]) -> Range:
    return Range(text, lambda value: -math.inf < value < math.inf and holds(value))


def _one_of(*names: str) -> Range:
    return Range(f"one of {', '.join(names)}", lambda value: value in names)


def _all_positive(values: Sequence[Any]) -> bool:
    return all(type(v) is int and v > 0 for v in values)


POSITIVE = _number("> 0", lambda v: v > 0)
NOT_NEGATIVE = _number(">= 0", lambda v: v >= 0)
FROM_MINUS_ONE = _number(">= -1", lambda v: v >= -1)
FROM_SIXTEEN = _number(">= 16", lambda v: v >= 16)
FRACTION = _number("in [0, 1]", lambda v: 0 <= v <= 1)
BELOW_ONE = _number("in [0, 1)", lambda v: 0 <= v < 1)
WIDTHS = Range("whole numbers > 0, as 16,32,64", _all_positive)

# fmt: off
FIELDS = (
    Field("name", "oct", None,
          "part of the default workdir, runs/<name>-<dataset>; by default the modality"),
    Field("modality", "oct", Listed("tasks.MODALITIES"), "kind of the images"),
    Field("seed", 0, NOT_NEGATIVE, "of initialisation, order, augmentation and dropout"),
    Field("num_epochs", 10.0, POSITIVE, "length of the training"),
    Field("batch_size", 32, POSITIVE, "global, over all devices"),
    Field("require_accelerator", False, None, "True: running on CPU is an error", free=True),
    Field("allow_missing_classes", False, None, "True: train although a class has no example"),
    Field("init_from", "", None, 'workdir whose weights to start from, or "pretrained:octdl"'),
    Field("on_leak", "refuse", _one_of("refuse", "warn"),
          "at weights of init_from that saw images tested here; warn: record it"),
    Field("on_nan", "stop", _one_of("stop", "skip"),
          "at a loss that is not finite; skip: leave such steps out", free=True),
    Field("log_every", 10, POSITIVE, "steps", free=True),
    Field("report", True, None, "make report.html at the end", free=True),
    Field("log_example_ids", False, None,
          "True: write the ids of every batch to example_ids.jsonl", free=True),

    Field("data.dataset", "phantom", None, "phantom, a published set, or the name of your own"),
    Field("data.data_dir", "", None,
          'of prepared data; "" is TFDS_DATA_DIR, then the default of TFDS', free=True),
    Field("data.fold", -1, FROM_MINUS_ONE,
          "of a cross-validation that was prepared; -1 is the main division"),
    Field("data.height", 64, FROM_SIXTEEN, "pixels, of the model's input"),
    Field("data.width", 64, FROM_SIXTEEN, "pixels, of the model's input"),
    Field("data.num_threads", 2, POSITIVE, "that read and augment", free=True),
    Field("data.cache_mib", 512.0, NOT_NEGATIVE,
          "MiB of memory for decoded images of prepared data; 0 keeps none", free=True),
    Field("data.sampling", "natural", Listed("data.sampling.POWERS"),
          "natural: classes as they occur; sqrt, balanced: rare ones more often"),
    Field("data.phantom.train", 2000, POSITIVE, "phantoms in the training split"),
    Field("data.phantom.validation", 400, POSITIVE, "phantoms in the validation split"),
    Field("data.phantom.test", 1000, POSITIVE, "phantoms in the test split"),
    Field("data.phantom.seed", 0, NOT_NEGATIVE, "of the phantoms"),

    # See data/augment.py; 0 switches one off.
    Field("augment.flip", 0.5, FRACTION, "probability of a left-right mirror image"),
    Field("augment.rotation", 0.0, NOT_NEGATIVE, "degrees, at most; 180 is any rotation"),
    Field("augment.shift", 0.0, NOT_NEGATIVE, "fraction of the side, at most"),
    Field("augment.scale", 0.0, NOT_NEGATIVE, "relative zoom in or out, at most"),
    Field("augment.brightness", 0.0, NOT_NEGATIVE, "fraction of full range, at most"),
    Field("augment.contrast", 0.0, NOT_NEGATIVE, "relative, at most"),
    Field("augment.gamma", 0.0, NOT_NEGATIVE, "of log gamma, at most"),
    Field("augment.speckle", 0.0, NOT_NEGATIVE,
          "standard deviation of multiplicative noise, at most"),
    Field("augment.noise", 0.0, NOT_NEGATIVE,
          "standard deviation of additive noise, fraction of full range, at most"),

    Field("mixup", 0.0, NOT_NEGATIVE,
          "alpha of the Beta distribution of mixup, on the device; 0 mixes nothing"),

    # See models/by_name.py.
    Field("model.streams", "dual", Listed("models.by_name.STREAMS"),
          "both streams, or one alone"),
    Field("model.separable", "plain", Listed("models.trunks.SEPARABLE"),
          "what the separable stream is"),
    Field("model.standard", "plain", Listed("models.trunks.STANDARD"),
          "what the standard stream is"),
    Field("model.preset", "small", Listed("models.by_name.PRESETS"), "its size"),
    Field("model.widths", (), WIDTHS, "channels of each stage; () is the trunk's, or the preset's"),
    Field("model.blocks", 0, NOT_NEGATIVE, "convolutions of each stage; 0 is the preset's"),
    Field("model.space_to_depth", 1, POSITIVE,
          "side of pixel blocks made channels first; 1 is none"),
    Field("model.hidden", 0, NOT_NEGATIVE,
          "width of the shared dense layer; 0 is the preset's"),
    Field("model.fusion", "concat", Listed("models.dual_stream.FUSIONS"),
          "how the features of the streams become one vector"),
    Field("model.norm", "batch", Listed("models.trunks.NORMS"), "normalisation"),
    Field("model.dropout", 0.0, BELOW_ONE, "rate before the heads"),
    Field("model.dtype", "float32", Listed("models.by_name.DTYPES"), "of the computation"),
    Field("model.conv_implementation", "auto", Listed("ops.IMPLEMENTATIONS"),
          "auto: by platform; xla: no compiled kernels; lax: plain"),

    # See losses.py; a loss reads the parameters that it has.
    Field("loss.name", "wlsrl", Listed("losses.LOSSES"), "of every task"),
    Field("loss.by_task.TASK", "", Listed("losses.LOSSES"),
          'another loss for this task; "" is loss.name'),
    Field("loss.variant", "target", Listed("losses.VARIANTS"),
          "of wlsrl: where the class weights apply"),
    Field("loss.smoothing", 0.1, FRACTION, "of wlsrl, ls and gaussian: mass spread over classes"),
    Field("loss.gamma", 2.0, NOT_NEGATIVE, "of focal: focusing strength"),
    Field("loss.sigma", 1.0, POSITIVE, "of gaussian: width, in grades"),
    Field("loss.scale", 1.0, POSITIVE, "of sord: sharpness"),
    Field("loss.class_weights", "inverse", Listed("training.class_weights.SCHEMES"),
          "how they follow from the class counts of training"),
    Field("loss.beta", 0.999, BELOW_ONE, "of class_weights=effective_number"),
    Field("task_weights.TASK", 1.0, NOT_NEGATIVE, "lambda; 0 switches the task's loss off"),

    Field("optimizer.name", "adamw", Listed("training.optimizer.OPTIMIZERS"), "the rule"),
    Field("optimizer.learning_rate", 2e-3, POSITIVE, "after the warm-up, where it is largest"),
    Field("optimizer.final_fraction", 0.01, FRACTION, "of the learning rate, at the last step"),
    Field("optimizer.warmup_epochs", 1.0, NOT_NEGATIVE, "epochs in which the rate rises"),
    Field("optimizer.weight_decay", 0.05, NOT_NEGATIVE, "strength, for kernels"),
    Field("optimizer.momentum", 0.9, BELOW_ONE, "of SGD; decay of AdamW's first moment"),
    Field("optimizer.b2", 0.999, BELOW_ONE, "decay of AdamW's second moment"),
    Field("optimizer.clip_norm", 1.0, NOT_NEGATIVE, "largest gradient norm; 0 does not clip"),
    Field("optimizer.ema_decay", 0.99, BELOW_ONE,
          "of the average of weights that is evaluated; 0 is no average"),
    Field("optimizer.accumulation", 1, POSITIVE, "micro-batches per step"),

    Field("checkpoint.every_steps", 100, POSITIVE, "besides every evaluation", free=True),
    Field("checkpoint.keep", 2, POSITIVE,
          "recent ones; the selected one is kept as well", free=True),

    Field("eval.every_epochs", 1.0, POSITIVE, "epochs between two evaluations"),
    Field("eval.batch_size", 64, POSITIVE, "global, over all devices", free=True),
    Field("eval.mirror", False, None,
          "True: probabilities are the mean over an image and its mirror image"),

    Field("mesh.fsdp", 1, POSITIVE, "devices that share one copy of the parameters", free=True),
)
# fmt: on

FREE_FIELDS = tuple(field.name for field in FIELDS if field.free)
OF_TASKS = tuple(f.name.removesuffix(".TASK") for f in FIELDS if f.name.endswith(".TASK"))
"""Fields with one per task: no default makes up for a head."""


def all_fields() -> tuple[Field, ...]:
    """The table, with a row for each parameter of a loss that was added."""
    from wlsrl_jax.losses import loss_parameters  # not before: it imports JAX

    known = {field.name for field in FIELDS}
    added = (
        Field(f"loss.{name}", default, None, "of a loss that was added; see losses.py")
        for name, default in loss_parameters().items()
        if f"loss.{name}" not in known
    )
    return (*FIELDS, *added)


def fields_of(modality: str) -> tuple[Field, ...]:
    """The fields of a config.

    Args:
      modality: a key of ``MODALITIES``.

    Returns:
      The rows of ``all_fields``, those for tasks once for each task of the modality.
    """
    own = {"name": modality, "modality": modality}
    tasks = [rule.name for rule in MODALITIES[modality].tasks]
    return tuple(
        dataclasses.replace(field, name=name, default=own.get(name, field.default))
        for field in all_fields()
        for name in dict.fromkeys(field.name.replace("TASK", task) for task in tasks)
    )


def base_config(modality: str, dataset: str = "phantom") -> ConfigDict:
    """Returns the defaults; files under ``configs/`` set what depends on the data.

    Args:
      modality: "oct" or "fundus".
      dataset: "phantom", a published data set, or the name under which one of your own is
        prepared; whether there is such a set is seen where it is opened.
    """
    config = ConfigDict(unflatten({f.name: f.default for f in fields_of(modality)}))
    config.data.dataset = dataset
    return config.lock()  # so that a misspelt field of a config file is an error there


def bound_fields(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, of those of a flattened config, that a run must end with as it began."""
    return {name: value for name, value in flat.items() if name not in FREE_FIELDS}


def check_fields(config: ConfigDict) -> None:
    """Checks names, types and ranges of a config's fields.

    Args:
      config: from a file, flags or a program.

    Raises:
      Mistake: lists each field that does not exist, or is missing, or of another type than its
        default; else each that is out of range.
    """
    fields = config.to_dict()
    modality = fields.get("modality")
    if not isinstance(modality, str) or modality not in MODALITIES:
        raise Mistake(f"config.modality={modality!r} must be one of {', '.join(MODALITIES)}.")
    known = {field.name: field for field in fields_of(modality)}
    found = flatten(fields)
    if wrong := _of_other_kind(found, known) or _out_of_range(found, known):
        raise Mistake("; ".join(wrong) + ".")


def _of_other_kind(found: Mapping[str, Any], known: Mapping[str, Field]) -> list[str]:
    wrong = []
    for name in sorted(found.keys() - known.keys()):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; is it config.{near[0]}?" if near else ""
        wrong.append(f"config.{name} does not exist{hint}")
    wrong += [f"config.{name} is missing" for name in sorted(known.keys() - found.keys())]
    return wrong + [
        f"config.{name}={found[name]!r} must be of type {type(known[name].default).__name__}"
        for name in sorted(known.keys() & found.keys())
        if not _fits(found[name], known[name].default)
    ]


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, tuple | list)
    if isinstance(value, bool) or isinstance(default, bool):
        return type(value) is type(default)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default)) and not isinstance(value, Mapping)


def _out_of_range(found: Mapping[str, Any], known: Mapping[str, Field]) -> list[str]:
    return [
        f"config.{name}={found[name]!r} must be {field.range.text}"
        for name, field in known.items()
        if isinstance(field.range, Range) and not field.range.holds(found[name])
    ]


def completed(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Adds to the config of an earlier run the fields that there were not yet, by their defaults.

    Args:
      saved: content of its ``config.json``.

    Returns:
      The config; as it is where it names no modality that is known.
    """
    if saved.get("modality") not in MODALITIES:
        return dict(saved)
    # As JSON has them, like what was saved: a tuple is a list there.
    defaults = json.loads(base_config(saved["modality"]).to_json())
    return _filled(saved, defaults, "")


def _filled(saved: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    filled = dict(saved)
    for key, default in defaults.items():
        name = f"{prefix}{key}"
        if name in OF_TASKS:
            continue
        if key not in filled:
            filled[key] = default
        elif isinstance(default, Mapping) and isinstance(filled[key], Mapping):
            filled[key] = _filled(filled[key], default, f"{name}.")
    return filled
