"""A pytree of many arrays as a few."""

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
    yield jax.random.split(jax.random.key(0, impl="rbg"), (2, 3) if lead else 3)
    yield [jnp.ones((*scalar, 2), jnp.complex64), jnp.ones((*scalar, 3), jnp.int8), jnp.ones(scalar, jnp.uint32)]
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


def test_keys_and_numbers_of_32_bits_are_one_array():
    keys = jax.random.split(jax.random.key(0), 2)
    flat = flatten([jnp.ones((2, 3)), jnp.ones((2, 1), bool), jnp.ones((2, 5), jnp.int32), keys], 1)
    assert [(a.shape, a.dtype) for a in flat.joined] == [((2, 3 + 5 + 2), jnp.uint32), ((2, 1), jnp.bool_)]


def test_every_bit_comes_back():
    bits = jnp.array([0x7FC00001, 0xFF812345, 0x80000000, 0x00000001], jnp.uint32)  # NaNs, a zero, a subnormal number
    found = jax.jit(lambda x: unflatten(flatten([x, x.view(jnp.int32)], 0)))(bits.view(jnp.float32))
    assert all((x.view(jnp.uint32) == bits).all() for x in found)
