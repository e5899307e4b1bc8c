"""A plan on devices: it takes values by node and returns one value for each output."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.engine import EngineConfig, Executable, plan_of
from fedjax_core.language.graph import node_of
from tests import cohorts


@pytest.fixture(scope="module")
def parts():
    """The parameters of a program, and its plan."""
    seen = {}

    @fc.federated_computation(fc.at_server("float32"), fc.at_clients(cohorts.DATA))
    def program(scale, data):
        examples = fc.federated_map(lambda data: data.num_examples, data)
        scaled = fc.federated_map(jnp.multiply, scale, fc.federated_sum(examples))
        seen["parameters"] = (node_of(scale), node_of(data))
        seen["outputs"] = (node_of(scaled), node_of(examples))
        return scaled, examples

    return seen["parameters"], plan_of(seen["parameters"], seen["outputs"])


COHORT = cohorts.make_cohort(cohorts.make_population([3, 0, 5]))


@pytest.mark.parametrize("devices", [1, 2])
def test_values_come_in_and_leave_by_node(parts, devices):
    (scale, data), plan = parts
    executable = Executable(plan, EngineConfig(devices=devices))
    executable.prefetch(COHORT, "program")
    assert EngineConfig(devices=devices).resolve() in COHORT.packed
    total, examples = executable.run({data: COHORT, scale: 2})
    assert float(total) == 16.0 and examples.tolist() == [3, 0, 5]


def test_a_trace_gives_the_same_and_counts_what_checks_refuse(parts):
    (scale, data), plan = parts
    executable, packed = Executable(plan, EngineConfig()), fc.pack_cohort(COHORT)
    (total, examples), refused = jax.jit(lambda s, c: executable.traced({scale: s, data: c}))(2.0, packed)
    assert float(total) == 16.0 and examples.tolist() == [3, 0, 5] and int(refused) == 0


def test_a_value_of_a_shape_that_has_passed_is_taken_as_it_is_and_others_are_checked(parts):
    (scale, data), plan = parts
    executable = Executable(plan, EngineConfig(devices=1))
    for value in (jnp.float32(2), jnp.float32(3)):
        assert float(executable.run({scale: value, data: COHORT})[0]) == 8 * float(value)
    for wrong in (jnp.int32(2), jnp.ones(1), np.float16(2)):
        with pytest.raises(TypeError, match=r"argument 'scale': expected float32, got"):
            executable.run({scale: wrong, data: COHORT})


def test_a_description_is_that_of_the_plan(parts):
    _, plan = parts
    text = Executable(plan, EngineConfig()).describe({})
    assert text.startswith("pass 1 over the clients") and text.endswith("receives 0 B, sends 4 B")


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
    with pytest.raises(
        TypeError, match=r"totals.estimate takes the cohort of a computation .*, got list; leave it out"
    ):
        totals.estimate([1, 2])
    with pytest.raises(TypeError, match="no cohort to estimate; leave estimate out"):
        fc.computation(lambda x: x, "float32").estimate(None)
