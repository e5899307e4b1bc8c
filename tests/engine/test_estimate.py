"""What a call takes is told before it is made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from tests import cohorts


@fc.federated_computation(fc.at_server("float32[1000]"), fc.at_clients(cohorts.DATA))
def totals(weights, data):
    def work(weights, data):
        return data.sum()["y"] + weights[:10]

    return fc.federated_sum(fc.federated_map(work, fc.federated_broadcast(weights), data))


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("lanes, budget, waves", [(1, None, 1), (3, None, 1), (1, 2000, None)])
def test_the_bytes_and_waves_are_those_of_the_packed_cohort(devices, lanes, budget, waves):
    config = fc.EngineConfig(lanes=lanes, devices=devices, memory_budget=budget)
    computation = totals.with_config(config)
    cohort = cohorts.make_cohort(cohorts.make_population([12, 0, 3, 9, 4, *([8] * 40)]))
    estimate = computation.estimate(cohort)
    assert not cohort.packed  # nothing was read
    computation(jnp.zeros(1000), cohort)
    (packing,) = cohort.packed.values()
    assert estimate.num_waves == packing.schedule.num_waves == (waves or estimate.num_waves)
    assert (estimate.num_waves > 1) == (budget is not None)
    if waves == 1:
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(packing.resident)) / devices
        np.testing.assert_allclose(estimate.device_bytes, held, rtol=0.2)
    assert (estimate.received_bytes, estimate.sent_bytes) == (4000, 40)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("budget", [None, 4000])
def test_the_programs_are_those_that_are_compiled(devices, budget):
    compiled = []

    def listen(event, duration, **more):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(more["fun_name"])

    @fc.federated_computation(fc.at_server("float32"), fc.at_clients(cohorts.DATA))
    def mean(shift, data):
        shifted = fc.federated_map(lambda s, d: d.sum()["y"] + s, fc.federated_broadcast(shift), data)
        return fc.federated_map(lambda total: total / 2, fc.federated_sum(shifted))

    mean = mean.with_config(fc.EngineConfig(devices=devices, memory_budget=budget))
    cohort = cohorts.make_cohort(cohorts.make_population([8] * 40))
    estimate = mean.estimate(cohort)
    assert (estimate.num_waves > 1) == (budget is not None)
    shift = jnp.float32(1)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        mean(shift, cohort)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    programs = [name for name in compiled if name not in ("jit(_flatten)", "jit(_joined)")]  # these only move arrays
    assert len(programs) == estimate.num_programs, compiled


def test_what_has_no_cohort_is_refused():
    with pytest.raises(TypeError, match=r"totals.estimate takes the cohort of a computation .*, got list; a call"):
        totals.estimate([1, 2])
    with pytest.raises(TypeError, match="no clients to estimate a call for; leave estimate out"):
        fc.computation(lambda x: x, "float32").estimate(None)
