"""Plans: as few passes over the clients as the program allows."""

import jax.numpy as jnp
import pytest

import fedjax_core as fc
from fedjax_core.engine._plan import plan_of
from fedjax_core.language._placed import node_of

FLOATS = fc.at_clients("float32")


def planned(fn, *types):
    """The plan of a function of placed values that returns a tuple of them."""
    seen = {}

    def traced(*placed):
        outputs = fn(*placed)
        seen["plan"] = plan_of(tuple(map(node_of, placed)), tuple(map(node_of, outputs)))
        return outputs

    fc.federated_computation(traced, *types)
    return seen["plan"]


def test_a_round_with_many_aggregates_is_one_pass():
    def round_(state, data, labels):
        weights = fc.federated_broadcast(state.w)
        update = fc.federated_map(lambda w, d: d.reduce(w, lambda w, b, m: w + jnp.sum(b)), weights, data)
        metrics = [fc.federated_sum(fc.federated_map(lambda u, y, k=k: k * u + y, update, labels)) for k in range(9)]
        mean = fc.federated_mean(update, fc.federated_map(lambda d: d.num_batches, data))
        new = fc.federated_map(lambda s, m: {"r": s["r"] + 1, "w": m}, state, mean)
        return (new, fc.federated_max(update), fc.federated_collect(labels), update, *metrics)

    state = fc.at_server({"r": "int32", "w": "float32"})
    plan = planned(round_, state, fc.at_clients(fc.types.parse_type("float32[?]*")), FLOATS)
    (only,) = plan.passes
    assert len(only.aggregates) == 11 and len(only.collected) == 1 and len(only.materialized) == 2
    assert len(only.server_inputs) == 1 and len(plan.client_parameters) == 2


def test_what_depends_on_an_aggregate_needs_another_pass():
    def levels(values):
        center, passes = fc.federated_mean(values), []
        for _ in range(3):
            moved = fc.federated_map(jnp.subtract, values, fc.federated_broadcast(center))
            center = fc.federated_mean(fc.federated_map(jnp.abs, moved))
            passes.append(center)
        return tuple(passes)

    assert len(planned(levels, FLOATS).passes) == 4
    assert len(planned(lambda v: (*levels(v), fc.federated_sum(v), fc.federated_max(v)), FLOATS).passes) == 4


def test_results_at_the_clients_wait_for_what_they_read():
    def both(values):
        shifted = fc.federated_map(jnp.subtract, values, fc.federated_broadcast(fc.federated_mean(values)))
        return values, shifted

    first, second = planned(both, FLOATS).passes
    assert len(first.materialized) == len(second.materialized) == 1 and second.aggregates == ()


def test_server_programs_need_no_pass():
    plan = planned(lambda s: (fc.federated_map(jnp.exp, s), fc.federated_broadcast(s)), fc.at_server("float32"))
    assert plan.passes == () and len(plan.phases) == 1
    assert planned(lambda s, v: (s,), fc.at_server("float32"), FLOATS).passes == ()


def test_checks_are_part_of_the_plan_only_where_the_sum_is_used():
    def used(values):
        fc.federated_secure_sum(values, 3)
        return (fc.federated_map(lambda t: t + 1, fc.federated_secure_sum(values, 5)),)

    plan = planned(used, fc.at_clients("int32"))
    assert len(plan.checks) == 2 and len(plan.passes) == 1 and len(plan.passes[0].aggregates) == 1


def test_a_collected_value_may_be_used_passes_later():
    @fc.federated_computation(FLOATS)
    def run(values):
        everyone, total = fc.federated_collect(values), fc.federated_sum(values)
        scaled = fc.federated_map(jnp.multiply, values, fc.federated_broadcast(total))
        again = fc.federated_map(jnp.subtract, scaled, fc.federated_broadcast(fc.federated_max(scaled)))
        return fc.federated_map(lambda c, t: c + t, everyone, fc.federated_sum(again)), everyone

    values = [1.0, 2.0, 3.0]
    shift = sum(6 * v - 18 for v in values)
    for found in (run(values), run.as_function()(jnp.array(values))):
        assert found[0].tolist() == [v + shift for v in values] and found[1].tolist() == values


@pytest.mark.parametrize("devices", [1, 2])
def test_a_server_value_that_several_passes_read(devices):
    @fc.federated_computation(fc.at_server({"a": "float32", "b": "float32[2]"}), FLOATS)
    def run(state, values):
        first = fc.federated_sum(fc.federated_map(lambda v, a: v * a, values, fc.federated_broadcast(state.a)))
        both = fc.federated_broadcast(fc.federated_zip((first, state.b, fc.federated_map(jnp.negative, state.a))))
        return fc.federated_sum(fc.federated_map(lambda v, s: v * s[1] + s[0] + s[2], values, both)), state

    total, state = run.with_config(fc.EngineConfig(devices=devices))({"a": 2.0, "b": [1.0, 10.0]}, [1.0, 2.0])
    assert total.tolist() == [3.0 + 2 * 4, 30.0 + 2 * 4] and float(state["a"]) == 2.0
