"""Class weights from the class counts of a training split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wlsrl_jax.files import Mistake

SCHEMES = ("none", "inverse", "sqrt_inverse", "effective_number")


def class_weights(
    counts: Sequence[int] | np.ndarray,
    scheme: str = "inverse",
    *,
    beta: float = 0.999,
    allow_missing: bool = False,
    task: str = "",
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    r"""Weights that make rare classes count more, scaled to a mean of 1 over the data.

    With :math:`n_c` examples of class c, N in all and C classes that have any:

    ==================  ==========================================
    ``none``            :math:`1`
    ``inverse``         :math:`N / (C n_c)`
    ``sqrt_inverse``    proportional to :math:`n_c^{-1/2}`
    ``effective_number``  proportional to :math:`(1-\beta)/(1-\beta^{n_c})`
    ==================  ==========================================

    Args:
      counts: ``[C]`` labelled training examples of each class.
      scheme: one of the above.
      beta: of ``effective_number``, in [0, 1).
      allow_missing: give a class without examples the weight 0 instead of raising.
      task: name for error messages.
      class_names: ``[C]`` names for error messages.

    Returns:
      float32 ``[C]`` with :math:`\sum_c n_c w_c = N`.

    Raises:
      Mistake: for an unknown scheme, a negative count, no example at all, ``beta``
        outside [0, 1), or (unless ``allow_missing``) a class without examples, named.

    Examples:
      >>> class_weights([90, 10]).tolist()
      [0.5555555820465088, 5.0]

    References:
      Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019.
    """
    prefix = f"Task {task}: " if task else ""
    n = np.asarray(counts, np.float64)
    if n.ndim != 1 or n.size == 0 or not np.isfinite(n).all() or (n < 0).any():
        raise Mistake(f"{prefix}class counts must be a list of numbers >= 0, got {counts}.")
    if scheme not in SCHEMES:
        raise Mistake(
            f"{prefix}class weight scheme {scheme!r} is unknown; choose one of "
            f"{', '.join(SCHEMES)}."
        )
    if not 0.0 <= beta < 1.0:
        raise Mistake(f"{prefix}beta={beta} must be in [0, 1).")
    present = n > 0
    names = class_names if class_names is not None else [str(k) for k in range(n.size)]
    missing = [name for name, there in zip(names, present, strict=True) if not there]
    if not present.any():
        raise Mistake(f"{prefix}the training split has no labelled example.")
    if missing and not allow_missing:
        raise Mistake(
            f"{prefix}no training example of class {', '.join(missing)}. Add examples, or set "
            "config.allow_missing_classes=True to train without."
        )
    safe = np.where(present, n, 1.0)
    raw = {
        "none": np.ones_like(n),
        "inverse": 1.0 / safe,
        "sqrt_inverse": safe**-0.5,
        # expm1 and log1p keep the digits that 1 - beta**n loses for beta near 1.
        "effective_number": -(1.0 - beta) / np.expm1(safe * np.log(beta))
        if beta
        else np.ones_like(n),
    }[scheme]
    raw = np.where(present, raw, 0.0)
    return (raw * n.sum() / (raw @ n)).astype(np.float32)
