r"""WLSRL, the weighted label smoothing loss, and the losses it is compared with.

A loss is a table: row y holds the masses a of an example of class y, class weights included.
The loss of logits z is the soft cross-entropy

.. math:: \ell(z) = -\sum_k a_k \log p_k, \qquad p = \mathrm{softmax}(z),\ a \ge 0,

whose gradient is :math:`S p - a` with :math:`S = \sum_k a_k`: convex in the logits, minimal
exactly at :math:`\log(a / S)` up to a constant. Only ``focal`` does more with its table.

Shapes: logits ``[..., C]``, integer labels ``[...]`` or probability labels ``[..., C]``, for
which :math:`a = \sum_k y_k a(e_k)` (C at ``axis`` in general); result ``[...]``. All is computed
in float32 or wider whatever the dtype of the logits. An example that ``where`` masks, or whose
integer label is outside ``[0, C)`` (as -1 for a missing label), has a loss and a gradient of
exactly zero, whatever its logits hold.
"""

from __future__ import annotations

import dataclasses
import functools
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


def soft_cross_entropy(
    logits: Array, masses: Array, *, gamma: Array | float | None = None
) -> Array:
    r""":math:`-\sum_k a_k (1 - p_k)^\gamma \log p_k`, where 0 log 0 counts as 0.

    Args:
      logits: floating ``[..., C]``.
      masses: a, ``[..., C]``, >= 0.
      gamma: focusing strength >= 0; None is no focusing.

    Returns:
      Loss of each example ``[...]``.
    """
    # At an infinite logit log p is -inf; a class of mass 0 must not turn it into NaN.
    some = masses > 0
    log_p = jnp.where(some, jax.nn.log_softmax(logits, axis=-1), 0.0)
    if gamma is not None:
        # 1 - p without cancellation near p = 1; the bound keeps 0**gamma differentiable.
        masses = masses * jnp.maximum(-jnp.expm1(log_p), jnp.finfo(log_p.dtype).tiny) ** gamma
    return -jnp.sum(jnp.where(some, masses * log_p, 0.0), axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Loss:
    """A loss of C classes: a function of (logits, labels) that gives (values, weights).

    Attributes:
      table: ``[C, C]``; row y is a for an example of class y.
      counts: ``[C]``; what an example of class y counts in the denominator of the mean.
      value: function of (logits, a), both ``[..., C]``, that gives the loss ``[...]``.
    """

    table: Any
    counts: Any
    value: Callable[[Array, Array], Array] = soft_cross_entropy

    def __call__(
        self, logits: Any, labels: Any, where: Any = None, axis: int = -1
    ) -> tuple[Array, Array]:
        """Values and weights of the examples, whose sums add up exactly over parts of a batch.

        For integer labels the sums' ratio is PyTorch's weighted mean.

        Args:
          logits: floating ``[..., C]`` (C at ``axis``).
          labels: integers ``[...]`` or probabilities of the logits' shape.
          where: boolean ``[...]``; False gives a value, gradient and weight of exactly zero.
          axis: axis of the classes.

        Returns:
          (values ``[...]``, weights ``[...]``), float32 (float64 for float64 logits).

        Raises:
          ValueError: for shapes or dtypes that disagree.
        """
        logits = jnp.asarray(logits)
        if not jnp.issubdtype(logits.dtype, jnp.floating):
            raise ValueError(f"logits must be floating point, got {logits.dtype}.")
        if logits.shape[axis] != len(self.counts):
            raise ValueError(
                f"logits have {logits.shape[axis]} classes, the loss {len(self.counts)}."
            )
        dtype = jnp.promote_types(logits.dtype, jnp.float32)
        y, mask = _probabilities(labels, logits.shape, where, axis, dtype)
        # Both sides of the double where: a masked row never enters the arithmetic, so NaN
        # can reach neither the value nor the gradient.
        z = jnp.where(mask[..., None], jnp.moveaxis(logits, axis, -1).astype(dtype), 0.0)
        values = self.value(z, _mix(y, self.table))
        return jnp.where(mask, values, 0.0), _mix(y, self.counts)

    def weights(self, labels: Any, where: Any = None) -> Array:
        """The weights ``[...]`` alone: they depend on no logits."""
        labels = jnp.asarray(labels)
        batch = labels.shape if jnp.issubdtype(labels.dtype, jnp.integer) else labels.shape[:-1]
        y, _ = _probabilities(labels, (*batch, len(self.counts)), where, -1, jnp.float32)
        return _mix(y, self.counts)


def _mix(y: Array, rows: Any) -> Array:
    """``sum_k y_k rows[k]``."""
    return jnp.matmul(y, jnp.asarray(rows, y.dtype), precision="highest")


def _probabilities(
    labels: Any, logits_shape: tuple[int, ...], where: Any, axis: int, dtype: Any
) -> tuple[Array, Array]:
    """(labels as probabilities, classes last, zero where masked; mask)."""
    labels = jnp.asarray(labels)
    soft = jnp.issubdtype(labels.dtype, jnp.floating)
    if not (soft or jnp.issubdtype(labels.dtype, jnp.integer)):
        raise ValueError(f"labels must be integers or probabilities, got {labels.dtype}.")
    batch = logits_shape[:axis] + logits_shape[axis:][1:]
    wanted = logits_shape if soft else batch
    if labels.shape != wanted:
        raise ValueError(
            f"{'probability' if soft else 'integer'} labels have shape {labels.shape}; logits of "
            f"shape {logits_shape} with classes on axis {axis} need {wanted}."
        )
    if soft:
        y, mask = jnp.moveaxis(labels, axis, -1).astype(dtype), jnp.ones(batch, bool)
    else:
        y = jax.nn.one_hot(labels, logits_shape[axis], dtype=dtype)
        mask = (labels >= 0) & (labels < logits_shape[axis])
    if where is not None:
        mask = mask & jnp.broadcast_to(jnp.asarray(where, bool), mask.shape)
    return jnp.where(mask[..., None], y, 0.0), mask


# --- the losses, as functions of class weights w [C] and their parameters ------------------


def _concrete(value: Any) -> np.ndarray | None:
    """The value as numpy, or None while it is traced and cannot be looked at."""
    return None if isinstance(value, jax.core.Tracer) else np.asarray(value)


RANGES = {
    "smoothing": ("one number in [0, 1]", lambda v: 0.0 <= v <= 1.0),
    "gamma": ("a finite number >= 0", lambda v: 0.0 <= v < math.inf),
    "sigma": ("a finite number > 0", lambda v: 0.0 < v < math.inf),
    "scale": ("a finite number > 0", lambda v: 0.0 < v < math.inf),
}


def _check(**parameters: Any) -> None:
    for name, value in parameters.items():
        wanted, valid = RANGES[name]
        known = _concrete(value)
        if known is not None and not (known.ndim == 0 and valid(float(known))):
            raise ValueError(f"{name}={value} must be {wanted}.")


def _class_weights(weights: Any, num_classes: int, dtype: Any = np.float32) -> Any:
    """Checked weights ``[C]``, as numpy unless they are traced; ones for None."""
    if weights is None:
        return np.ones(num_classes, dtype)
    if np.shape(weights) != (num_classes,):
        raise ValueError(
            f"class_weights has shape {np.shape(weights)}, but there are {num_classes} classes."
        )
    known = _concrete(weights)
    if known is None:
        return weights.astype(dtype)
    if not (np.isfinite(known).all() and (known >= 0).all()):
        raise ValueError(f"class_weights must be finite and >= 0, got {known}.")
    return known.astype(dtype)


def _smoothed(w: Any, smoothing: Array | float = 0.1, variant: str = "target") -> Loss:
    """WLSRL; label smoothing for weights of 1, cross-entropy without smoothing.

    References:
      Szegedy et al., Rethinking the Inception Architecture, CVPR 2016 (label smoothing).
      King and Zeng, Logistic Regression in Rare Events Data, Political Analysis 9(2), 2001
      (class weights).
    """
    _check(smoothing=smoothing)
    eye, uniform = np.eye(len(w), dtype=w.dtype), smoothing / len(w)
    smooth = (1.0 - smoothing) * eye + uniform
    if variant == "target":
        return Loss(w[:, None] * smooth, w)
    if variant == "regularizer":
        return Loss((1.0 - smoothing) * w[:, None] * eye + uniform, w)
    if variant == "classwise":
        return Loss(w[None, :] * smooth, w)
    if variant == "prior":
        return Loss((1.0 - smoothing) * eye + smoothing * w[None, :] / w.sum(), np.ones(len(w)))
    raise ValueError(f"WLSRL variant {variant!r} is unknown; choose one of {', '.join(VARIANTS)}.")


def _focal(w: Any, gamma: Array | float = 2.0) -> Loss:
    """Weighted cross-entropy, focused.

    References:
      Lin et al., Focal Loss for Dense Object Detection, ICCV 2017.
    """
    _check(gamma=gamma)
    return Loss(w[:, None] * np.eye(len(w)), w, functools.partial(soft_cross_entropy, gamma=gamma))


def _squared_distances(w: Any) -> np.ndarray:
    k = np.arange(len(w), dtype=w.dtype)
    return (k[:, None] - k[None, :]) ** 2


def _gaussian(w: Any, smoothing: Array | float = 0.2, sigma: Array | float = 1.0) -> Loss:
    r"""Smoothing mass that falls on neighbouring grades, :math:`\propto e^{-(y-k)^2/2\sigma^2}`.

    References:
      Galdran et al., Non-uniform Label Smoothing for Diabetic Retinopathy Grading from
      Retinal Fundus Images with Deep Neural Networks, TVST 2020.
    """
    _check(smoothing=smoothing, sigma=sigma)
    near = jax.nn.softmax(-_squared_distances(w) / (2.0 * sigma**2), axis=-1)
    smooth = (1.0 - smoothing) * np.eye(len(w), dtype=w.dtype) + smoothing * near
    return Loss(w[:, None] * smooth, w)


def _sord(w: Any, scale: Array | float = 1.0) -> Loss:
    r"""Soft ordinal targets, :math:`t_k \propto \exp(-\mathrm{scale}\,(y-k)^2)`.

    References:
      Diaz and Marathe, Soft Labels for Ordinal Regression, CVPR 2019.
    """
    _check(scale=scale)
    return Loss(w[:, None] * jax.nn.softmax(-scale * _squared_distances(w), axis=-1), w)


def _values(
    make: Callable[[Any], Loss], logits: Any, labels: Any, weights: Any, where: Any, axis: int
) -> Array:
    logits = jnp.asarray(logits)
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    loss = make(_class_weights(weights, logits.shape[axis], dtype))
    return loss(logits, labels, where, axis)[0]


# --- the public faces, a value per example -------------------------------------------------


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
    """
    make = functools.partial(_smoothed, smoothing=smoothing, variant=variant)
    return _values(make, logits, labels, class_weights, where, axis)


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
      labels: integers ``[...]`` or probabilities of the logits' shape.
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
    """
    make = functools.partial(_focal, gamma=gamma)
    return _values(make, logits, labels, class_weights, where, axis)


# --- means --------------------------------------------------------------------------------


def multitask_mean(
    parts: Mapping[str, tuple[Array, Array]], task_weights: Mapping[str, float]
) -> Array:
    r""":math:`\sum_t \lambda_t\, \mathrm{numerator}_t / \mathrm{denominator}_t`.

    A task without a labelled example counts 0, and one with :math:`\lambda_t = 0` takes no
    part in the computation at all, so that the others' gradients keep every bit.

    Args:
      parts: task -> (numerator, denominator), shape ``[]``: a loss's values and weights, summed.
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


# --- by name, for configs -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LossSpec:
    """A row of ``LOSSES``.

    Attributes:
      make: function of (class weights ``[C]``, parameters) that gives the ``Loss``.
      parameters: those that a config may set.
      weighted: whether the class weights are the task's; otherwise they are ones.
      ordinal: whether it needs ordered classes.
    """

    make: Callable[..., Loss]
    parameters: tuple[str, ...] = ()
    weighted: bool = False
    ordinal: bool = False


_cross_entropy = functools.partial(_smoothed, smoothing=0.0)

LOSSES: dict[str, LossSpec] = {
    "wlsrl": LossSpec(_smoothed, ("smoothing", "variant"), weighted=True),
    "ce": LossSpec(_cross_entropy),
    "ls": LossSpec(_smoothed, ("smoothing",)),
    "weighted_ce": LossSpec(_cross_entropy, weighted=True),
    "focal": LossSpec(_focal, ("gamma",)),
    "gaussian": LossSpec(_gaussian, ("smoothing", "sigma"), ordinal=True),
    "sord": LossSpec(_sord, ("scale",), ordinal=True),
}


def loss_parameters() -> dict[str, Any]:
    """What a config may set of the losses.

    Returns:
      Name -> default of every parameter that some loss of ``LOSSES`` reads.
    """
    return {
        name: inspect.signature(spec.make).parameters[name].default
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
    best = _smoothed(w, smoothing, "classwise").table.argmax(axis=1)
    return [(y, int(j)) for y, j in enumerate(best) if w[y] > 0 and j != y]


def make_loss(
    name: str,
    *,
    num_classes: int,
    class_weights: Any = None,
    ordinal: bool = False,
    **parameters: Any,
) -> Loss:
    """Builds a loss from its name, checking everything before anything compiles.

    Args:
      name: a key of ``LOSSES``.
      num_classes: C.
      class_weights: ``[C]``; used by the weighted losses, ignored by the others.
      ordinal: whether the task's classes are ordered.
      **parameters: of the loss, as its row of ``LOSSES`` lists them.

    Returns:
      The loss: a function of (logits ``[B, C]``, labels, where=None) that gives the values and
      the weights ``[B]`` of the examples.

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
    weights = _class_weights(class_weights if spec.weighted else None, num_classes)
    loss = spec.make(weights, **parameters)
    if parameters.get("variant") == "classwise":
        for y, j in flipped_classes(weights, parameters.get("smoothing", 0.1)):
            warnings.warn(
                f"WLSRL variant 'classwise' with these weights and smoothing teaches every "
                f"example of class {y} as class {j}: use variant 'target', weaker weights or "
                "less smoothing.",
                stacklevel=2,
            )
    return loss
