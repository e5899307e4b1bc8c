"""Values sent to devices come back unchanged, and host memory is reused only when no array aliases it any more."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.engine._packing import pack
from fedjax_core.engine._transfer import BufferPool, flatten, unflatten
from tests import cohorts


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
        found = (jax.jit if jit else lambda f: f)(lambda tree: unflatten(flatten(tree)))(tree)
        assert jax.tree.structure(found) == jax.tree.structure(tree)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(tree)):
            assert a.dtype == b.dtype and a.shape == b.shape
            if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            np.testing.assert_array_equal(a, b)


def test_keys_and_numbers_of_32_bits_are_one_array_and_large_leaves_stay_alone():
    keys, large = jax.random.split(jax.random.key(0), 2), jnp.ones((100, 100))
    flat = flatten([jnp.ones((2, 3)), jnp.ones((2, 1), bool), jnp.ones((2, 5), jnp.int32), large, keys])
    expected = [((100, 100), jnp.float32), ((2 * 3 + 2 * 5 + 2 * 2,), jnp.uint32), ((2,), jnp.bool_)]
    assert [(a.shape, a.dtype) for a in flat.arrays] == expected


def test_every_bit_comes_back():
    bits = jnp.array([0x7FC00001, 0xFF812345, 0x80000000, 0x00000001], jnp.uint32)  # NaNs, a zero, a subnormal number
    found = jax.jit(lambda x: unflatten(flatten([x, x.view(jnp.int32)])))(bits.view(jnp.float32))
    assert all((x.view(jnp.uint32) == bits).all() for x in found)


def test_buffers_are_aligned():
    pool = BufferPool()
    for shape, dtype in (((3, 5), np.float32), ((7,), np.uint8), ((2, 2), np.float16)):
        array = pool.empty(shape, dtype)
        assert array.shape == shape and array.dtype == dtype and array.ctypes.data % 64 == 0 and array.flags.writeable
    assert pool.empty((0, 3), np.float32).shape == (0, 3)


def test_memory_is_used_again_when_nobody_holds_it():
    pool = BufferPool()
    array = pool.empty((1000,), np.float32)
    address, view = array.ctypes.data, array[5:].reshape(-1, 1)
    del array
    gc.collect()
    assert pool.empty((1000,), np.float32).ctypes.data != address
    del view
    gc.collect()
    assert any(pool.empty((1000,), np.float32).ctypes.data == address for _ in range(1))


def test_memory_under_a_device_array_is_not_used_again():
    pool = BufferPool()
    arrays = []
    for number in range(20):
        array = pool.empty((4096,), np.float32)
        array[:] = number
        arrays.append(jax.device_put(array, jax.devices()[number % 2]))
        del array
        gc.collect(0)
    for number, array in enumerate(arrays):
        np.testing.assert_array_equal(array, number)


def test_few_free_buffers_are_kept():
    pool = BufferPool()
    arrays = [pool.empty((1000,), np.float32) for _ in range(20)]
    del arrays
    gc.collect()
    assert sum(map(len, pool._free.values())) <= 4


def total(data):
    return data.sum()


@fc.federated_computation(fc.at_clients(cohorts.DATA))
def totals(data):
    return fc.federated_map(total, data)


@pytest.mark.parametrize("devices", [1, 2])
def test_cohorts_packed_ahead_are_not_overwritten(devices):
    run = totals.with_config(fc.EngineConfig(devices=devices))
    layout = fc.EngineConfig(devices=devices).resolve()
    clients = cohorts.make_population([40, 37, 44, 39, 41, 38, 42, 43, 40, 41])
    ids, rng = list(clients), np.random.default_rng(0)
    rounds = [rng.choice(ids, 6, replace=False).tolist() for _ in range(24)]
    ahead, results = [], []
    for chosen in rounds:
        ahead.append((chosen, cohorts.make_cohort(clients, chosen)))
        pack(ahead[-1][1], layout)
        if len(ahead) == 4:
            results.append((ahead[0][0], run(ahead.pop(0)[1])))
    results += [(chosen, run(cohort)) for chosen, cohort in ahead]
    for chosen, found in results:
        expected = [clients[i]["x"].sum(0, dtype=np.float64) for i in chosen]
        np.testing.assert_allclose(found["x"], expected, rtol=1e-4, atol=1e-4)
