"""A trained model as an ONNX graph, written from its parameters.

The converters from JAX either need TensorFlow or pin versions that this project cannot share, and
the network has six kinds of layers, so the graph is written with ``onnx.helper``. It takes what
the StableHLO artifact takes: uint8 ``[batch, H, W, C]``, any batch size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wlsrl_jax.files import Mistake
from wlsrl_jax.models.dual_stream import Grader
from wlsrl_jax.models.trunks import PlainTrunk, ResNet18, Trunk
from wlsrl_jax.tasks import Task

OPSET = 21
_BATCH_EPSILON = 1e-5  # models.layers.BatchNorm
_GROUP_EPSILON = 1e-6  # flax.linen.GroupNorm


class _Graph:
    """Nodes and constants of a graph; every method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = name or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def conv(
        self, x: str, kernel: np.ndarray, bias: np.ndarray | None, depthwise: bool, stride: int = 1
    ) -> str:
        """Convolution of an HWIO kernel of odd side, padded by half of it."""
        weights = self.constant(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        more = [] if bias is None else [self.constant(bias)]
        side = kernel.shape[0]
        return self.add(
            "Conv", x, weights, *more, kernel_shape=[side, side], pads=[side // 2] * 4,
            strides=[stride, stride],
            group=kernel.shape[3] if depthwise else 1,
        )  # fmt: skip

    def conv_norm(
        self, x: str, conv: Mapping[str, Any], norm: Mapping[str, Any], stats: Mapping[str, Any],
        stride: int = 1,
    ) -> str:  # fmt: skip
        """Convolution and batch normalisation, as one convolution."""
        a = norm["scale"] / np.sqrt(stats["var"] + np.float32(_BATCH_EPSILON))
        return self.conv(x, conv["kernel"] * a, norm["bias"] - stats["mean"] * a, False, stride)

    def dense(self, x: str, layer: Mapping[str, np.ndarray], name: str = "") -> str:
        kernel, bias = self.constant(layer["kernel"]), self.constant(layer["bias"])
        return self.add("Gemm", x, kernel, bias, name=name)


def _plain(graph: _Graph, x: str, trunk: PlainTrunk, params: Any, stats: Any) -> str:
    if trunk.space_to_depth > 1:
        x = graph.add("SpaceToDepth", x, blocksize=trunk.space_to_depth)
    for stage in range(len(trunk.widths)):
        for block in range(trunk.blocks):
            name = f"stage{stage}_block{block}"
            if trunk.separable and (stage or block):
                x = graph.conv(x, params[f"{name}_depthwise"]["kernel"], None, depthwise=True)
                conv = params[f"{name}_pointwise"]
            else:
                conv = params[f"{name}_conv"]
            norm = params[f"{name}_norm"]
            if trunk.norm == "batch":
                x = graph.conv_norm(x, conv, norm, stats[f"{name}_norm"])
            else:
                x = graph.conv(x, conv["kernel"], None, depthwise=False)
                width = conv["kernel"].shape[3]
                x = graph.add(
                    "GroupNormalization", x, graph.constant(norm["scale"]),
                    graph.constant(norm["bias"]), epsilon=_GROUP_EPSILON,
                    num_groups=max(g for g in range(1, 9) if width % g == 0),
                )  # fmt: skip
            x = graph.add("Relu", x)
        if stage < len(trunk.widths) - 1:  # an odd side's last row or column stands alone
            x = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    return x


def _resnet(graph: _Graph, x: str, trunk: ResNet18, params: Any, stats: Any) -> str:
    x = graph.conv_norm(x, params["stem_conv"], params["stem_norm"], stats["stem_norm"], 2)
    x = graph.add("Relu", x)
    x = graph.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage in range(len(trunk.widths)):
        for block in range(trunk.blocks):
            p, s = params[f"stage{stage}_block{block}"], stats[f"stage{stage}_block{block}"]
            stride = 2 if stage > 0 and block == 0 else 1
            y = graph.conv_norm(x, p["conv1"], p["norm1"], s["norm1"], stride)
            y = graph.add("Relu", y)
            y = graph.conv_norm(y, p["conv2"], p["norm2"], s["norm2"])
            if "shortcut_conv" in p:
                x = graph.conv_norm(
                    x, p["shortcut_conv"], p["shortcut_norm"], s["shortcut_norm"], stride
                )
            x = graph.add("Relu", graph.add("Add", x, y))
    return x


_TRUNKS: Mapping[type[Trunk], Callable[..., str]] = {PlainTrunk: _plain, ResNet18: _resnet}


def _features(graph: _Graph, x: str, model: Grader, params: Any, stats: Any) -> str:
    """What the shared dense layer reads, ``[batch, features]``."""
    pooled = []
    for trunk in model.trunks:
        write, name = _TRUNKS[type(trunk)], trunk.name
        maps = write(graph, x, trunk, params[name], stats.get(name, {}))
        pooled.append(graph.add("Flatten", graph.add("GlobalAveragePool", maps)))
    if len(pooled) == 1:
        return pooled[0]
    if model.fusion == "sum":
        return graph.add("Add", *pooled)
    both = graph.add("Concat", *pooled, axis=1)
    if model.fusion == "concat":
        return both
    gate = graph.add("Sigmoid", graph.dense(both, params["gate"]))
    difference = graph.add("Sub", *pooled)
    return graph.add("Add", pooled[1], graph.add("Mul", gate, difference))


def onnx_model(
    model: Grader,
    variables: Any,
    tasks: Sequence[Task],
    image_shape: tuple[int, int, int],
    notes: Mapping[str, str],
    *,
    mirror: bool = False,
) -> bytes:
    """Writes a network as ONNX.

    Args:
      model: the network.
      variables: {"params", "batch_stats"} as host arrays.
      tasks: in the order of the outputs.
      image_shape: (height, width, channels) of the input.
      notes: metadata of the file.
      mirror: see ``make_predict_step``.

    Returns:
      A serialized, checked model with the input "images", uint8 ``[batch, H, W, C]``, and an
      output a task, float32 probabilities ``[batch, classes]``.

    Raises:
      Mistake: if the package onnx is not installed.
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError:
        raise Mistake("ONNX needs a package more: pip install -e '.[onnx]'") from None
    params, stats = variables["params"], variables.get("batch_stats", {})
    graph = _Graph()
    x = graph.add("Cast", "images", to=TensorProto.FLOAT)
    x = graph.add("Sub", x, graph.constant(np.float32(127.5)))
    x = graph.add("Div", x, graph.constant(np.float32(64.0)))
    x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
    if mirror:  # as one batch, so that the weights are in the file once
        ends = [graph.constant(np.asarray([n])) for n in (-1, -(2**31), 3, -1)]
        x = graph.add("Concat", x, graph.add("Slice", x, *ends), axis=0)
    x = _features(graph, x, model, params, stats)
    x = graph.add("Relu", graph.dense(x, params["shared"]))
    for task in tasks:
        logits = graph.dense(x, params[f"head_{task.name}"])
        if not mirror:
            graph.add("Softmax", logits, name=task.name, axis=1)
            continue
        both = graph.add("Softmax", logits, axis=1)
        both = graph.add("Reshape", both, graph.constant(np.asarray([2, -1, task.num_classes])))
        first = graph.constant(np.asarray([0]))
        graph.add("ReduceMean", both, first, name=task.name, keepdims=0)
    built = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "wlsrl_jax",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *image_shape])],
            [
                helper.make_tensor_value_info(t.name, TensorProto.FLOAT, ["batch", t.num_classes])
                for t in tasks
            ],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=10,
        producer_name="wlsrl_jax",
    )
    helper.set_model_props(built, dict(notes))
    onnx.checker.check_model(built, full_check=True)
    return built.SerializeToString()
