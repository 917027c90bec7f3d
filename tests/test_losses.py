import doctest
import functools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlsrl_jax import losses
from wlsrl_jax.losses import LOSSES, VARIANTS, make_loss, wlsrl
from wlsrl_jax.training.class_weights import class_weights

EYEPACS = np.array([25810, 2443, 5292, 873, 708])
variants = st.sampled_from(VARIANTS)
seeds = st.integers(0, 2**32 - 1)
fractions = st.floats(0, 1)
# One shape for most properties, so that one compilation serves all examples.
B, C = 4, 5
relaxed = settings(deadline=None, max_examples=40)


@functools.cache
def jitted(variant, with_gradient=False):
    def f(z, y, w, e):
        return wlsrl(z, y, class_weights=w, smoothing=e, variant=variant)

    return jax.jit(jax.vmap(jax.grad(f), (0, 0, None, None)) if with_gradient else f)


def case(seed, scale=3.0, classes=C):
    rng = np.random.default_rng(seed)
    z = rng.normal(0, scale, (B, classes)).astype(np.float32)
    return z, rng.integers(0, classes, B), rng.uniform(0.1, 4, classes).astype(np.float32)


def named(name, classes=C, **parameters):
    return make_loss(name, num_classes=classes, ordinal=True, **parameters)


def sums(loss, *arguments):
    """(numerator, denominator) of the mean."""
    values, weights = loss(*arguments)
    return values.sum(), weights.sum()


def masses(y, w, e, variant):
    """The target masses of the definition, written out in float64."""
    n = len(w)
    one, w = np.eye(n)[y], np.asarray(w, float)
    return {
        "target": w[y] * ((1 - e) * one + e / n),
        "regularizer": (1 - e) * w[y] * one + e / n,
        "classwise": w * ((1 - e) * one + e / n),
        "prior": (1 - e) * one + e * w / w.sum(),
    }[variant]


def log_softmax(z):
    z = np.asarray(z, float)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


