import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core.models import layers

CASES = [
    ((2, 6, 4, 3), (2, 2)),
    ((2, 7, 5, 3), (2, 2)),
    ((2, 9, 7, 2), (3, 2)),
    ((3, 7, 2), (2,)),
    ((1, 4, 4, 4, 2), (2, 1, 3)),
]


def _images(shape, dtype=np.float32):
    """Small integers, so that many are equal."""
    return jnp.asarray(np.random.default_rng(0).integers(0, 3, shape), dtype)


def _flax(window):
    return lambda x: nn.max_pool(x, window, strides=window)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("shape", "window"), CASES)
def test_values_and_gradients_equal_flax_where_values_are_equal_too(shape, window, dtype):
    images = _images(shape, dtype)

    def ours(x):
        return layers.max_pool(x, window)

    assert ours(images).dtype == dtype
    np.testing.assert_array_equal(ours(images), _flax(window)(images))
    weights = jnp.arange(ours(images).size, dtype=dtype).reshape(ours(images).shape)
    gradients = [jax.jit(jax.grad(lambda x, p=p: (p(x) * weights).sum()))(images) for p in (ours, _flax(window))]
    np.testing.assert_array_equal(*gradients)
    assert gradients[0].dtype == dtype


def test_vmap_changes_nothing():
    images = _images((3, 2, 6, 4, 2))

    def gradient(x):
        return jax.grad(lambda x: jnp.square(layers.max_pool(x)).sum())(x)

    np.testing.assert_array_equal(jax.vmap(gradient)(images), jnp.stack([gradient(x) for x in images]))


def test_large_windows_and_forward_mode():
    images = _images((1, 13, 13, 2))
    _, tangent = jax.jvp(lambda x: layers.max_pool(x, (13, 13)), (images,), (jnp.ones_like(images),))
    np.testing.assert_array_equal(tangent, np.ones((1, 1, 1, 2)))


def test_batch_may_be_empty_or_symbolic():
    assert layers.max_pool(jnp.zeros((0, 6, 4, 3))).shape == (0, 3, 2, 3)
    (size,) = jax.export.symbolic_shape("b")
    gradient = jax.jit(jax.grad(lambda x: jnp.square(layers.max_pool(x)).sum()))
    exported = jax.export.export(gradient)(jax.ShapeDtypeStruct((size, 7, 4, 3), jnp.float32))
    images = _images((2, 7, 4, 3))
    np.testing.assert_array_equal(exported.call(images), gradient(images))


@pytest.mark.parametrize("window", [(2,), (2, 2, 2), (2, 0)])
def test_refuses_windows_that_do_not_fit(window):
    with pytest.raises(ValueError, match="max_pool"):
        layers.max_pool(jnp.zeros((2, 6, 4, 3)), window)
