r"""WLSRL, the weighted label smoothing loss, and the losses it is compared with.

Apart from ``focal``, every loss here is a weighted soft cross-entropy

.. math:: \ell(z) = -\sum_k a_k \log p_k, \qquad p = \mathrm{softmax}(z),\ a \ge 0,

whose gradient is :math:`S p - a` with :math:`S = \sum_k a_k`: convex in the logits,
minimal exactly at :math:`\log(a / S)` up to a constant. The losses differ in ``a`` alone.

Shapes: logits ``[..., C]``, integer labels ``[...]`` or probability labels ``[..., C]``
(C at ``axis`` in general), result ``[...]``. Targets and log-softmax are computed in
float32 or wider whatever the dtype of the logits. An example that ``where`` masks, or
whose integer label is outside ``[0, C)`` (as -1 for a missing label), has a loss and a
gradient of exactly zero, whatever its logits hold.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

VARIANTS = ("target", "regularizer", "classwise", "prior")

Array = jax.Array
Reduced = tuple[Array, Array]


# --- checks -------------------------------------------------------------------------


def _concrete(value: Any) -> np.ndarray | None:
    """The value as numpy, or None while it is traced and cannot be looked at."""
    return None if isinstance(value, jax.core.Tracer) else np.asarray(value)


def _check_fraction(name: str, value: Any) -> None:
    known = _concrete(value)
    if known is not None and not (known.ndim == 0 and 0.0 <= float(known) <= 1.0):
        raise ValueError(f"{name}={value} must be one number in [0, 1].")


def _check_weights(weights: Any, num_classes: int) -> None:
    if jnp.shape(weights) != (num_classes,):
        raise ValueError(
            f"class_weights has shape {jnp.shape(weights)}, but the logits have "
            f"{num_classes} classes."
        )
    known = _concrete(weights)
    if known is not None and not (np.isfinite(known).all() and (known >= 0).all()):
        raise ValueError(f"class_weights must be finite and >= 0, got {known}.")


def _check_positive(name: str, value: Any) -> None:
    known = _concrete(value)
    if known is not None and not (known.ndim == 0 and 0.0 < float(known) < math.inf):
        raise ValueError(f"{name}={value} must be a finite number > 0.")


# --- shared parts -------------------------------------------------------------------


def _prepare(
    logits: Array, labels: Array, where: Array | None, axis: int
) -> tuple[Array, Array, Array]:
    """Returns (logits, probability labels, mask), classes last, float32 or wider."""
    logits = jnp.asarray(logits)
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"logits must be floating point, got {logits.dtype}.")
    z = jnp.moveaxis(logits, axis, -1).astype(jnp.promote_types(logits.dtype, jnp.float32))
    num_classes = z.shape[-1]
    if jnp.issubdtype(labels.dtype, jnp.floating):
        if labels.shape != logits.shape:
            raise ValueError(
                f"probability labels have shape {labels.shape}, logits {logits.shape}; they "
                "must agree (integer labels lack the class axis)."
            )
        y = jnp.moveaxis(labels, axis, -1).astype(z.dtype)
        mask = jnp.ones(y.shape[:-1], bool)
    elif jnp.issubdtype(labels.dtype, jnp.integer):
        if labels.shape != z.shape[:-1]:
            raise ValueError(
                f"integer labels have shape {labels.shape}; logits of shape {logits.shape} "
                f"with classes on axis {axis} need {z.shape[:-1]}."
            )
        y = jax.nn.one_hot(labels, num_classes, dtype=z.dtype)
        mask = (labels >= 0) & (labels < num_classes)
    else:
        raise ValueError(f"labels must be integers or probabilities, got {labels.dtype}.")
    if where is not None:
        mask = mask & jnp.broadcast_to(jnp.asarray(where, bool), mask.shape)
    # Both sides of the double where: a masked row never enters the arithmetic, so NaN
    # can reach neither the value nor the gradient.
    z = jnp.where(mask[..., None], z, 0.0)
    y = jnp.where(mask[..., None], y, 0.0)
    return z, y, mask


def _soft_cross_entropy(z: Array, a: Array, mask: Array) -> Array:
    """``-sum_k a_k log p_k``, zero where masked; 0 log 0 counts as 0."""
    log_p = jax.nn.log_softmax(z, axis=-1)
    # At an infinite logit log p is -inf; a class of weight 0 must not turn it into NaN.
    terms = jnp.where(a > 0, a * jnp.where(a > 0, log_p, 0.0), 0.0)
    return jnp.where(mask, -jnp.sum(terms, axis=-1), 0.0)


def _expand(y: Array, table: Array) -> Array:
    """``a(y) = sum_k y_k a(e_k)`` from the ``[C, C]`` table of rows ``a(e_k)``."""
    return jnp.einsum("...k,kc->...c", y, table, precision="highest")


def _gather(y: Array, weights: Array) -> Array:
    """``sum_k y_k w_k``."""
    return jnp.einsum("...k,k->...", y, weights, precision="highest")


def wlsrl_table(weights: Array, smoothing: Array | float, variant: str) -> Array:
    """Target masses of ``wlsrl``.

    Args:
      weights: ``[C]`` class weights, w.
      smoothing: epsilon.
      variant: see ``wlsrl``.

    Returns:
      ``[C, C]``; row ``y`` is ``a`` for an example of class ``y``.

    Raises:
      ValueError: for an unknown variant, listing the valid ones.
    """
    num_classes = weights.shape[0]
    eye = jnp.eye(num_classes, dtype=weights.dtype)
    smooth = (1.0 - smoothing) * eye + smoothing / num_classes
    if variant == "target":
        return weights[:, None] * smooth
    if variant == "regularizer":
        return (1.0 - smoothing) * weights[:, None] * eye + smoothing / num_classes
    if variant == "classwise":
        return weights[None, :] * smooth
    if variant == "prior":
        return (1.0 - smoothing) * eye + smoothing * weights[None, :] / jnp.sum(weights)
    raise ValueError(f"WLSRL variant {variant!r} is unknown; choose one of {', '.join(VARIANTS)}.")


# --- losses, one value an example ------------------------------------------------------


def wlsrl(
    logits: Array,
    labels: Array,
    *,
    class_weights: Array | None = None,
    smoothing: Array | float = 0.1,
    variant: str = "target",
    where: Array | None = None,
    axis: int = -1,
) -> Array:
    r"""Weighted label smoothing regularisation loss.

    With class weights w, smoothing :math:`\varepsilon` and :math:`u = 1/C`, an example of
    class y has the loss :math:`-\sum_k a_k \log p_k` where a is

    ===============  =================================================================
    ``target``       :math:`w_y((1-\varepsilon) e_y + \varepsilon u)`
    ``regularizer``  :math:`(1-\varepsilon) w_y e_y + \varepsilon u`
    ``classwise``    :math:`w \odot ((1-\varepsilon) e_y + \varepsilon u)`
    ``prior``        :math:`(1-\varepsilon) e_y + \varepsilon w / \sum w`
    ===============  =================================================================

    All four are label smoothing for equal weights of 1. :math:`\varepsilon` is the mass
    spread over all C classes, the true one included. ``classwise`` is what PyTorch's
    ``CrossEntropyLoss(weight, label_smoothing)`` computes; with strong weights its
    optimum can be a wrong class, see ``flipped_classes``.

    The abstract of Kaloi et al. names the loss without its formula: the variants are
    reconstructions, ``target`` the default because its optimum does not move with w.

    Args:
      logits: floating ``[..., C]`` (C at ``axis``).
      labels: integers ``[...]``, or probabilities of the logits' shape, for which
        :math:`a(y) = \sum_k y_k a(e_k)`.
      class_weights: ``[C]``, finite and >= 0; ones when None.
      smoothing: :math:`\varepsilon` in [0, 1].
      variant: one of the above.
      where: boolean ``[...]``; False gives a loss and gradient of exactly zero.
      axis: axis of the classes.

    Returns:
      Loss of each example ``[...]``, float32 (float64 for float64 logits).

    Raises:
      ValueError: for shapes that disagree, an unknown variant, and, where the values
        are concrete, smoothing or weights out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[4.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
      >>> loss = wlsrl(logits, jnp.array([0, 1]), class_weights=jnp.array([1.0, 3.0, 1.0, 1.0]))
      >>> print([f"{v:.4f}" for v in loss])
      ['0.3535', '1.4723']

    References:
      Kaloi et al., iCoMET 2023, doi 10.1109/iCoMET57998.2023.10099097.
      Szegedy et al., Rethinking the Inception Architecture, CVPR 2016 (label smoothing).
    """
    _check_fraction("smoothing", smoothing)
    z, y, mask = _prepare(logits, labels, where, axis)
    weights = jnp.ones(z.shape[-1]) if class_weights is None else class_weights
    _check_weights(weights, z.shape[-1])
    table = wlsrl_table(jnp.asarray(weights, z.dtype), smoothing, variant)
    return _soft_cross_entropy(z, _expand(y, table), mask)


def cross_entropy(
    logits: Array, labels: Array, *, where: Array | None = None, axis: int = -1
) -> Array:
    r"""Cross-entropy, :math:`-\log p_y`.

    Args:
      logits: floating ``[..., C]`` (C at ``axis``).
      labels: integers ``[...]`` or probabilities of the logits' shape.
      where: boolean ``[...]``; False gives exactly zero.
      axis: axis of the classes.

    Returns:
      Loss of each example ``[...]``.

    Raises:
      ValueError: for shapes or dtypes that disagree.

    Examples:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[4.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
      >>> loss = cross_entropy(logits, jnp.array([0, 1]))
      >>> print([f"{v:.4f}" for v in loss])
      ['0.0535', '0.3408']

    References:
      Bishop, Pattern Recognition and Machine Learning, 2006, section 4.3.4.
    """
    z, y, mask = _prepare(logits, labels, where, axis)
    return _soft_cross_entropy(z, y, mask)


def label_smoothing(
    logits: Array,
    labels: Array,
    *,
    smoothing: Array | float = 0.1,
    where: Array | None = None,
    axis: int = -1,
) -> Array:
    r"""Cross-entropy with the target :math:`(1-\varepsilon) e_y + \varepsilon / C`.

    Args:
      logits: floating ``[..., C]`` (C at ``axis``).
      labels: integers ``[...]`` or probabilities of the logits' shape.
      smoothing: :math:`\varepsilon` in [0, 1], the mass spread over all C classes.
      where: boolean ``[...]``; False gives exactly zero.
      axis: axis of the classes.

    Returns:
      Loss of each example ``[...]``.

    Raises:
      ValueError: for shapes that disagree or concrete smoothing out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[4.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
      >>> loss = label_smoothing(logits, jnp.array([0, 1]), smoothing=0.1)
      >>> print([f"{v:.4f}" for v in loss])
      ['0.3535', '0.4908']

    References:
      Szegedy et al., Rethinking the Inception Architecture, CVPR 2016.
    """
    return wlsrl(logits, labels, smoothing=smoothing, where=where, axis=axis)


def weighted_cross_entropy(
    logits: Array,
    labels: Array,
    *,
    class_weights: Array | None = None,
    where: Array | None = None,
    axis: int = -1,
) -> Array:
    r"""Class-weighted cross-entropy, :math:`-w_y \log p_y`.

    Args:
      logits: floating ``[..., C]`` (C at ``axis``).
      labels: integers ``[...]`` or probabilities of the logits' shape.
      class_weights: ``[C]``, finite and >= 0; ones when None.
      where: boolean ``[...]``; False gives exactly zero.
      axis: axis of the classes.

    Returns:
      Loss of each example ``[...]``.

    Raises:
      ValueError: for shapes that disagree or concrete weights out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[4.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
      >>> loss = weighted_cross_entropy(
      ...     logits, jnp.array([0, 1]), class_weights=jnp.array([1.0, 3.0, 1.0, 1.0])
      ... )
      >>> print([f"{v:.4f}" for v in loss])
      ['0.0535', '1.0223']

    References:
      King and Zeng, Logistic Regression in Rare Events Data, Political Analysis 9(2), 2001.
    """
    return wlsrl(logits, labels, class_weights=class_weights, smoothing=0.0, where=where, axis=axis)


def focal(
    logits: Array,
    labels: Array,
    *,
    gamma: Array | float = 2.0,
    class_weights: Array | None = None,
    where: Array | None = None,
    axis: int = -1,
) -> Array:
    r"""Focal loss, :math:`-w_y (1 - p_y)^\gamma \log p_y`; not convex.

    Args:
      logits: floating ``[..., C]`` (C at ``axis``).
      labels: integers ``[...]`` or probabilities of the logits' shape (the loss is then
        the mean over classes drawn from them).
      gamma: focusing strength >= 0; 0 is weighted cross-entropy.
      class_weights: ``[C]``, finite and >= 0; ones when None.
      where: boolean ``[...]``; False gives exactly zero.
      axis: axis of the classes.

    Returns:
      Loss of each example ``[...]``.

    Raises:
      ValueError: for shapes that disagree or concrete values out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[4.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
      >>> loss = focal(logits, jnp.array([0, 1]), gamma=2.0)
      >>> print([f"{v:.4f}" for v in loss])
      ['0.0001', '0.0284']

    References:
      Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
    """
    known = _concrete(gamma)
    if known is not None and not (known.ndim == 0 and 0.0 <= float(known) < math.inf):
        raise ValueError(f"gamma={gamma} must be a finite number >= 0.")
    z, y, mask = _prepare(logits, labels, where, axis)
    if class_weights is not None:
        _check_weights(class_weights, z.shape[-1])
        y = y * jnp.asarray(class_weights, z.dtype)
    log_p = jax.nn.log_softmax(z, axis=-1)
    # 1 - p without cancellation near p = 1; the bound keeps 0**gamma differentiable.
    missed = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(z.dtype).tiny)
    terms = jnp.where(y > 0, y * missed**gamma * log_p, 0.0)
    return jnp.where(mask, -jnp.sum(terms, axis=-1), 0.0)


def gaussian_table(num_classes: int, smoothing: Array | float, sigma: Array | float) -> Array:
    r"""Targets :math:`(1-\varepsilon) e_y + \varepsilon g_y`, rows summing to 1.

    :math:`g_{yk} \propto \exp(-(y-k)^2 / 2\sigma^2)` is a Gaussian around the true grade.

    Args:
      num_classes: C.
      smoothing: :math:`\varepsilon`.
      sigma: width of the Gaussian, in grades.

    Returns:
      ``[C, C]``; row ``y`` is the target of grade ``y``.
    """
    k = jnp.arange(num_classes)
    g = jax.nn.softmax(-((k[:, None] - k[None, :]) ** 2) / (2.0 * sigma**2), axis=-1)
    return (1.0 - smoothing) * jnp.eye(num_classes) + smoothing * g


def gaussian_smoothing(
    logits: Array,
    labels: Array,
    *,
    smoothing: Array | float = 0.2,
    sigma: Array | float = 1.0,
    where: Array | None = None,
    axis: int = -1,
) -> Array:
    r"""Cross-entropy whose smoothing mass falls on neighbouring grades; ordinal classes.

    Args:
      logits: floating ``[..., C]`` (C at ``axis``), classes in order.
      labels: integers ``[...]`` or probabilities of the logits' shape.
      smoothing: mass :math:`\varepsilon` in [0, 1] given to the Gaussian.
      sigma: its width in grades, > 0.
      where: boolean ``[...]``; False gives exactly zero.
      axis: axis of the classes.

    Returns:
      Loss of each example ``[...]``.

    Raises:
      ValueError: for shapes that disagree or concrete values out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[4.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
      >>> loss = gaussian_smoothing(logits, jnp.array([0, 1]))
      >>> print([f"{v:.4f}" for v in loss])
      ['0.3971', '0.5704']

    References:
      Galdran et al., Non-uniform Label Smoothing for Diabetic Retinopathy Grading from
      Retinal Fundus Images with Deep Neural Networks, TVST 2020.
    """
    _check_fraction("smoothing", smoothing)
    _check_positive("sigma", sigma)
    z, y, mask = _prepare(logits, labels, where, axis)
    table = gaussian_table(z.shape[-1], smoothing, sigma).astype(z.dtype)
    return _soft_cross_entropy(z, _expand(y, table), mask)


def sord_table(num_classes: int, scale: Array | float) -> Array:
    r"""Targets :math:`\propto \exp(-\mathrm{scale}\,(y-k)^2)`, rows summing to 1.

    Args:
      num_classes: C.
      scale: sharpness.

    Returns:
      ``[C, C]``; row ``y`` is the target of grade ``y``.
    """
    k = jnp.arange(num_classes)
    return jax.nn.softmax(-scale * (k[:, None] - k[None, :]) ** 2.0, axis=-1)


def sord(
    logits: Array,
    labels: Array,
    *,
    scale: Array | float = 1.0,
    where: Array | None = None,
    axis: int = -1,
) -> Array:
    r"""Soft ordinal targets, :math:`t_k \propto \exp(-\mathrm{scale}\,(y-k)^2)`.

    Args:
      logits: floating ``[..., C]`` (C at ``axis``), classes in order.
      labels: integers ``[...]`` or probabilities of the logits' shape.
      scale: sharpness, > 0; the larger, the closer to one-hot.
      where: boolean ``[...]``; False gives exactly zero.
      axis: axis of the classes.

    Returns:
      Loss of each example ``[...]``.

    Raises:
      ValueError: for shapes that disagree or a concrete scale out of range.

    Examples:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[4.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]])
      >>> loss = sord(logits, jnp.array([0, 1]))
      >>> print([f"{v:.4f}" for v in loss])
      ['1.1682', '1.2006']

    References:
      Diaz and Marathe, Soft Labels for Ordinal Regression, CVPR 2019.
    """
    _check_positive("scale", scale)
    z, y, mask = _prepare(logits, labels, where, axis)
    return _soft_cross_entropy(z, _expand(y, sord_table(z.shape[-1], scale).astype(z.dtype)), mask)


# --- reduction ------------------------------------------------------------------------


def weight_sum(
    labels: Array,
    num_classes: int,
    class_weights: Any = None,
    where: Array | None = None,
) -> Array:
    r"""Denominator :math:`\sum m d` of the mean, :math:`d = w_y` or 1 without weights.

    Args:
      labels: integers ``[...]`` or probabilities ``[..., C]``.
      num_classes: C.
      class_weights: ``[C]`` or None.
      where: boolean ``[...]`` or None.

    Returns:
      A float32 scalar that adds up exactly over parts of a batch.
    """
    labels = jnp.asarray(labels)
    shape = labels.shape if jnp.issubdtype(labels.dtype, jnp.integer) else labels.shape[:-1]
    _, y, mask = _prepare(jnp.zeros((*shape, num_classes)), labels, where, -1)
    weights = jnp.ones(num_classes) if class_weights is None else jnp.asarray(class_weights)
    return jnp.sum(jnp.where(mask, _gather(y, weights.astype(y.dtype)), 0.0))


def multitask_mean(parts: Mapping[str, Reduced], task_weights: Mapping[str, float]) -> Array:
    r""":math:`\sum_t \lambda_t\, \mathrm{numerator}_t / \mathrm{denominator}_t`.

    A task without a labelled example counts 0, and one with :math:`\lambda_t = 0` takes no
    part in the computation at all, so that the others' gradients keep every bit.

    Args:
      parts: task -> (numerator, denominator).
      task_weights: task -> :math:`\lambda_t`, Python numbers.

    Returns:
      A scalar.
    """
    total = jnp.zeros(())
    for task, (numerator, denominator) in parts.items():
        if task_weights[task]:
            total = total + task_weights[task] * safe_ratio(numerator, denominator)
    return total


def safe_ratio(numerator: Array, denominator: Array) -> Array:
    """Divides; 0 with zero gradient where the denominator is 0.

    Args:
      numerator: floating ``[...]``.
      denominator: floating ``[...]``, >= 0.

    Returns:
      The quotient ``[...]``; a batch without a labelled example has loss 0, not NaN.
    """
    some = denominator > 0
    return jnp.where(some, numerator / jnp.where(some, denominator, 1.0), 0.0)


# --- by name, for configs ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LossSpec:
    """A row of ``LOSSES``.

    Attributes:
      function: per-example loss.
      parameters: keyword arguments that a config may set.
      weighted: whether it takes ``class_weights``.
      ordinal: whether it needs ordered classes.
    """

    function: Callable[..., Array]
    parameters: tuple[str, ...] = ()
    weighted: bool = False
    ordinal: bool = False


LOSSES: dict[str, LossSpec] = {
    "wlsrl": LossSpec(wlsrl, ("smoothing", "variant"), weighted=True),
    "ce": LossSpec(cross_entropy),
    "ls": LossSpec(label_smoothing, ("smoothing",)),
    "weighted_ce": LossSpec(weighted_cross_entropy, weighted=True),
    "focal": LossSpec(focal, ("gamma",)),
    "gaussian": LossSpec(gaussian_smoothing, ("smoothing", "sigma"), ordinal=True),
    "sord": LossSpec(sord, ("scale",), ordinal=True),
}


def loss_parameters() -> dict[str, Any]:
    """What a config may set of the losses.

    Returns:
      Name -> default of every parameter that some loss of ``LOSSES`` reads.
    """
    return {
        name: inspect.signature(spec.function).parameters[name].default
        for spec in LOSSES.values()
        for name in spec.parameters
    }


def flipped_classes(class_weights: Any, smoothing: float) -> list[tuple[int, int]]:
    r"""Pairs (y, j) for which the optimum of ``classwise`` for class y is class j.

    That happens when :math:`w_j / w_y > 1 + C (1-\varepsilon) / \varepsilon`.

    Args:
      class_weights: ``[C]``.
      smoothing: :math:`\varepsilon`.

    Returns:
      One pair for every class whose examples would be taught as another.
    """
    w = np.asarray(class_weights, np.float64)
    table = w[None, :] * ((1.0 - smoothing) * np.eye(w.size) + smoothing / w.size)
    return [(y, int(row.argmax())) for y, row in enumerate(table) if w[y] > 0 and row.argmax() != y]


def make_loss(
    name: str,
    *,
    num_classes: int,
    class_weights: Any = None,
    ordinal: bool = False,
    **parameters: Any,
) -> Callable[..., Reduced]:
    """Builds a reduced loss from its name, checking everything before anything compiles.

    Args:
      name: a key of ``LOSSES``.
      num_classes: C.
      class_weights: ``[C]``; used by the weighted losses, ignored by the others.
      ordinal: whether the task's classes are ordered.
      **parameters: of the loss, as its row of ``LOSSES`` lists them.

    Returns:
      A function of (logits ``[B, C]``, labels, where=None) that gives (numerator,
      denominator), both scalars that add up over parts of a batch. For integer labels
      their ratio is PyTorch's weighted mean.

    Raises:
      ValueError: for an unknown name or parameter (listing the valid ones), a value out
        of range, or an ordinal loss on a task without order.

    Warns:
      UserWarning: if ``classwise`` would teach a class as another one.
    """
    if name not in LOSSES:
        raise ValueError(f"Loss {name!r} is unknown; choose one of {', '.join(LOSSES)}.")
    spec = LOSSES[name]
    unknown = sorted(set(parameters) - set(spec.parameters))
    if unknown:
        valid = ", ".join(spec.parameters) or "none"
        raise ValueError(f"Loss {name!r} has no parameter {unknown[0]!r}; it has: {valid}.")
    if spec.ordinal and not ordinal:
        raise ValueError(
            f"Loss {name!r} is for ordered classes; use one of "
            f"{', '.join(k for k, v in LOSSES.items() if not v.ordinal)} for this task."
        )
    weights = None
    if spec.weighted:
        given = np.ones(num_classes) if class_weights is None else class_weights
        weights = np.asarray(given, np.float32)
        parameters = {**parameters, "class_weights": weights}
    jax.eval_shape(  # checks the parameters, computes nothing
        lambda logits, labels: spec.function(logits, labels, **parameters),
        jax.ShapeDtypeStruct((1, num_classes), jnp.float32),
        jax.ShapeDtypeStruct((1,), jnp.int32),
    )
    weighted_mean = weights is not None and parameters.get("variant", "target") != "prior"
    if weights is not None and parameters.get("variant") == "classwise":
        for y, j in flipped_classes(weights, parameters.get("smoothing", 0.1)):
            warnings.warn(
                f"WLSRL variant 'classwise' with these weights and smoothing teaches every "
                f"example of class {y} as class {j}: use variant 'target', weaker weights or "
                "less smoothing.",
                stacklevel=2,
            )

    def reduced(logits: Array, labels: Array, where: Array | None = None) -> Reduced:
        values = spec.function(logits, labels, where=where, **parameters)
        denominator = weight_sum(labels, num_classes, weights if weighted_mean else None, where)
        return jnp.sum(values), denominator

    return reduced
