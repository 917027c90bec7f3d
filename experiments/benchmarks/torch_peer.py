"""The same dual-stream network, loss and optimizer step in PyTorch, with weights copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Stream(nn.Module):
    """One trunk, as ``wlsrl_jax.models.trunks.PlainTrunk`` with BatchNorm."""

    def __init__(self, kind: str, channels: int, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for stage, width in enumerate(widths):
            layers = nn.Sequential()
            for block in range(blocks):
                name = f"stage{stage}_block{block}"  # as Flax names them
                if kind == "standard" or (stage == 0 and block == 0):
                    conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
                    layers.add_module(f"{name}_conv", conv)
                else:
                    depthwise = nn.Conv2d(
                        channels, channels, 3, padding=1, groups=channels, bias=False
                    )
                    layers.add_module(f"{name}_depthwise", depthwise)
                    layers.add_module(
                        f"{name}_pointwise", nn.Conv2d(channels, width, 1, bias=False)
                    )
                layers.add_module(f"{name}_norm", nn.BatchNorm2d(width, momentum=0.1))
                layers.add_module(f"{name}_relu", nn.ReLU(inplace=True))
                channels = width
            self.stages.append(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``[B, C, H, W]`` to ``[B, widths[-1]]``."""
        for k, stage in enumerate(self.stages):
            x = stage(x)
            if k < len(self.stages) - 1:
                x = functional.max_pool2d(x, 2, ceil_mode=True)
        return x.mean((2, 3))


class DualStream(nn.Module):
    """As ``wlsrl_jax.models.dual_stream.Grader`` of plain trunks with fusion by concatenation."""

    def __init__(
        self,
        channels: int,
        widths: tuple[int, ...],
        blocks: int,
        hidden: int,
        heads: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.separable = Stream("separable", channels, widths, blocks)
        self.standard = Stream("standard", channels, widths, blocks)
        self.shared = nn.Linear(2 * widths[-1], hidden)
        self.heads = nn.ModuleDict({t: nn.Linear(hidden, c) for t, c in heads.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Maps uint8 ``[B, C, H, W]`` to task -> logits."""
        x = (images.to(self.shared.weight.dtype) - 127.5) / 64.0
        x = x.contiguous(memory_format=torch.channels_last)
        pooled = torch.cat([self.separable(x), self.standard(x)], 1)
        shared = functional.relu(self.shared(pooled))
        return {task: head(shared) for task, head in self.heads.items()}


def copy_weights(peer: DualStream, params: Mapping[str, Any]) -> None:
    """Copies Flax parameters into the peer, name by name."""

    def put(target: torch.Tensor, value: Any, axes: tuple[int, ...]) -> None:
        target.data.copy_(torch.from_numpy(np.array(np.asarray(value).transpose(axes))))

    for kind in ("separable", "standard"):
        layers = {
            name: m for stage in getattr(peer, kind).stages for name, m in stage.named_children()
        }
        for name, values in params[kind].items():
            if "kernel" in values:
                put(layers[name].weight, values["kernel"], (3, 2, 0, 1))
            else:
                put(layers[name].weight, values["scale"], (0,))
                put(layers[name].bias, values["bias"], (0,))
    dense = {"shared": peer.shared, **{f"head_{task}": h for task, h in peer.heads.items()}}
    for name, layer in dense.items():
        put(layer.weight, params[name]["kernel"], (1, 0))
        put(layer.bias, params[name]["bias"], (0,))


def objective(
    logits: Mapping[str, torch.Tensor],
    labels: Mapping[str, torch.Tensor],
    weights: Mapping[str, torch.Tensor],
    smoothing: float,
) -> torch.Tensor:
    """WLSRL ``target``: each example's smoothed cross-entropy times its class weight."""
    total = torch.zeros(())
    for task, z in logits.items():
        y = labels[task]
        each = functional.cross_entropy(z, y, label_smoothing=smoothing, reduction="none")
        w = weights[task][y]
        total = total + (w * each).sum() / w.sum()
    return total
