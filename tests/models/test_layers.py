import jax
import jax.numpy as jnp

from fedjax_core.models import _layers


def test_initial_kernels_have_the_variance_of_lecun():
    kernel = _layers.init_dense(jax.random.key(0), 400, 300)["kernel"]
    assert abs(float(kernel.var()) * 400 - 1) < 0.02


def test_flatten_takes_an_empty_batch():
    assert _layers.flatten(jnp.zeros((0, 3, 4))).shape == (0, 12)
