import logging
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wlsrl_jax import ops
from wlsrl_jax.models.layers import BatchNorm
from wlsrl_jax.ops.kernels import build, calls
from wlsrl_jax.ops.normalisation import conv_norm_relu

needs_kernels = pytest.mark.skipif(
    not calls.usable(jnp.ones(1)), reason="no C++ compiler, or more than one device"
)


def fake_compiler(path, body):
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def fresh(monkeypatch):
    build._load.cache_clear()
    yield monkeypatch
    build._load.cache_clear()


def test_without_a_compiler_a_warning_says_so_and_xla_computes(fresh, caplog, tmp_path):
    fresh.setattr(build, "find_compiler", lambda: None)
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    x, k = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 3))
    with caplog.at_level(logging.WARNING):
        out = ops.conv2d(x, k)
    assert "no C++ compiler" in caplog.text and "g++" in caplog.text
    np.testing.assert_allclose(out, ops.conv2d(x, k, implementation="lax"))


def test_a_compiler_that_fails_is_quoted(fresh, tmp_path):
    broken = fake_compiler(tmp_path / "cxx", 'echo "cpu.cc:1: error: no such header" >&2; exit 1')
    fresh.setenv("CXX", broken)
    with pytest.raises(RuntimeError, match="no such header"):
        build.build(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())  # nothing half-made stays


def test_a_cache_that_cannot_be_written_is_named(fresh, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match="file"):
        build.build(tmp_path / "file")


@needs_kernels
def test_built_once(tmp_path):
    first = build.build(tmp_path)
    changed = first.stat().st_mtime_ns
    assert build.build(tmp_path) == first and first.stat().st_mtime_ns == changed
    assert [p.name for p in tmp_path.iterdir()] == [first.name]


@needs_kernels
def test_a_damaged_library_is_built_again_and_never_opened(fresh, tmp_path):
    """Opening one that is cut short would end this process."""
    first = build.build(tmp_path / "cache")
    whole = first.read_bytes()
    made = tmp_path / "made"
    made.write_bytes(whole)
    real = build.find_compiler()
    copies = f'[ "$1" = --version ] && exec {real} --version\nfor a; do last=$a; done; '
    fresh.setenv("CXX", fake_compiler(tmp_path / "cxx", f'{copies}cp {made} "$last"'))
    fresh.setattr(build, "try_library", lambda library, compiler: None)  # was tried above
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (whole[:5000], b"", b"\x7fELF" + bytes(60), bytes(flipped)):
        first.write_bytes(content)
        again = build.build(tmp_path / "cache")
        assert again.read_bytes() == whole
        assert [p.name for p in again.parent.iterdir()] == [again.name]


@needs_kernels
def test_a_library_that_answers_wrongly_is_not_used(fresh, tmp_path):
    """A compiler that makes something else of the same source, such as a broken one would."""
    real = build.find_compiler()
    nothing = tmp_path / "nothing.cc"
    nothing.write_text("int nothing;\n")
    wrapper = fake_compiler(
        tmp_path / "cxx",
        f'[ "$1" = --version ] && exec {real} --version\n'
        f'for a; do last=$a; done; exec {real} -shared -fPIC -o "$last" {nothing}',
    )
    fresh.setenv("CXX", wrapper)
    with pytest.raises(RuntimeError, match="does not answer rightly .*wlsrl_conv"):
        build.build(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@needs_kernels
@pytest.mark.parametrize("arch", ["x86-64-v3", "x86-64-v2"])
def test_other_vector_widths_compute_the_same(arch, tmp_path):
    """The code for AVX2 and for SSE, on a processor that has more."""
    if "x86_64" not in os.uname().machine:
        pytest.skip("not an x86-64 processor")
    code = """
import jax, numpy as np
from wlsrl_jax import ops
from wlsrl_jax.models.layers import BatchNorm
from wlsrl_jax.ops.kernels import build, calls
assert calls.usable(jax.numpy.ones(1))
rng = np.random.default_rng(0)
for c, o in ((3, 5), (16, 40), (70, 64)):
    x = rng.normal(size=(2, 9, 11, c)).astype("f")
    for f, k in ((ops.conv2d, (3, 3, c, o)), (ops.depthwise_conv2d, (3, 3, 1, c))):
        k = rng.normal(size=k).astype("f")
        g = lambda i: jax.grad(lambda x, k: (f(x, k, implementation=i) ** 2).sum(), (0, 1))(x, k)
        for a, b in zip(g("auto"), g("lax")):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * abs(b).max())
    outs = []
    for i in ("auto", "xla"):
        norm = BatchNorm(c, relu=True, pool=True, implementation=i)
        v = {"params": {"scale": np.linspace(-1, 1, c, dtype="f"), "bias": np.ones(c, "f")},
             "batch_stats": {"mean": np.zeros(c, "f"), "var": np.ones(c, "f")}}
        f = lambda x: (norm.apply(v, x, train=True, mutable=["batch_stats"])[0] ** 2).sum()
        outs.append(jax.grad(f)(x))
    np.testing.assert_allclose(*outs, rtol=1e-3, atol=1e-4)
print("same")
"""
    real = build.find_compiler()
    wrapper = fake_compiler(
        tmp_path / "cxx",
        f'for a; do shift; [ "$a" = -march=native ] && a=-march={arch}; set -- "$@" "$a"; done\n'
        f'exec {real} "$@"',
    )
    env = {**os.environ, "CXX": wrapper, "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == "same", done.stderr


SHAPES = [(2, 8, 8, 4), (1, 7, 9, 1), (3, 5, 5, 33), (2, 6, 7, 16), (1, 1, 1, 3), (4, 12, 16, 20)]


def variables(channels):
    rng = np.random.default_rng(channels)
    return {
        "params": {
            "scale": jnp.asarray(rng.normal(size=channels), jnp.float32),
            "bias": jnp.asarray(rng.normal(size=channels), jnp.float32),
        },
        "batch_stats": {
            "mean": jnp.asarray(rng.normal(size=channels), jnp.float32),
            "var": jnp.asarray(rng.uniform(0.5, 2, channels), jnp.float32),
        },
    }


def training(x, v, pool, implementation):
    """(output, new statistics, gradients)."""
    norm = BatchNorm(x.shape[3], relu=True, pool=pool, implementation=implementation)

    def loss(params, x):
        y, new = norm.apply({**v, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y)), (y, new)

    (_, aux), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(v["params"], x)
    return aux, grads


@needs_kernels
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm_relu_pool_equals_the_plain_one(shape, pool):
    x = jax.random.normal(jax.random.key(0), shape) * 3 + 5
    v = variables(shape[3])
    ours, plain = (training(x, v, pool, i) for i in ("auto", "xla"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), ours, plain)


@needs_kernels
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_convolution_with_what_follows_in_inference(shape, kernel_size, pool):
    x = jax.random.normal(jax.random.key(0), shape)
    k = jax.random.normal(jax.random.key(1), (kernel_size, kernel_size, shape[3], 21))
    a, b = jax.random.normal(jax.random.key(2), (2, 21))

    def both(implementation):
        f = lambda *args: jnp.sum(jnp.sin(conv_norm_relu(*args, pool, implementation)))  # noqa: E731
        return conv_norm_relu(x, k, a, b, pool, implementation), jax.grad(f, (0, 1, 2, 3))(
            x, k, a, b
        )

    ours, plain = both("auto"), both("lax")
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-3, atol=1e-3), ours, plain)


