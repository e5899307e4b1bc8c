"""A pytree of many arrays as one per dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core.engine._flat import flatten, unflatten


def trees(lead: int):
    key = jax.random.split(jax.random.key(0), 2)
    scalar = (2,) * lead
    yield {"w": jnp.ones((*scalar, 3, 4)), "n": jnp.arange(2) if lead else jnp.int32(7), "b": jnp.zeros((*scalar, 0))}
    yield (jnp.full((*scalar, 2), jnp.nan), None, [jnp.ones(scalar, bool), jnp.ones((*scalar, 5), jnp.bfloat16)])
    yield {"key": key if lead else key[0], "x": jnp.ones(scalar)}
    yield [jnp.ones((*scalar, 2)), jnp.ones((*scalar, 0), jnp.int32)]
    yield ()


@pytest.mark.parametrize("lead", [0, 1])
@pytest.mark.parametrize("jit", [False, True])
def test_it_comes_back_as_it_was(lead, jit):
    for tree in trees(lead):
        found = (jax.jit if jit else lambda f: f)(lambda tree: unflatten(flatten(tree, lead)))(tree)
        assert jax.tree.structure(found) == jax.tree.structure(tree)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(tree)):
            assert a.dtype == b.dtype and a.shape == b.shape
            if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            np.testing.assert_array_equal(a, b)


def test_there_is_one_array_per_dtype():
    flat = flatten([jnp.ones((2, 3)), jnp.ones((2, 1)), jnp.ones((2, 5), jnp.int32)], 1)
    assert [a.shape for a in flat.joined] == [(2, 4), (2, 5)] and not flat.keys
