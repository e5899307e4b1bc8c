"""A plan on devices: values by node in, one value for each output out."""

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