# Channels that make Winograd's method apply: few and many (own sums for each part of the tiles, or
# one for all), vectors that are not full, images of odd sides and of one pixel.
WINOGRAD = [
    (2, 8, 8, 16, 16),
    (1, 7, 9, 17, 33),
    (3, 5, 1, 16, 40),
    (1, 1, 1, 16, 16),
    (2, 13, 6, 48, 20),
    (4, 33, 30, 16, 24),
    (2, 9, 12, 80, 72),
    (1, 8, 8, 130, 64),
]


@needs_kernels
@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("shape", WINOGRAD)
def test_convolutions_of_many_channels_are_as_exact_as_lax(shape, kernel_size):
    *images, outputs = shape
    for padding in ("SAME", "VALID"):
        if padding == "VALID" and min(shape[1:3]) < kernel_size:
            continue

        def everything(implementation, dtype, padding=padding):
            rng = np.random.default_rng(0)
            x = rng.normal(size=images).astype(dtype)
            k = rng.normal(size=(kernel_size, kernel_size, images[3], outputs)).astype(dtype)
            y, vjp = jax.vjp(
                lambda x, k: ops.conv2d(x, k, padding=padding, implementation=implementation), x, k
            )
            found = y, *vjp(rng.normal(size=y.shape).astype(dtype))
            return [np.asarray(a, np.float64) for a in found]

        with jax.enable_x64(True):
            exact = everything("lax", np.float64)

        def errors(implementation, everything=everything, exact=exact):
            found = everything(implementation, np.float32)
            return [np.max(np.abs(a - b)) / np.max(np.abs(b)) for a, b in zip(found, exact)]

        ours, plain = errors("auto"), errors("lax")
        assert max(ours) < 2e-6, (ours, plain)


@needs_kernels
def test_moments_of_a_large_mean_are_exact():
    """Where E[x^2] - E[x]^2 in float32 would lose the variance."""
    x = 1000 + jax.random.normal(jax.random.key(0), (8, 32, 32, 4))
    mean, var = calls.moments(x)
    np.testing.assert_allclose(mean, np.mean(np.float64(x), (0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(var, np.var(np.float64(x), (0, 1, 2)), rtol=1e-4)


@needs_kernels
def test_the_same_bits_with_any_number_of_threads():
    code = """
import os, sys
os.sched_setaffinity(0, {int(c) for c in sys.argv[1].split(",")})
import jax, numpy as np
from wlsrl_jax.ops.kernels import calls
assert calls.usable(jax.numpy.ones(1))
import hashlib
def show(a):
    print(hashlib.sha256(np.asarray(a).tobytes()).hexdigest())
for channels, size in ((5, 3), (20, 3), (80, 3), (20, 1)):
    x, g = jax.random.normal(jax.random.key(0), (2, 12, 24, 24, channels))
    k = jax.random.normal(jax.random.key(1), (size, size, channels, channels))
    pads = ((size // 2, size // 2),) * 2
    show(calls.conv(x, k, pads))
    show(calls.conv_kernel_gradient(x, g, k, pads))
show(calls.moments(x)[1])
"""
    seen = set()
    cores = sorted(os.sched_getaffinity(0))
    for used in (cores[:1], cores):
        done = subprocess.run(
            [sys.executable, "-c", code, ",".join(map(str, used))],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        seen.add(done.stdout)
    assert len(seen) == 1
