"""The laws of aggregators: for each of them one that breaks it and keeps the others."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core import testing
from fedjax_core.contracts import Aggregator
from fedjax_core.templates import MeasuredProcessOutput
from tests.broken_laws import broken, repeat_clients_in_waves
from tests.marks import with_slow


def nothing():
    return fc.federated_value((), fc.SERVER)


def aggregator(result, init=None, advance=lambda state, value, weight: state) -> Aggregator:
    """An aggregator with this result, and this first and next state."""

    def next(state, value, weight):
        return MeasuredProcessOutput(advance(state, value, weight), result(value, weight), nothing())

    return Aggregator(lambda value_type: nothing() if init is None else fc.federated_value(init, fc.SERVER), next)


def mean(value, weight):
    """The weighted mean, zero over nobody."""
    total = fc.federated_sum(fc.federated_map(lambda v, w: (v * w, w), value, weight))
    return fc.federated_map(lambda t: t[0] / jnp.maximum(t[1], 1.0), total)


def after_mean(fn):
    return aggregator(lambda value, weight: fc.federated_map(fn, mean(value, weight)))


def at_clients(fn):
    return aggregator(lambda value, weight: mean(fc.federated_map(fn, value), weight))


def of_changing_dtype():
    traced = []

    def narrow(x):
        traced.append(x)
        return x.astype(jnp.float32 if len(traced) <= limit else jnp.float16)

    limit = 100
    changing = after_mean(narrow)
    fc.aggregators.as_process(changing, "float32")
    limit = 2 * len(traced)
    return changing


class Count(NamedTuple):
    number: int


def of_changing_containers():
    def advance(state, value, weight):
        return fc.federated_map(lambda s: Count(s["number"] + 1), state)

    return aggregator(mean, {"number": 0}, advance)


def of_hidden_randomness():
    numbers = itertools.count()

    def shifted(value, weight):
        number = next(numbers)
        return fc.federated_map(lambda m: m + number, mean(value, weight))

    return aggregator(shifted)


def compiling():
    def host(x):
        jax.jit(lambda y: y + 1).lower(np.float32(0)).compile()
        return np.asarray(x)

    return after_mean(lambda m: jax.pure_callback(host, jax.ShapeDtypeStruct((), "float32"), m))


def of_the_first_client():
    def first(values):
        return jnp.where(jnp.arange(values.shape[0]) == 0, values, 0.0).sum()

    return aggregator(lambda value, weight: fc.federated_map(first, fc.federated_collect(value)))


def of_padding():
    """A mean of collected rows that forgets their mask."""

    def mean(rows, weights):
        return jnp.where(weights > 0, rows, 0.0).sum() / jnp.ones_like(weights).sum()

    def of_rows(value, weight):
        return fc.federated_map(mean, *fc.federated_collect((value, weight), padded=True)[0])

    return aggregator(of_rows)


def of_the_device():
    def device(v):
        try:
            return v + jax.lax.axis_index("clients")
        except NameError:
            return v

    return at_clients(device)


def of_the_lanes():
    @jax.custom_batching.custom_vmap
    def same(x):
        return x

    same.def_vmap(lambda axis_size, is_batched, x: (2 * x, is_batched[0]))
    return at_clients(same)


def poisoned():
    def advance(state, value, weight):
        return fc.federated_map(jnp.add, state, fc.federated_sum(value))

    return aggregator(mean, np.float32(0), advance)


def with_a_hidden_state():
    rounds = []

    def init(value_type):
        return fc.federated_eval(lambda: jax.pure_callback(reset, jax.ShapeDtypeStruct((), "float32")), fc.SERVER)

    def reset():
        rounds.clear()
        return np.float32(1)

    def count(state):
        rounds.append(state)
        return np.float32(len(rounds))

    def next(state, value, weight):
        number = fc.federated_map(lambda s: jax.pure_callback(count, jax.ShapeDtypeStruct((), "float32"), s), state)
        return MeasuredProcessOutput(state, fc.federated_map(jnp.multiply, number, mean(value, weight)), nothing())

    return Aggregator(init, next)


def diluted():
    def total(value, weight):
        sums = fc.federated_sum(fc.federated_map(lambda v: (v, 1.0), value))
        return fc.federated_map(lambda t: t[0] / jnp.maximum(t[1], 1.0), sums)

    return aggregator(total)


def infinite_for_nobody():
    def advance(state, value, weight):
        return fc.federated_map(lambda s, n: 1 / n, state, fc.federated_sum(fc.federated_map(lambda v: 1.0, value)))

    return aggregator(mean, np.float32(0), advance)


def aggregated(zero, merge):
    """Sums a client's value, and merges the sums of several clients."""

    def combined(value, weight):
        return fc.federated_aggregate(value, zero, lambda total, v: total + v, merge, lambda total: total)

    return aggregator(combined)


def mean_of_two(a, b):
    return jnp.where(a == 0, b, jnp.where(b == 0, a, (a + b) / 2))


AGGREGATORS = {
    "types": of_changing_dtype,
    "state_structure": of_changing_containers,
    "same_key": of_hidden_randomness,
    "one_trace": compiling,
    "order": of_the_first_client,
    "devices": of_the_device,
    "lanes": of_the_lanes,
    "non_finite": poisoned,
    "resume": with_a_hidden_state,
    "padding": diluted,
    "empty": infinite_for_nobody,
    "result_type": lambda: after_mean(lambda m: m.astype("bfloat16")),
    "empty_result": lambda: aggregator(fc.federated_mean),
}
MERGES = {"zero": (1.0, jnp.add), "associative": (0.0, mean_of_two)}
"""Aggregates whose result may depend on how the clients are grouped, so that they may break other laws, too."""