@relaxed
@given(seeds, fractions, variants)
def test_value_is_the_definition_eager_and_jitted(seed, e, variant):
    z, y, w = case(seed)
    expected = [-(masses(k, w, e, variant) * log_softmax(r)).sum() for k, r in zip(y, z)]
    eager = wlsrl(z, y, class_weights=w, smoothing=e, variant=variant)
    assert eager.dtype == jnp.float32 and eager.shape == (B,)
    np.testing.assert_allclose(eager, expected, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(jitted(variant)(z, y, w, e), expected, rtol=2e-5, atol=1e-5)


@relaxed
@given(seeds, fractions, variants)
def test_gradient_is_total_mass_times_probability_minus_mass(seed, e, variant):
    z, y, w = case(seed)
    got = jitted(variant, True)(z, y, w, e)
    for row, k, g in zip(z, y, np.asarray(got)):
        a = masses(k, w, e, variant)
        np.testing.assert_allclose(g, a.sum() * np.exp(log_softmax(row)) - a, atol=1e-5 * a.sum())
        assert abs(g.sum()) < 1e-5 * a.sum()
        assert np.abs(g).sum() <= 2 * a.sum() * (1 + 1e-5)


@relaxed
@given(seeds, fractions, variants)
def test_hessian_is_that_of_a_convex_function(seed, e, variant):
    z, y, w = case(seed)
    h = jax.hessian(lambda r: wlsrl(r, y[0], class_weights=w, smoothing=e, variant=variant))(z[0])
    p, s = np.exp(log_softmax(z[0])), masses(y[0], w, e, variant).sum()
    np.testing.assert_allclose(h, s * (np.diag(p) - np.outer(p, p)), atol=1e-5 * s)
    assert np.linalg.eigvalsh(np.asarray(h, float)).min() > -1e-5 * s


@relaxed
@given(seeds, fractions, variants, st.floats(-50, 50))
def test_shifting_the_logits_changes_nothing(seed, e, variant, c):
    z, y, w = case(seed)
    f = jitted(variant)
    np.testing.assert_allclose(f(z, y, w, e), f(z + np.float32(c), y, w, e), rtol=1e-4, atol=1e-4)


@relaxed
@given(seeds, fractions, variants, st.permutations(range(C)))
def test_renaming_the_classes_changes_nothing(seed, e, variant, order):
    z, y, w = case(seed)
    order = np.array(order)
    f = jitted(variant)
    moved = f(z[:, order], np.argsort(order)[y], w[order], e)
    np.testing.assert_allclose(f(z, y, w, e), moved, rtol=1e-5, atol=1e-6)


@relaxed
@given(seeds, st.floats(0.01, 1), variants)
def test_floor_is_reached_at_the_log_target_and_nowhere_undercut(seed, e, variant):
    z, y, w = case(seed)
    f = jitted(variant)
    a = np.stack([masses(k, w, e, variant) for k in y])
    total = a.sum(1)
    t = a / total[:, None]
    floor = -total * (t * np.log(t)).sum(1)
    np.testing.assert_allclose(f(np.log(t).astype(np.float32) + 7, y, w, e), floor, rtol=1e-4)
    assert (np.asarray(f(z, y, w, e)) >= floor * (1 - 1e-5) - 1e-5).all()


@pytest.mark.parametrize(
    ("classes", "floor", "gap"), [(2, 0.1985, 2.944), (4, 0.3488, 3.611), (5, 0.3897, 3.829)]
)
def test_floors_and_gaps_pin_smoothing_over_all_classes(classes, floor, gap):
    # Spreading epsilon over C - 1 classes instead would give other numbers.
    assert math.log(1 + classes * 0.9 / 0.1) == pytest.approx(gap, abs=5e-4)
    z = np.zeros(classes, np.float32)
    z[0] = math.log(1 + classes * 0.9 / 0.1)
    assert float(wlsrl(z, 0, smoothing=0.1)) == pytest.approx(floor, abs=5e-5)
    np.testing.assert_allclose(jax.grad(lambda v: wlsrl(v, 0, smoothing=0.1))(z), 0, atol=1e-6)


@relaxed
@given(seeds, fractions)
def test_equal_weights_are_label_smoothing(seed, e):
    z, y, _ = case(seed)
    smooth = optax.smooth_labels(jax.nn.one_hot(y, C), e)
    expected = optax.softmax_cross_entropy(z, smooth)
    for variant in VARIANTS:
        np.testing.assert_allclose(
            jitted(variant)(z, y, jnp.ones(C), e), expected, rtol=1e-5, atol=1e-5
        )
    np.testing.assert_allclose(named("ls", smoothing=e)(z, y)[0], expected, rtol=1e-5, atol=1e-5)


@relaxed
@given(seeds)
def test_without_smoothing_it_is_weighted_cross_entropy(seed):
    z, y, w = case(seed)
    theirs = optax.softmax_cross_entropy_with_integer_labels(z, y)
    ce = named("ce", class_weights=w)(z, y)[0]
    np.testing.assert_allclose(ce, theirs, rtol=1e-5, atol=1e-6)
    # Near p = 1 theirs and ours round log p apart by nearly that much, which a weight would raise.
    np.testing.assert_allclose(
        named("weighted_ce", class_weights=w)(z, y)[0], w[y] * ce, rtol=1e-5, atol=1e-6
    )
    for variant in VARIANTS:
        expected = ce if variant == "prior" else w[y] * ce
        np.testing.assert_allclose(jitted(variant)(z, y, w, 0.0), expected, rtol=1e-5, atol=1e-6)


@relaxed
@given(seeds, fractions, variants)
def test_probability_labels_mix_the_losses_of_the_classes(seed, e, variant):
    z, _, w = case(seed)
    q = np.random.default_rng(seed).dirichlet(np.ones(C), B).astype(np.float32)
    f = jitted(variant)
    each = np.stack([f(z, np.full(B, k), w, e) for k in range(C)], axis=1)
    np.testing.assert_allclose(f(z, q, w, e), (q * each).sum(1), rtol=1e-4, atol=1e-5)


def test_classwise_turns_the_majority_grade_into_the_rarest():
    w = class_weights(EYEPACS, "inverse")
    assert losses.flipped_classes(w, 0.2) == [(0, 4)]
    # The stated condition, on both sides of its boundary.
    bound = 1 + 5 * 0.8 / 0.2
    assert losses.flipped_classes([1, 1, 1, 1, bound * 1.001], 0.2)
    assert not losses.flipped_classes([1, 1, 1, 1, bound * 0.999], 0.2)
    with pytest.warns(UserWarning, match="class 0 as class 4"):
        loss = make_loss(
            "wlsrl", num_classes=5, class_weights=w, variant="classwise", smoothing=0.2
        )
    assert loss.table[0].argmax() == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_loss("wlsrl", num_classes=5, class_weights=w, variant="target", smoothing=0.2)


def reference_mean(name, z, y, w):
    """PyTorch's weighted mean: the sum of losses over the sum of the true classes' weights."""
    ell = [-(masses(k, w, 0.1, name) * log_softmax(r)).sum() for k, r in zip(y, z)]
    return np.sum(ell) / (len(y) if name == "prior" else w[y].sum())


@relaxed
@given(seeds, variants)
def test_reduced_loss_is_the_weighted_mean(seed, variant):
    z, y, w = case(seed)
    loss = make_loss("wlsrl", num_classes=C, class_weights=w, variant=variant)
    numerator, denominator = sums(loss, z, y)
    assert float(numerator / denominator) == pytest.approx(
        reference_mean(variant, z, y, w), rel=1e-4
    )


@pytest.mark.parametrize("name", LOSSES)
def test_parts_of_a_batch_add_up(name):
    rng = np.random.default_rng(3)
    z = rng.normal(size=(12, C)).astype(np.float32)
    y = rng.integers(-1, C, 12)  # -1: unlabelled
    w = class_weights(EYEPACS)
    loss = named(name, class_weights=w)
    whole = sums(loss, z, y)
    for cuts in ([5], [1, 2, 3], [4, 8]):
        parts = [sums(loss, a, b) for a, b in zip(np.split(z, cuts), np.split(y, cuts))]
        np.testing.assert_allclose(np.sum(parts, axis=0), whole, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_are_known_before_the_logits(name):
    z, y, w = case(6)
    y[1] = -1
    q = np.random.default_rng(6).dirichlet(np.ones(C), B).astype(np.float32)
    where = np.array([True, True, False, True])
    loss = named(name, class_weights=w)
    for labels in (y, q):
        for mask in (None, where):
            weights = loss(z, labels, mask)[1]
            assert weights.shape == (B,) and weights.dtype == jnp.float32
            np.testing.assert_array_equal(loss.weights(labels, mask), weights)
    each = w[y] if LOSSES[name].weighted else np.ones(B)
    np.testing.assert_array_equal(loss.weights(y, where), np.float32(each * [1, 0, 0, 1]))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("jit", [False, True])
def test_masked_rows_are_exactly_nothing(name, jit):
    z = np.array([[1.0, 2, 3], [np.nan] * 3, [np.inf, -np.inf, np.nan], [0, 0, 1]], np.float32)
    y = np.array([0, 1, -1, 2])
    where = np.array([True, False, True, True])
    loss = named(name, 3, class_weights=[1.0, 2, 3])

    def mean(z):
        numerator, denominator = sums(loss, z, y, where)
        return numerator / denominator

    value_and_grad = jax.value_and_grad(mean)
    value, grad = (jax.jit(value_and_grad) if jit else value_and_grad)(z)
    kept = sums(loss, z[[0, 3]], y[[0, 3]])
    assert float(value) == pytest.approx(float(kept[0] / kept[1]), rel=1e-6)
    assert (np.asarray(grad)[1:3] == 0).all() and (np.asarray(grad)[[0, 3]] != 0).any()


def test_minus_one_is_not_the_last_class():
    z = np.zeros((2, 3), np.float32)
    assert (np.asarray(wlsrl(z, np.array([-1, 3]))) == 0).all()
    loss = named("weighted_ce", 3, class_weights=[1.0, 1, 5])
    assert float(loss.weights(np.array([-1, 3, 2])).sum()) == 5


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_labels_gives_zero_not_nan(name):
    loss = named(name, 3)

    def mean(z):
        return losses.multitask_mean({"T": sums(loss, z, np.array([-1, -1]))}, {"T": 1.0})

    value, grad = jax.value_and_grad(mean)(np.full((2, 3), np.nan, np.float32))
    assert float(value) == 0 and (np.asarray(grad) == 0).all()


def test_a_task_of_weight_zero_leaves_the_others_bit_identical():
    z, y, _ = case(0)
    loss = make_loss("wlsrl", num_classes=C)

    def gradient(parts, weights):
        def mean(z):
            return losses.multitask_mean(
                {t: sums(loss, z * s, y) for t, s in parts.items()}, weights
            )

        return jax.grad(mean)(z)

    alone = gradient({"A": 1.0}, {"A": 0.7})
    both = gradient({"A": 1.0, "B": np.float32(np.nan)}, {"A": 0.7, "B": 0.0})
    np.testing.assert_array_equal(alone, both)


@pytest.mark.parametrize("name", LOSSES)
def test_huge_logits_stay_finite(name):
    loss = named(name, 3)
    z = np.array([[1e3, -1e3, 0], [-1e3, 1e3, 1e3]], np.float32)
    for y in (np.array([0, 1]), np.array([1, 0])):
        value, grad = jax.value_and_grad(lambda z, y=y: loss(z, y)[0].sum())(z)
        assert np.isfinite(value) and np.isfinite(grad).all()


@pytest.mark.parametrize("name", ["ce", "weighted_ce", "focal"])
def test_an_impossible_class_without_mass_adds_nothing(name):
    def value(z, classes):
        return named(name, classes)(z, np.array(0))[0]

    got, grad = jax.value_and_grad(value)(np.array([0.5, 1, -np.inf], np.float32), 3)
    want, rest = jax.value_and_grad(value)(np.array([0.5, 1], np.float32), 2)
    assert float(got) == pytest.approx(float(want), rel=1e-6)
    np.testing.assert_allclose(grad, [*rest, 0], rtol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_logits_are_computed_in_float32(variant):
    z, y, w = case(1)
    z = jnp.asarray(z, jnp.bfloat16)
    low = wlsrl(z, y, class_weights=jnp.asarray(w, jnp.bfloat16), variant=variant)
    assert low.dtype == jnp.float32
    w = jnp.asarray(w, jnp.bfloat16).astype(jnp.float32)
    same = wlsrl(z.astype(jnp.float32), y, class_weights=w, variant=variant)
    np.testing.assert_array_equal(low, same)
    grad = jax.grad(lambda z: jnp.sum(wlsrl(z, y, variant=variant)))(z)
    assert grad.dtype == jnp.bfloat16


def test_float64_is_kept_and_precise():
    with jax.enable_x64(True):
        z, y, w = case(2)
        for variant in VARIANTS:
            got = wlsrl(np.float64(z), y, class_weights=np.float64(w), variant=variant)
            want = [-(masses(k, w, 0.1, variant) * log_softmax(r)).sum() for k, r in zip(y, z)]
            assert got.dtype == jnp.float64
            np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_axis(axis):
    z = np.random.default_rng(0).normal(size=(2, C, 3)).astype(np.float32)
    first = np.moveaxis(z, 1, -1)
    y = np.random.default_rng(1).integers(0, C, (2, 3))
    moved = np.moveaxis(first, -1, axis)
    np.testing.assert_allclose(wlsrl(moved, y, axis=axis), wlsrl(first, y), rtol=1e-6)


def test_scalar_example_and_vmap_agree_with_the_batch():
    z, y, w = case(4)
    one = functools.partial(wlsrl, class_weights=w)
    np.testing.assert_allclose(jax.vmap(one)(z, y), one(z, y), rtol=1e-6)
    assert one(z[0], y[0]).shape == ()


@relaxed
@given(seeds, st.floats(0, 5))
def test_focal(seed, gamma):
    z, y, w = case(seed)
    p = np.exp(log_softmax(z))[np.arange(B), y]
    expected = -w[y] * (1 - p) ** gamma * np.log(p)
    got = losses.focal(z, y, gamma=gamma, class_weights=w)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_ordinal_targets_are_distributions_around_the_grade(classes):
    for loss in (
        named("gaussian", classes, smoothing=0.3, sigma=0.8),
        named("sord", classes, scale=1.5),
    ):
        table = np.asarray(loss.table)
        np.testing.assert_allclose(table.sum(1), 1, rtol=1e-6)
        for y, row in enumerate(table):
            distance = np.abs(np.arange(classes) - y)
            assert (np.diff(row[np.argsort(distance, kind="stable")]) <= 1e-7).all()
    sharp = named("sord", classes, scale=50.0).table
    np.testing.assert_allclose(sharp, np.eye(classes), atol=1e-6)
    plain = named("gaussian", classes, smoothing=0.0, sigma=1.0).table
    np.testing.assert_allclose(plain, np.eye(classes))


@pytest.mark.parametrize("name", ["sord", "gaussian"])
def test_ordinal_losses_are_minimal_at_their_targets(name):
    loss = named(name, 4)
    z = np.log(np.asarray(loss.table))
    np.testing.assert_allclose(jax.grad(lambda z: loss(z, np.arange(4))[0].sum())(z), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("wlsrl", {}, [0.3535, 1.4723]),
        ("ce", {}, [0.0535, 0.3408]),
        ("ls", {"smoothing": 0.1}, [0.3535, 0.4908]),
        ("weighted_ce", {}, [0.0535, 1.0223]),
        ("focal", {"gamma": 2.0}, [0.0001, 0.0284]),
        ("gaussian", {}, [0.3971, 0.5704]),
        ("sord", {}, [1.1682, 1.2006]),
    ],
)
def test_values_and_defaults_by_name(name, parameters, expected):
    loss = named(name, 4, class_weights=[1.0, 3.0, 1.0, 1.0], **parameters)
    values, _ = loss(np.array([[4.0, 0, 0, 0], [0, 2.0, 0, 0]], np.float32), np.array([0, 1]))
    np.testing.assert_allclose(values, expected, atol=5.01e-5)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, float("nan")])
