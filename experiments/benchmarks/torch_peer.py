"""The same dual-stream network, loss and optimizer step in PyTorch, with weights copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Stream(nn.Module):
    """One trunk, as ``wlsrl_jax.model.Stream`` with BatchNorm."""

    def __init__(self, kind: str, channels: int, widths: tuple[int, ...], blocks: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for stage, width in enumerate(widths):
            layers: list[nn.Module] = []
            for block in range(blocks):
                if kind == "standard" or (stage == 0 and block == 0):
                    layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
                else:
                    layers.append(
                        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
                    )
                    layers.append(nn.Conv2d(channels, width, 1, bias=False))
                layers += [nn.BatchNorm2d(width, momentum=0.1), nn.ReLU(inplace=True)]
                channels = width
            self.stages.append(nn.Sequential(*layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps ``[B, C, H, W]`` to ``[B, widths[-1]]``."""
        for k, stage in enumerate(self.stages):
            x = stage(x)
            if k < len(self.stages) - 1:
                x = functional.max_pool2d(x, 2, ceil_mode=True)
        return x.mean((2, 3))


class DualStream(nn.Module):
    """As ``wlsrl_jax.model.DualStream`` with fusion by concatenation."""

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

    def put(target: torch.Tensor, value: Any, axes: tuple[int, ...] = ()) -> None:
        array = np.asarray(value)
        target.data.copy_(torch.from_numpy(np.array(array.transpose(axes) if axes else array)))

    def dense(layer: nn.Linear, values: Mapping[str, Any]) -> None:
        put(layer.weight, values["kernel"], (1, 0))
        put(layer.bias, values["bias"])

    for kind in ("separable", "standard"):
        flax = params[kind]
        for k, stage in enumerate(getattr(peer, kind).stages):
            block, queue = -1, []
            for layer in stage:
                if isinstance(layer, nn.Conv2d):
                    if not queue:
                        block += 1
                        names = (f"stage{k}_block{block}_{p}" for p in ("conv", "depthwise"))
                        name = next(n for n in names if n in flax)
                        queue = [name.replace("depthwise", "pointwise")] if "depth" in name else []
                    else:
                        name = queue.pop()
                    put(layer.weight, flax[name]["kernel"], (3, 2, 0, 1))
                elif isinstance(layer, nn.BatchNorm2d):
                    put(layer.weight, flax[f"stage{k}_block{block}_norm"]["scale"])
                    put(layer.bias, flax[f"stage{k}_block{block}_norm"]["bias"])
    dense(peer.shared, params["shared"])
    for task, head in peer.heads.items():
        dense(head, params[f"head_{task}"])


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