COMPILED = {"same_key", "order", "devices", "waves", "lanes"}
"""Laws that compile programs of their own, and are tried together on what breaks one of them."""

BY_OPTION = {"neutral": {"neutral": fc.aggregators.sum()}, "finite_result": {"finite": True}}


@pytest.mark.parametrize("law", AGGREGATORS)
def test_an_aggregator_breaks_this_law_alone(law):
    laws = testing.AGGREGATOR_LAWS if law in COMPILED else testing.AGGREGATOR_LAWS.keys() - COMPILED
    assert broken(testing.check_aggregator, AGGREGATORS[law](), "float32", laws=laws) == {law}


@pytest.mark.parametrize("law", MERGES)
def test_a_merge_in_an_aggregator_breaks_this_law_of_merges_alone(law):
    found = broken(testing.check_aggregator, aggregated(*MERGES[law]), "float32", laws=testing.AGGREGATE_LAWS)
    assert found == {law}


@pytest.mark.parametrize("law", BY_OPTION)
def test_an_aggregator_breaks_what_it_was_said_to_keep(law):
    assert broken(testing.check_aggregator, fc.aggregators.mean(), "float32", **BY_OPTION[law], laws=law) == {law}


@pytest.mark.parametrize("value_type", with_slow(["float32", "float32[500]"], {"float32[500]"}))
def test_waves_that_repeat_clients_break_that_law_alone(monkeypatch, value_type):
    repeat_clients_in_waves(monkeypatch)
    assert broken(testing.check_aggregator, fc.aggregators.mean(), value_type, tolerance=1e-3) == {"waves"}


def test_a_forgotten_mask_of_collected_rows_breaks_a_law():
    laws = ["padding", "resume"]
    assert broken(testing.check_aggregator, of_padding(), "float32", weighted=False, laws=laws) == {"padding"}


def test_every_law_of_aggregators_has_something_that_breaks_it():
    assert {*AGGREGATORS, *MERGES, *BY_OPTION, "waves"} == testing.AGGREGATOR_LAWS.keys()
    assert testing.AGGREGATION_PROCESS_LAWS.keys() < testing.AGGREGATOR_LAWS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("value_type", [{"b": "bfloat16", "n": ("int8", "float32[2,3]")}, "int32"])
def test_values_of_many_types(value_type):
    kept = testing.AGGREGATOR_LAWS.keys() - {"result_type"}  # a sum of small integers is an int32
    testing.check_aggregator(fc.aggregators.sum(), value_type, laws=kept, tolerance=1.0)
    testing.check_aggregator(fc.aggregators.mean(), value_type, weighted=False, laws=kept, tolerance=0.5)


def test_a_law_can_be_checked_alone_and_left_out():
    testing.check_aggregator(diluted(), "float32", laws=testing.AGGREGATOR_LAWS.keys() - {"padding"})
    with pytest.raises(AssertionError, match="breaks 1 of 1 laws\npadding: Clients that the round left out"):
        testing.check_aggregator(diluted(), "float32", laws="padding")


def test_what_fails_in_a_law_is_told():
    def collect(value, weight):
        wide = fc.federated_collect(fc.federated_map(lambda v: jnp.full((1000,), v), value))
        return fc.federated_map(jnp.sum, wide)

    with pytest.raises(AssertionError, match=r"waves: .*\n  ValueError: federated_collect .* memory budget is"):
        testing.check_aggregator(aggregator(collect), "float32", laws=["waves", "types"])


@pytest.mark.parametrize("laws", ["colour", ["order", "colour"], []])
def test_laws_that_are_none_are_refused(laws):
    with pytest.raises(ValueError, match=r"check_aggregator\(laws=\.\.\.\) must be one or several of types, .*got \["):
        testing.check_aggregator(fc.aggregators.mean(), laws=laws)


def test_what_is_no_aggregator_is_refused():
    with pytest.raises(TypeError, match="takes an Aggregator"):
        testing.check_aggregator(fc.aggregators.mean, "float32")
    with pytest.raises(TypeError, match="returns an AggregationProcess"):
        testing.check_aggregation_process(fc.aggregators.as_process(fc.aggregators.mean(), "float32"))
    with pytest.raises(ValueError, match=r"values of fixed shapes, got float32\[\?\]"):
        testing.check_aggregator(fc.aggregators.sum(), "float32[?]")


def test_processes_without_and_with_weights():
    def build(weights):
        types = (fc.at_clients("float32"),) * (1 + weights)
        initialize = fc.federated_computation(lambda: fc.federated_value(0, fc.SERVER))

        def next(state, value, *weight):
            count = fc.federated_sum(fc.federated_map(lambda *v: 1, value, *weight))
            return MeasuredProcessOutput(fc.federated_map(jnp.add, state, count), count, nothing())

        return fc.templates.AggregationProcess(initialize, fc.federated_computation(next, "int32@SERVER", *types))

    for weights in (0, 1):
        assert broken(testing.check_aggregation_process, lambda w=weights: build(w)) == {"padding"}
