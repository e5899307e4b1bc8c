"""Host memory is used again only when no array, on the host or on a device, is it any more."""

import gc

import jax
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.engine._buffers import BufferPool
from fedjax_core.engine._packing import pack
from tests import cohorts


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
