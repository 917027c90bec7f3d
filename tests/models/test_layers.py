import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from wlsrl_jax.models.layers import BatchNorm, Conv, conv_norm, space_to_depth


def images(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("block", [1, 2, 4])
def test_space_to_depth_moves_every_pixel_of_a_block_into_channels(block):
    x = images((2, 8, 12, 3))
    out = space_to_depth(x, block)
    assert out.shape == (2, 8 // block, 12 // block, 3 * block**2)
    for row in range(block):
        for column in range(block):
            at = 3 * (row * block + column)
            expected = x[:, row::block, column::block]
            np.testing.assert_array_equal(out[..., at : at + 3], expected)


def started(module, x, *args):
    """Variables that are not those of the start."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.uniform(0.5, 2, p.shape), jnp.float32),
        module.init(jax.random.key(0), x, *args),
    )


@pytest.mark.parametrize("implementation", ["auto", "xla"])
@pytest.mark.parametrize("channels", [3, 20])
@pytest.mark.parametrize("relu", [False, True])
def test_batch_norm_is_flaxs(implementation, channels, relu):
    x = images((3, 5, 7, channels)) * 3 + 1
    ours = BatchNorm(channels, relu=relu, implementation=implementation)
    theirs = nn.BatchNorm(momentum=0.9, epsilon=1e-5)
    variables = started(theirs, x, True)
    variables["params"]["bias"] -= 3.0  # else nothing is below 0

    def own(variables, x, train):
        return ours.apply(variables, x, train=train, mutable=["batch_stats"])

    def flaxs(variables, x, train):
        y, new = theirs.apply(variables, x, not train, mutable=["batch_stats"])
        return nn.relu(y) if relu else y, new

    def results(apply, train):
        def loss(params, x):
            y, new = apply({**variables, "params": params}, x, train)
            return jnp.sum(jnp.sin(y)), (y, new)

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables["params"], x)

    for train in (True, False):
        for a, b in zip(*(jax.tree.leaves(results(apply, train)) for apply in (own, flaxs))):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("implementation", ["auto", "lax"])
def test_a_convolution_and_its_normalisation_are_one_after_the_other(
    relu, depthwise, stride, implementation
):
    """Whatever is done in one pass in inference."""
    width = 16 if depthwise else 20

    class Both(nn.Module):
        apart: bool

        @nn.compact
        def __call__(self, x, train):
            conv = Conv(width, depthwise=depthwise, stride=stride, name="conv",
                        implementation=implementation)  # fmt: skip
            norm = BatchNorm(width, relu=relu, name="norm", implementation=implementation)
            if self.apart:
                return norm(conv(x), train=train)
            return conv_norm(x, conv, norm, train=train)

    x = images((2, 9, 12, 16))
    variables = started(Both(True), x, True)
    variables["params"]["conv"]["kernel"] -= 1.2  # of both signs
    for train in (False, True):
        apart, ours = (
            Both(apart).apply(variables, x, train, mutable=["batch_stats"])
            for apart in (True, False)
        )
        assert (apart[0].min() < 0) == (not relu)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(apart)):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))
