"""A batch size beyond the data, and lanes beyond the cohort, cost nothing and change no result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.engine import _packing
from tests import cohorts

SIZES = (15, 1, 7, 0, 12)


def make_round(seen, size="?"):
    def local(weights, data):
        def step(carry, batch, mask):
            seen.append(mask.shape[0])
            errors = jnp.where(mask, batch["x"] @ carry - batch["y"], 0.0)
            return carry - 0.1 * errors @ batch["x"] / mask.sum()

        return data.reduce(weights, step)

    data = fc.types.parse_type(f"<x=float32[{size},2],y=float32[{size}]>*")

    @fc.federated_computation(fc.at_server("float32[2]"), fc.at_clients(data))
    def next_(weights, data):
        return fc.federated_sum(fc.federated_map(local, fc.federated_broadcast(weights), data))

    return next_


def oracle(clients, weights):
    """One step on all examples of each client, in float64."""
    total = np.zeros(2)
    for client in clients.values():
        x, y = client["x"].astype(np.float64), client["y"].astype(np.float64)
        total += weights - (0.1 * (x @ weights - y) @ x / len(y) if len(y) else 0)
    return total


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("batch_size", [15, 20, 10**6, 10**9, 10**30])
def test_a_batch_beyond_the_data_is_as_wide_as_the_data(batch_size, lanes):
    clients, seen, weights = cohorts.make_population(SIZES), [], np.array([0.5, -1.0], np.float32)
    data = fc.data.from_clients(clients)
    run = make_round(seen).with_config(fc.EngineConfig(lanes=lanes))
    for batching in (fc.data.Batching(batch_size), fc.data.Batching(batch_size, shuffle=True)):
        cohort = data.cohort(list(clients), batching, key=jax.random.key(0))
        np.testing.assert_allclose(run(weights, cohort), oracle(clients, weights), rtol=1e-5)
        traced = run.as_function()(weights, fc.pack_cohort(cohort))
        np.testing.assert_allclose(traced, oracle(clients, weights), rtol=1e-5)
    assert max(size for size in seen if isinstance(size, int)) <= 18
    dropped = data.cohort(list(clients), fc.data.Batching(batch_size, drop_remainder=True))
    assert int(dropped.value.num_steps.sum()) == (1 if batch_size == 15 else 0)


def test_a_declared_size_stays_as_declared():
    clients, seen, weights = cohorts.make_population(SIZES), [], np.array([0.5, -1.0], np.float32)
    cohort = fc.data.from_clients(clients).cohort(list(clients), fc.data.Batching(200))
    run = make_round(seen, "200")
    np.testing.assert_allclose(run(weights, cohort), oracle(clients, weights), rtol=1e-5)
    assert set(seen) == {200} and cohort.value.width == 18


def test_stacked_cohorts_have_one_width():
    clients = cohorts.make_population((15, 3))
    data = fc.data.from_clients(clients)
    rounds = fc.stack_cohorts(data.cohort([i], fc.data.Batching(10**6)) for i in clients)
    assert rounds.value.index.shape == (2, 1, 1, 18)


def test_the_width_counts_repeated_examples():
    data = fc.data.from_clients(cohorts.make_population((15,)))
    ids = data.client_ids
    assert data.cohort(ids, fc.data.Batching(1000, num_epochs=4)).value.width == 62
    assert data.cohort(ids, fc.data.Batching(50, num_epochs=None), max_steps=2).value.width == 50


@pytest.mark.parametrize("shuffle", [False, True])
def test_more_examples_than_can_be_counted_are_refused(shuffle):
    data = fc.data.from_clients(cohorts.make_population((15,)))
    batching = fc.data.Batching(10**9, num_epochs=None, shuffle=shuffle)
    cohort = data.cohort(data.client_ids, batching, max_steps=3, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"gives a client 3000000000 examples.*2147483647; use a smaller batch_size"):
        make_round([])(np.zeros(2, np.float32), cohort)


def test_real_batches_beyond_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr(_packing, "device_memory", lambda device: 10**6 // 8)  # of each of the tests' devices
    data = fc.data.from_clients(cohorts.make_population((15,)))
    cohort = data.cohort(data.client_ids, fc.data.Batching(10**6, num_epochs=None), max_steps=1)
    with pytest.raises(ValueError, match=r"need \d+ bytes on a device, which has 1000000.*use a smaller batch"):
        make_round([])(np.zeros(2, np.float32), cohort)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_lanes_beyond_the_cohort_are_left_out(devices):
    clients, weights = cohorts.make_population(SIZES), np.array([0.5, -1.0], np.float32)
    cohort = fc.data.from_clients(clients).cohort(list(clients), fc.data.Batching(4))
    narrow, wide = (
        make_round([]).with_config(fc.EngineConfig(lanes=lanes, devices=devices))(weights, cohort) for lanes in (8, 64)
    )
    np.testing.assert_array_equal(narrow, wide)
    assert {layout.lanes for layout in cohort.packed} == {8}
