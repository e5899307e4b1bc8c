"""When leaves are worth being joined."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import trees


def test_small_leaves_have_at_most_4096_entries_that_are_known():
    (rows,) = jax.export.symbolic_shape("rows")
    small = [1.0, np.int32(3), jnp.ones((64, 64)), jnp.zeros((0, 10**9)), jax.random.key(0)]
    large = [jnp.ones(4097), jax.ShapeDtypeStruct((2, 4096), jnp.bool_), jax.ShapeDtypeStruct((rows,), jnp.float32)]
    assert all(map(trees.is_small, small)) and not any(map(trees.is_small, large))


def test_more_than_sixteen_are_many():
    assert [trees.are_many([1.0] * number) for number in (0, 1, 16, 17)] == [False, False, False, True]
