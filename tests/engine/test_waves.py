"""Cohorts larger than the memory budget."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.engine import _packing
from tests import cohorts

COHORT_SIZES = [12, 0, 3, 9, 4, *([8] * 40)]


@fc.federated_computation(fc.at_clients(cohorts.DATA))
def totals(data):
    total = fc.federated_map(lambda data: data.sum()["y"], data)
    return fc.federated_sum(total), fc.federated_collect(total), total


def in_waves(devices=2, budget=1500):
    return totals.with_config(fc.EngineConfig(devices=devices, memory_budget=budget))


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_values_of_clients_come_back_in_cohort_order(devices):
    clients = cohorts.make_population(COHORT_SIZES)
    ids = np.random.default_rng(0).permutation(list(clients)).tolist()
    cohort = cohorts.make_cohort(clients, ids)
    total, collected, kept = in_waves(devices, 400)(cohort)
    (packing,) = cohort.packed.values()
    assert packing.schedule.num_waves > 1
    expected = np.array([clients[i]["y"].sum(dtype=np.float64) for i in ids])
    np.testing.assert_allclose(collected, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(collected, kept)
    np.testing.assert_allclose(total, expected.sum(), rtol=1e-5)


def test_waves_run_through_one_program():
    compiled = []

    def listen(name, duration, **details):
        if name == "/jax/core/compile/backend_compile_duration":
            compiled.append(details)

    run = in_waves()
    cohort = cohorts.make_cohort(cohorts.make_population(COHORT_SIZES))
    run(cohort)
    (packing,) = cohort.packed.values()
    assert packing.schedule.num_waves > 4
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run(cohort)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled


@pytest.mark.parametrize("devices", [1, 2])
def test_no_more_than_two_waves_are_in_memory(devices, monkeypatch):
    pack_wave = _packing.pack_wave
    before = {id(x) for x in jax.live_arrays()}
    bytes_alive = []

    def measured(cohort, packing, wave):
        clients = pack_wave(cohort, packing, wave)
        bytes_alive.append(sum(x.nbytes for x in jax.live_arrays() if id(x) not in before))
        return clients

    monkeypatch.setattr("fedjax_core.engine._run.pack_wave", measured)
    cohort = cohorts.make_cohort(cohorts.make_population([40] * 200))
    in_waves(devices, budget := 20_000)(cohort)
    assert len(bytes_alive) > 3
    assert max(bytes_alive) <= budget * devices * 1.2


def test_the_next_wave_is_read_before_the_one_that_computes_is_waited_for(monkeypatch):
    events = []

    def told_to_pack(cohort, packing, wave, pack_wave=_packing.pack_wave):
        events.append(f"read {wave}")
        return pack_wave(cohort, packing, wave)

    def told_to_wait(value, wait=jax.block_until_ready):
        if value is not None:
            events.append("wait")
        return wait(value)

    monkeypatch.setattr("fedjax_core.engine._run.pack_wave", told_to_pack)
    monkeypatch.setattr(jax, "block_until_ready", told_to_wait)
    in_waves()(cohorts.make_cohort(cohorts.make_population(COHORT_SIZES)))
    assert events[:5] == ["read 0", "read 1", "wait", "read 2", "wait"]


def test_more_than_the_budget_is_not_kept():
    @fc.federated_computation(fc.at_clients("int32"))
    def wide(values):
        return fc.federated_collect(fc.federated_map(lambda v: jnp.full((100,), v), values))

    fits = wide.with_config(fc.EngineConfig(memory_budget=8000))
    assert fits(list(range(20))).shape == (20, 100)
    with pytest.raises(
        ValueError,
        match=r"federated_collect at .*test_waves.*keeps int32\[100\] of each of 21 clients, "
        r"8400 bytes in all, but the memory budget is 8000 bytes; .*EngineConfig\(memory_budget=8400\)",
    ):
        fits(list(range(21)))


def test_all_that_is_kept_together_is_within_the_budget():
    @fc.federated_computation(fc.at_clients("int32"))
    def two(values):
        wide, narrow = (fc.federated_map(lambda v, n=n: jnp.full((n,), v), values) for n in (100, 60))
        return fc.federated_collect(narrow), fc.federated_collect(wide)

    fits = two.with_config(fc.EngineConfig(memory_budget=12_800))
    assert [x.shape for x in fits(list(range(20)))] == [(20, 60), (20, 100)]
    with pytest.raises(
        ValueError,
        match=r"keeps int32\[100\] of each of 21 clients, with 5040 of others 13440 bytes in all, but the memory "
        r"budget is 12800 bytes; .*EngineConfig\(memory_budget=13440\)",
    ):
        fits(list(range(21)))


def test_results_at_clients_are_not_kept_beyond_the_budget():
    @fc.federated_computation(fc.at_clients("int32"))
    def wide(values):
        return fc.federated_map(lambda v: jnp.full((100,), v), values)

    with pytest.raises(ValueError, match=r"a result at CLIENTS keeps int32\[100\] of each of 3 clients"):
        wide.with_config(fc.EngineConfig(memory_budget=800))([1, 2, 3])
