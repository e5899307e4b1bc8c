import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core.models import _layers


def _images(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("shape", "channels"), [((2, 9, 7, 1), 3), ((3, 6, 6, 5), 4)])
def test_conv3x3_equals_flax_and_its_gradients(shape, channels):
    images = _images(*shape)
    weights = _layers.init_conv3x3(jax.random.key(0), shape[-1], channels)
    conv = nn.Conv(channels, (3, 3), padding="VALID")
    flax_weights = conv.init(jax.random.key(0), images)["params"]
    assert jax.tree.map(jnp.shape, flax_weights) == jax.tree.map(jnp.shape, weights)

    def ours(weights, images):
        return jnp.sin(_layers.conv3x3(weights, images)).sum()

    def flax(weights, images):
        return jnp.sin(conv.apply({"params": weights}, images)).sum()

    np.testing.assert_allclose(
        _layers.conv3x3(weights, images), conv.apply({"params": weights}, images), rtol=1e-5, atol=1e-5
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        jax.grad(ours, (0, 1))(weights, images),
        jax.grad(flax, (0, 1))(weights, images),
    )


@pytest.mark.parametrize("shape", [(2, 6, 4, 3), (2, 7, 5, 3)])
def test_max_pool_equals_flax(shape):
    images = _images(*shape)
    expected = nn.max_pool(images, (2, 2), strides=(2, 2))
    np.testing.assert_array_equal(_layers.max_pool2x2(images), expected)


def test_initial_kernels_have_the_variance_of_lecun():
    kernel = _layers.init_dense(jax.random.key(0), 400, 300)["kernel"]
    assert abs(float(kernel.var()) * 400 - 1) < 0.02


def test_flatten_takes_an_empty_batch():
    assert _layers.flatten(jnp.zeros((0, 3, 4))).shape == (0, 12)
