"""The network, data and steps that the benchmarks time, in JAX and in PyTorch."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

import numpy as np
from harness import Run

HEADS = {"TO1": 4, "TO2": 2}
SMOOTHING = 0.1
RATE, DECAY, CLIP, EMA = 1e-3, 0.05, 1.0, 0.99


@dataclasses.dataclass(frozen=True)
class Net:
    """What is timed.

    Attributes:
      size: side of the image, pixels.
      batch: images a step.
      channels: of the image.
      widths: channels of each stage.
      blocks: convolutions of each stage.
      hidden: width of the shared layer.
    """

    size: int = 64
    batch: int = 32
    channels: int = 3
    widths: tuple[int, ...] = (32, 64, 128, 256)
    blocks: int = 2
    hidden: int = 256


def data(net: Net) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(images uint8 NHWC, task -> labels, task -> class weights)."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (net.batch, net.size, net.size, net.channels), dtype=np.uint8)
    labels = {t: rng.integers(0, c, net.batch).astype(np.int32) for t, c in HEADS.items()}
    weights = {t: np.linspace(0.5, 1.5, c).astype(np.float32) for t, c in HEADS.items()}
    return images, labels, weights


def jax_model(net: Net, implementation: str = "auto") -> Any:
    """The Flax network."""
    from wlsrl_jax.models.by_name import make_model

    return make_model(
        "base", HEADS, widths=net.widths, blocks=net.blocks, hidden=net.hidden,
        conv_implementation=implementation,
    )  # fmt: skip


def flops(net: Net) -> int:
    """Of one image's forward pass, counted over the layers (convolutions as direct ones)."""
    from wlsrl_jax.models.summary import stages

    return sum(r.flops for r in stages(jax_model(net), (net.size, net.size, net.channels)))


def jax_pieces(net: Net, implementation: str) -> tuple[Any, Any, Any, Any]:
    """(model, step, state, batch on the device)."""
    import jax
    import optax

    from wlsrl_jax.losses import make_loss
    from wlsrl_jax.training import step as steps
    from wlsrl_jax.training.optimizer import make_optimizer

    images, labels, weights = data(net)
    model = jax_model(net, implementation)
    optimizer = make_optimizer(
        "adamw", optax.constant_schedule(RATE), weight_decay=DECAY, clip_norm=CLIP
    )
    losses = {
        t: make_loss("wlsrl", num_classes=c, class_weights=weights[t], smoothing=SMOOTHING)
        for t, c in HEADS.items()
    }
    step = steps.make_train_step(
        model, optimizer, losses, dict.fromkeys(HEADS, 1.0), seed=0, ema_decay=EMA
    )
    state = jax.jit(
        lambda: steps.init_state(model, optimizer, (net.size, net.size, net.channels), 0)
    )()
    return model, step, state, jax.device_put({"image": images, "labels": labels})


def jax_train(net: Net, implementation: str) -> tuple[Run, dict[str, Any]]:
    """One optimizer step."""
    import jax

    _, step, state, batch = jax_pieces(net, implementation)
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    compile_s = time.perf_counter() - start
    held = [state]

    def run(count: int) -> None:
        for _ in range(count):
            held[0], metrics = compiled(held[0], batch)
        jax.block_until_ready(metrics)

    return run, {"compile_s": compile_s}


def jax_inference(net: Net, implementation: str) -> tuple[Run, dict[str, Any]]:
    """Probabilities of a batch."""
    import jax

    from wlsrl_jax.models.predictor import make_predict_step

    model, _, state, batch = jax_pieces(net, implementation)
    predict = jax.jit(make_predict_step(model))

    def run(count: int) -> None:
        for _ in range(count):
            out = predict(state.ema, batch["image"])
        jax.block_until_ready(out)

    return run, {}


def torch_pieces(net: Net) -> tuple[Any, Any, Any, Any]:
    """(model with the Flax network's weights, images, labels, class weights)."""
    import torch
    from torch_peer import DualStream, copy_weights

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    images, labels, weights = data(net)
    peer = DualStream(net.channels, net.widths, net.blocks, net.hidden, HEADS)
    _, _, state, _ = jax_pieces(net, "lax")
    copy_weights(peer, state.params)
    peer = peer.to(memory_format=torch.channels_last)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    return (
        peer,
        x.contiguous(memory_format=torch.channels_last),
        {t: torch.from_numpy(y).long() for t, y in labels.items()},
        {t: torch.from_numpy(w) for t, w in weights.items()},
    )


