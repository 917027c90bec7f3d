import functools
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from wlsrl_jax import ops
from wlsrl_jax.ops.kernels import calls


def arrays(kind, shape, kernel, multiplier=1, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    inputs, outputs = (1, shape[3] * multiplier) if kind == "depthwise" else (shape[3], 5)
    return (
        rng.normal(size=shape).astype(dtype),
        rng.normal(size=(*kernel, inputs, outputs)).astype(dtype),
    )


def operation(kind):
    return ops.depthwise_conv2d if kind == "depthwise" else ops.conv2d


def value_and_gradients(kind, x, k, implementation, **options):
    f = functools.partial(operation(kind), implementation=implementation, **options)
    out, vjp = jax.vjp(f, x, k)
    weight = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape).astype(out.dtype)
    return (out, *vjp(weight))


def error(got, reference):
    reference = np.asarray(reference, np.float64)
    return np.abs(np.asarray(got, np.float64) - reference).max() / max(np.abs(reference).max(), 1)


CASES = [
    ((2, 8, 8, 4), (3, 3), "SAME"),
    ((1, 7, 9, 1), (3, 3), "SAME"),
    ((3, 9, 5, 3), (5, 3), "SAME"),
    ((2, 6, 7, 2), (3, 3), "VALID"),
    ((4, 5, 5, 6), (1, 1), "SAME"),
    ((2, 6, 6, 3), (2, 4), "SAME"),
    ((2, 12, 20, 40), (3, 3), "SAME"),
    ((3, 70, 5, 17), (5, 5), "VALID"),
    ((2, 5, 30, 16), (3, 3), "SAME"),  # rows long enough to be read in place
    ((1, 6, 27, 32), (5, 3), "VALID"),
    ((2, 3, 24, 16), (3, 9), "SAME"),
]


@pytest.mark.parametrize("kind", ["standard", "depthwise"])
@pytest.mark.parametrize("implementation", ["auto", "xla"])
@pytest.mark.parametrize(("shape", "kernel", "padding"), CASES)
def test_values_and_gradients_equal_the_plain_convolution(
    kind, shape, kernel, padding, implementation
):
    x, k = arrays(kind, shape, kernel)
    with jax.enable_x64(True):
        reference = value_and_gradients(kind, *map(np.float64, (x, k)), "lax", padding=padding)
        ours = value_and_gradients(kind, *map(np.float64, (x, k)), implementation, padding=padding)
        assert max(map(error, ours, reference)) <= 1e-12
    ours = value_and_gradients(kind, x, k, implementation, padding=padding)
    assert max(map(error, ours, reference)) <= 1e-5


@pytest.mark.parametrize("kind", ["standard", "depthwise"])
def test_bfloat16_is_no_worse_than_plain(kind):
    x, k = (jnp.asarray(a, jnp.bfloat16) for a in arrays(kind, (4, 16, 16, 8), (3, 3)))
    with jax.enable_x64(True):
        reference = value_and_gradients(
            kind, np.asarray(x, np.float64), np.asarray(k, np.float64), "lax"
        )
    ours = map(error, value_and_gradients(kind, x, k, "auto"), reference)
    plain = map(error, value_and_gradients(kind, x, k, "lax"), reference)
    for a, b in zip(ours, plain):
        assert a <= max(2 * b, 2**-8)  # one rounding to bfloat16


@pytest.mark.parametrize("kind", ["standard", "depthwise"])
@pytest.mark.parametrize("implementation", ["auto", "xla"])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)])
def test_strides_dilations_and_channel_multiplier(kind, implementation, padding, stride, dilation):
    x, k = arrays(kind, (2, 11, 8, 3), (3, 3), multiplier=2)
    options = {"stride": stride, "dilation": dilation, "padding": padding}
    ours = value_and_gradients(kind, x, k, implementation, **options)
    plain = value_and_gradients(kind, x, k, "lax", **options)
    assert max(map(error, ours, plain)) <= 1e-5


STRIDED = [  # stem, first convolution of a stage, projection of a residual network; odd ones
    ((2, 24, 32, 1), (7, 7), ((3, 3), (3, 3))),
    ((2, 11, 13, 3), (7, 7), ((3, 3), (3, 3))),
    ((2, 12, 14, 16), (3, 3), ((1, 1), (1, 1))),
    ((2, 9, 7, 20), (3, 3), ((1, 1), (1, 1))),
    ((2, 9, 7, 3), (3, 3), ((1, 1), (1, 1))),
    ((2, 9, 8, 20), (1, 1), "SAME"),
    ((2, 9, 8, 3), (1, 1), "VALID"),
    ((1, 10, 11, 17), (2, 5), ((0, 2), (3, 1))),
    ((1, 7, 3, 17), (3, 3), "VALID"),
    ((1, 1, 1, 16), (3, 3), ((1, 1), (1, 1))),
]


@pytest.mark.parametrize("implementation", ["auto", "xla"])
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize(("shape", "kernel", "padding"), STRIDED)
def test_strides_of_residual_networks(shape, kernel, padding, stride, implementation):
    x, k = arrays("standard", shape, kernel)
    options = {"stride": stride, "padding": padding}
    ours = value_and_gradients("standard", x, k, implementation, **options)
    with jax.enable_x64(True):
        reference = value_and_gradients("standard", *map(np.float64, (x, k)), "lax", **options)
    assert max(map(error, ours, reference)) <= 1e-5