def test_concrete_smoothing_is_checked_also_while_tracing(smoothing):
    z, y, _ = case(0)
    with pytest.raises(ValueError, match="smoothing"):
        wlsrl(z, y, smoothing=smoothing)
    with pytest.raises(ValueError, match="smoothing"):
        jax.jit(lambda z: wlsrl(z, y, smoothing=smoothing))(z)


@pytest.mark.parametrize("weights", [[1, 1, 1, 1, -1], [1, 1, 1, 1, np.inf], [1, 2]])
def test_concrete_weights_are_checked_also_while_tracing(weights):
    z, y, _ = case(0)
    with pytest.raises(ValueError, match="class_weights"):
        wlsrl(z, y, class_weights=np.float32(weights))
    with pytest.raises(ValueError, match="class_weights"):
        jax.jit(lambda z: wlsrl(z, y, class_weights=np.float32(weights)))(z)


def test_traced_parameters_work():
    z, y, w = case(0)
    f = jax.jit(lambda e, w: wlsrl(z, y, smoothing=e, class_weights=w))
    np.testing.assert_allclose(f(0.3, w), wlsrl(z, y, smoothing=0.3, class_weights=w), rtol=1e-6)


def test_shapes_and_dtypes_are_checked():
    z = np.zeros((4, 3), np.float32)
    for labels, logits in (
        (np.zeros(5, int), z),
        (np.zeros((4, 2), np.float32), z),
        (np.zeros(4, bool), z),
        (np.zeros(4, int), z.astype(int)),
    ):
        with pytest.raises(ValueError, match="labels|logits"):
            wlsrl(logits, labels)
    with pytest.raises(ValueError, match="logits have 3 classes, the loss 4"):
        named("ce", 4)(z, np.zeros(4, int))
    with pytest.raises(ValueError, match="target, regularizer, classwise, prior"):
        wlsrl(z, np.zeros(4, int), variant="other")