def torch_train(net: Net, compiled: bool) -> tuple[Run, dict[str, Any]]:
    """One optimizer step: AdamW, clipping, moving average, as on our side."""
    import torch
    from torch_peer import objective

    peer, x, labels, weights = torch_pieces(net)
    peer.train()
    kernels = [p for p in peer.parameters() if p.ndim > 1]
    others = [p for p in peer.parameters() if p.ndim <= 1]
    groups = [{"params": kernels}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=DECAY, fused=True)
    params = [*peer.parameters()]
    average = [p.detach().clone() for p in params]

    def loss() -> Any:
        return objective(peer(x), labels, weights, SMOOTHING)

    forward = torch.compile(loss) if compiled else loss

    def run(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            forward().backward()
            torch.nn.utils.clip_grad_norm_(params, CLIP)
            optimizer.step()
            torch._foreach_lerp_(average, [p.detach() for p in params], 1.0 - EMA)

    return run, {}


def torch_inference(net: Net, compiled: bool) -> tuple[Run, dict[str, Any]]:
    """Probabilities of a batch."""
    import torch

    peer, x, _, _ = torch_pieces(net)
    peer.eval()
    forward = torch.compile(peer) if compiled else peer

    def run(count: int) -> None:
        with torch.inference_mode():
            for _ in range(count):
                {t: z.softmax(-1) for t, z in forward(x).items()}

    return run, {}


def same_function(net: Net) -> dict[str, float]:
    """Proves that both networks compute the same: outputs and every gradient.

    Both are held against PyTorch in float64. Where an activation lies within rounding of
    zero, float32 may see the other side of the ReLU; so the gradients of ours may differ
    from the reference by twice what those of PyTorch in float32 do, and no more.

    Returns:
      Relative L2 errors of the logits and of all gradients, ours and PyTorch's.

    Raises:
      RuntimeError: if ours are not as close as that.
    """
    import copy

    import jax
    import torch
    from torch_peer import DualStream, copy_weights, objective

    from wlsrl_jax.losses import make_loss, multitask_mean
    from wlsrl_jax.models.predictor import normalize

    model, _, state, batch = jax_pieces(net, "auto")
    peer, x, labels, weights = torch_pieces(net)

    def theirs(peer: Any, dtype: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
        peer = copy.deepcopy(peer).to(dtype).train()
        logits = peer(x)
        objective(
            logits, labels, {t: w.to(dtype) for t, w in weights.items()}, SMOOTHING
        ).backward()
        return ([logits[t].detach().numpy() for t in HEADS],
                [p.grad.numpy() for p in peer.parameters()])  # fmt: skip

    def ours(params: Any) -> Any:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, _ = model.apply(
            variables, normalize(batch["image"]), train=True, mutable=["batch_stats"]
        )
        parts = {}
        for t, c in HEADS.items():
            loss = make_loss(
                "wlsrl", num_classes=c, class_weights=weights[t].numpy(), smoothing=SMOOTHING
            )
            values, counts = loss(logits[t], batch["labels"][t])
            parts[t] = (values.sum(), counts.sum())
        return multitask_mean(parts, dict.fromkeys(HEADS, 1.0)), logits

    (_, logits), grads = jax.jit(jax.value_and_grad(ours, has_aux=True))(state.params)
    # Our gradients, carried over by the same map as the weights.
    carrier = DualStream(net.channels, net.widths, net.blocks, net.hidden, HEADS)
    copy_weights(carrier, grads)
    exact = theirs(peer, torch.float64)
    single = theirs(peer, torch.float32)
    mine = ([np.asarray(logits[t]) for t in HEADS],
            [p.detach().numpy() for p in carrier.parameters()])  # fmt: skip

    def error(a: list[np.ndarray], b: list[np.ndarray]) -> float:
        far = sum(float(np.sum((x.astype(np.float64) - y) ** 2)) for x, y in zip(a, b, strict=True))
        return (far / sum(float(np.sum(y**2)) for y in b)) ** 0.5

    errors = {
        f"{what} {who}": error(found[k], exact[k])
        for k, what in enumerate(("logits", "gradients"))
        for who, found in (("ours", mine), ("torch", single))
    }
    for what in ("logits", "gradients"):
        if errors[f"{what} ours"] > 2 * errors[f"{what} torch"] + 1e-5:
            raise RuntimeError(f"the two networks do not compute the same: {errors}")
    return {k: float(f"{v:.1e}") for k, v in errors.items()}