def test_strides_use_the_compiled_kernels():
    """Else nothing above would have tried them."""
    x, k = arrays("standard", (2, 12, 14, 16), (3, 3))
    if not calls.usable(x, k):
        pytest.skip("needs a C++ compiler and one CPU device")

    def both(x, k):
        f = functools.partial(ops.conv2d, stride=2)
        return jax.grad(lambda x, k: jnp.sum(f(x, k) ** 2), (0, 1))(x, k)

    text = jax.jit(both).lower(x, k).as_text()
    assert "wlsrl_conv_kernel_gradient" in text and "stablehlo.convolution" not in text


@pytest.mark.parametrize("kind", ["standard", "depthwise"])
@pytest.mark.parametrize("stride", [1, 2])
def test_under_jit_vmap_and_remat(kind, stride):
    x, k = arrays(kind, (2, 6, 6, 3), (3, 3))
    f = functools.partial(operation(kind), stride=stride)
    plain = functools.partial(f, implementation="lax")

    def gradient(f):
        return jax.grad(lambda x, k: jnp.sum(jnp.sin(f(x, k))), (0, 1))

    expected = gradient(plain)(x, k)
    for changed in (jax.jit(gradient(f)), gradient(jax.checkpoint(f))):
        assert max(map(error, changed(x, k), expected)) <= 1e-5
    many = np.stack([x, 2 * x])
    got = jax.vmap(gradient(f), (0, None))(many, k)
    want = [np.stack(p) for p in zip(gradient(plain)(many[0], k), gradient(plain)(many[1], k))]
    assert max(map(error, got, want)) <= 1e-5


@pytest.mark.parametrize("kind", ["standard", "depthwise"])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("stride", [1, 2])
def test_accelerators_get_the_plain_convolution_only(kind, platform, stride):
    x, k = arrays(kind, (2, 8, 8, 4), (3, 3))
    f = functools.partial(operation(kind), stride=stride)

    def both(x, k):
        return jax.grad(lambda x, k: jnp.sum(f(x, k) ** 2), (0, 1))(x, k)

    text = export.export(jax.jit(both), platforms=[platform])(x, k).mlir_module()
    assert len(re.findall(r"stablehlo\.convolution", text)) == 3
    assert "while" not in text and "dot_general" not in text


def test_result_does_not_depend_on_the_number_of_devices():
    code = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from wlsrl_jax import ops
rng = np.random.default_rng(0)
x = rng.normal(size=(16, 6, 6, 3)).astype(np.float32)
for f, shape in ((ops.conv2d, (3, 3, 3, 4)), (ops.depthwise_conv2d, (3, 3, 1, 3))):
    k = rng.normal(size=shape).astype(np.float32)
    g = jax.jit(jax.grad(lambda x, k: jnp.sum(jnp.sin(f(x, k))), (0, 1)))
    sharding = NamedSharding(Mesh(np.array(jax.devices()), "d"), P("d"))
    for a, b in zip(g(x, k), g(jax.device_put(x, sharding), k)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
print(jax.device_count())
"""
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "8", done.stderr


def test_wrong_arguments_are_named():
    x = np.zeros((1, 4, 4, 3), np.float32)
    with pytest.raises(ValueError, match="x has 3"):
        ops.conv2d(x, np.zeros((3, 3, 2, 4), np.float32))
    with pytest.raises(ValueError, match=r"\[kh, kw, 1, k \* 3\]"):
        ops.depthwise_conv2d(x, np.zeros((3, 3, 1, 4), np.float32))
    with pytest.raises(ValueError, match="stride=0"):
        ops.conv2d(x, np.zeros((3, 3, 3, 4), np.float32), stride=0)
    for options in ({"padding": "FULL"}, {"implementation": "fast"}):
        with pytest.raises(ValueError, match="unknown; choose"):
            ops.conv2d(x, np.zeros((3, 3, 3, 4), np.float32), **options)
    with pytest.raises(ValueError, match="must not be negative"):
        ops.conv2d(x, np.zeros((3, 3, 3, 4), np.float32), padding=((1, 1), (-1, 1)))
    with pytest.raises(ValueError, match="must be"):
        ops.conv2d(x[0], np.zeros((3, 3, 3, 4), np.float32))


def test_gradients_of_stacked_kernels_in_bfloat16():
    """A shared image and a stack of kernels, under vmap."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3), jnp.bfloat16)
    kernels = jax.random.normal(jax.random.key(1), (4, 3, 3, 3, 5), jnp.bfloat16)

    def loss(x, k, implementation):
        return jnp.sum(ops.conv2d(x, k, implementation=implementation).astype(jnp.float32) ** 2)

    both = [
        jax.vmap(jax.grad(loss, 1), in_axes=(None, 0, None))(x, kernels, i) for i in ("auto", "lax")
    ]
    np.testing.assert_allclose(*(np.asarray(g, np.float32) for g in both), rtol=0.05, atol=1.0)


@pytest.mark.parametrize("op", [ops.conv2d, ops.depthwise_conv2d])
def test_a_kernel_larger_than_the_image_gives_nothing_as_lax(op):
    kernel = jnp.ones((5, 5, 1 if op is ops.depthwise_conv2d else 2, 2))

    def loss(x, k, implementation):
        return jnp.sum(op(x, k, padding="VALID", implementation=implementation))

    for implementation in ("auto", "lax"):
        out = op(jnp.ones((1, 3, 8, 2)), kernel, padding="VALID", implementation=implementation)
        assert out.shape == (1, 0, 4, 2)
        grads = jax.grad(loss, (0, 1))(jnp.ones((1, 3, 8, 2)), kernel, implementation)
        assert all(not np.any(g) for g in grads)
