"""Shapes, parameters and FLOPs of every stage of a network; ``nn.tabulate`` has every layer.

wlsrl summary --preset=small --size=64x64x1
wlsrl summary --streams=standard --standard=resnet18
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from wlsrl_jax import cli
from wlsrl_jax.data.phantoms.source import PHANTOMS
from wlsrl_jax.models.by_name import PRESETS, STREAMS, make_model
from wlsrl_jax.models.dual_stream import Grader
from wlsrl_jax.models.layers import Conv
from wlsrl_jax.models.trunks import PLAIN, TRUNKS
from wlsrl_jax.tasks import MODALITIES, make_tasks


@dataclasses.dataclass
class Row:
    """One stage of one stream, or one dense layer.

    Attributes:
      name: such as "separable stage2" or "head_TO1".
      shape: of the output for one image, pooling excluded.
      parameters: trainable numbers.
      flops: of one image's forward pass; a multiply and an add are two. Convolutions
        and dense layers are counted, elementwise work is not. (The compiler cannot tell: a
        compiled kernel counts nothing there.)
    """

    name: str
    shape: tuple[int, ...] = ()
    parameters: int = 0
    flops: int = 0


def _row_name(path: tuple[str, ...]) -> str:
    return f"{path[0]} {path[1].split('_')[0]}" if len(path) > 1 else path[0]


def stages(model: Grader, image_shape: tuple[int, int, int]) -> list[Row]:
    """Counts parameters and FLOPs without computing anything.

    Args:
      model: the network.
      image_shape: (height, width, channels).

    Returns:
      Rows in the order of the forward pass.
    """
    rows: dict[str, Row] = {}

    def count(next_fun: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        out = next_fun(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and isinstance(module, Conv | nn.Dense):
            name = _row_name(module.path)
            row = rows.setdefault(name, Row(name))
            if isinstance(module, Conv):
                inputs = 1 if module.depthwise else args[0].shape[-1]
                sides = (-(-side // module.stride) for side in args[0].shape[1:3])
                row.shape = (*sides, module.features)  # before any pooling
                row.flops += 2 * module.kernel_size**2 * inputs * math.prod(row.shape)
            else:
                row.shape = out.shape[1:]
                row.flops += 2 * args[0].shape[-1] * out.shape[-1]
        return out

    def initialise(key: jax.Array) -> Any:
        with nn.intercept_methods(count):
            return model.init(key, jnp.zeros((1, *image_shape)), train=False)

    variables = jax.eval_shape(initialise, jax.random.key(0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        names = tuple(str(part.key) for part in path[:-1])
        rows[_row_name(names)].parameters += leaf.size
    return list(rows.values())


def summarize(model: Grader, image_shape: tuple[int, int, int]) -> str:
    """Formats ``stages`` as lines of text, with totals."""
    rows = stages(model, image_shape)
    total = Row("total", (), sum(r.parameters for r in rows), sum(r.flops for r in rows))
    lines = [f"{'stage':<20} {'output':>15} {'parameters':>12} {'MFLOP an image':>15}"]
    for row in [*rows, total]:
        shape = "x".join(map(str, row.shape))
        lines.append(f"{row.name:<20} {shape:>15} {row.parameters:>12,} {row.flops / 1e6:>15.2f}")
    return "\n".join(lines)


def _numbers(text: str, separator: str) -> list[int]:
    numbers = text.lower().split(separator)
    if not all(part.isdigit() and int(part) > 0 for part in numbers):
        raise argparse.ArgumentTypeError(
            f"{text!r} must be whole numbers with {separator!r} between them"
        )
    return [int(part) for part in numbers]


def _widths(text: str) -> list[int]:
    return _numbers(text, ",")


def _size(text: str) -> list[int]:
    numbers = _numbers(text, "x")
    known = [modality.channels for modality in MODALITIES.values()]
    if len(numbers) != 3 or numbers[2] not in known:
        wanted = " or ".join(f"HEIGHTxWIDTHx{channels}" for channels in known)
        raise argparse.ArgumentTypeError(f"{text!r} must be {wanted}")
    return numbers


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of the command line."""
    parser = cli.Parser(
        "summary",
        description="Shapes, parameters and FLOPs of a network.",
    )
    parser.add_argument("--preset", choices=list(PRESETS), default="small", help="its size")
    parser.add_argument("--size", type=_size, default="64x64x1", help="HEIGHTxWIDTHxCHANNELS")
    parser.add_argument("--streams", choices=list(STREAMS), default="dual", help="both, or one")
    for kind in STREAMS["dual"]:
        names = [row.name for row in TRUNKS if row.kind == kind]
        parser.add_argument(f"--{kind}", choices=names, default=PLAIN, help=f"the {kind} stream")
    parser.add_argument(
        "--widths",
        type=_widths,
        default=(),
        help="channels of each stage, as 16,32,64; default: the trunk's, or the preset's",
    )  # fmt: skip
    parser.add_argument(
        "--space_to_depth", type=cli.number(1), default=1, help="side of pixel blocks made channels"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the summary of a network."""
    args = make_parser().parse_args(argv)
    height, width, channels = args.size
    modality = next(m.name for m in MODALITIES.values() if m.channels == channels)
    tasks = make_tasks(modality, PHANTOMS[modality].classes, PHANTOMS[modality].normal)
    heads = {task.name: task.num_classes for task in tasks}
    fields = {name: value for name, value in vars(args).items() if name not in ("size", "preset")}
    model = make_model(args.preset, heads, **fields)
    print(summarize(model, (height, width, channels)))