def test_make_loss_names_the_choices():
    with pytest.raises(ValueError, match="choose one of wlsrl, ce, ls"):
        make_loss("mse", num_classes=3)
    with pytest.raises(ValueError, match="it has: smoothing, variant"):
        make_loss("wlsrl", num_classes=3, gamma=2.0)
    with pytest.raises(ValueError, match="ordered classes"):
        make_loss("sord", num_classes=3)
    with pytest.raises(ValueError, match="sigma"):
        make_loss("gaussian", num_classes=3, ordinal=True, sigma=0.0)
    with pytest.raises(ValueError, match="gamma"):
        make_loss("focal", num_classes=3, gamma=-1.0)


def test_docstring_examples():
    result = doctest.testmod(losses)
    assert result.attempted >= 3 and not result.failed


@pytest.mark.filterwarnings("ignore:WLSRL variant .classwise.")
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_agrees_with_pytorch(smoothing):
    """``classwise`` is PyTorch's loss, with its weighted mean for integer labels."""
    torch = pytest.importorskip("torch", reason="torch (extra 'bench') is not installed")
    rng = np.random.default_rng(0)
    z, y = rng.normal(0, 3, (40, 5)).astype(np.float32), rng.integers(0, 5, 40)
    w = np.array([0.2, 3.0, 1.0, 0.5, 2.0], np.float32)
    theirs_z = torch.tensor(z, requires_grad=True)
    weights = torch.tensor(w)
    each = torch.nn.CrossEntropyLoss(weights, label_smoothing=smoothing, reduction="none")
    ours = losses.wlsrl(z, y, class_weights=w, smoothing=smoothing, variant="classwise")
    np.testing.assert_allclose(ours, each(theirs_z, torch.tensor(y)).detach(), rtol=2e-5)
    mean = torch.nn.CrossEntropyLoss(weights, label_smoothing=smoothing)
    total = mean(theirs_z, torch.tensor(y))
    total.backward()
    loss = losses.make_loss("wlsrl", num_classes=5, class_weights=w, smoothing=smoothing,
                            variant="classwise")  # fmt: skip

    def ours_mean(z):
        numerator, denominator = sums(loss, z, y)
        return numerator / denominator

    value, gradient = jax.value_and_grad(ours_mean)(z)
    assert float(value) == pytest.approx(total.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, theirs_z.grad, atol=1e-6)
