"""The extreme entries of a pytree."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core.aggregators._entries import largest_entry, smallest_entry


@pytest.mark.parametrize(
    "tree, largest, smallest",
    [
        ({"w": jnp.array([3.0, -4.0]), "n": jnp.array(-2)}, 4, 2),
        (jnp.array([3 + 4j, 1j]), 5, 1),
        (jnp.array([jnp.iinfo("int32").min]), 2**31, 2**31),
        (jnp.array([1.5, -0.25], "bfloat16"), 1.5, 0.25),
        ({"w": jnp.array([[-7.0]]), "none": jnp.zeros((0, 3))}, 7, 7),
        ({}, 0, np.inf),
        (jnp.array([-jnp.inf, 1.0]), np.inf, 1),
        (jnp.array([jnp.nan, 1.0]), np.nan, np.nan),
    ],
)
def test_extreme_entries(tree, largest, smallest):
    for function, expected in ((largest_entry, largest), (smallest_entry, smallest)):
        found = function(tree)
        assert found.dtype == np.float32 and found.shape == ()
        np.testing.assert_array_equal(found, np.float32(expected))
