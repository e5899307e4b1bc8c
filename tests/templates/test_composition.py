"""Measured processes in sequence and in parallel, and those that cannot be combined."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.templates import (
    AggregationProcess,
    MeasuredProcess,
    MeasuredProcessOutput,
    ProcessCompositionError,
    chain,
    concatenate,
)


def plain(factor, value="float32", result=None, state="int32"):
    """A process without placements, which multiplies and counts its steps."""

    def next(count, x):
        y = (factor * x).astype(result or x.dtype)
        return MeasuredProcessOutput(count + 1, y, {"taken": x})

    return MeasuredProcess(fc.computation(lambda: jnp.zeros((), state)), fc.computation(next, state, value))


def at_clients(factor, value="float32", zipped=True, measured=True):
    """A process in which every client multiplies and the server counts."""

    @fc.federated_computation
    def initialize():
        return fc.federated_value(0, fc.SERVER) if zipped else {"count": fc.federated_value(0, fc.SERVER)}

    @fc.federated_computation(initialize.type_signature.result, fc.at_clients(value))
    def next(state, x):
        count = fc.federated_map(lambda n: n + 1, state if zipped else state["count"])
        result = fc.federated_map(lambda v: factor * v, x)
        measurements = {"sum": fc.federated_sum(result)} if measured else ()
        if zipped and measured:
            measurements = fc.federated_zip(measurements)
        return MeasuredProcessOutput(count if zipped else {"count": count}, result, measurements)

    return MeasuredProcess(initialize, next)


def summed(value="float32", weighted=False):
    """The aggregation process of a sum."""
    if weighted:
        return fc.aggregators.as_process(fc.aggregators.mean(), value)

    @fc.federated_computation
    def initialize():
        return fc.federated_value((), fc.SERVER)

    @fc.federated_computation(initialize.type_signature.result, fc.at_clients(value))
    def next(state, x):
        return MeasuredProcessOutput(state, fc.federated_sum(x), fc.federated_value((), fc.SERVER))

    return AggregationProcess(initialize, next)


def at_server(factor, value="float32"):
    """A process in which the server multiplies and counts its steps in the state."""

    @fc.federated_computation
    def initialize():
        return fc.federated_value(0, fc.SERVER)

    @fc.federated_computation(initialize.type_signature.result, fc.at_server(value))
    def next(state, x):
        result = fc.federated_map(lambda v: factor * v, x)
        count = fc.federated_map(lambda n: n + 1, state)
        return MeasuredProcessOutput(count, result, fc.federated_zip({"norm": fc.federated_map(jnp.abs, result)}))

    return MeasuredProcess(initialize, next)


def test_chain_feeds_each_with_the_result_before():
    process = chain({"double": at_clients(2.0), "sum": summed(), "halve": at_server(0.5)})
    state = process.initialize()
    for number in (1, 2):
        state, result, measurements = process.next(state, [1.0, 2.0, 4.0])
        assert (float(result), float(measurements["double"]["sum"])) == (7.0, 14.0)
        assert state == {"double": number, "sum": (), "halve": number}
        assert measurements["halve"] == {"norm": 7.0} and measurements["sum"] == ()


def test_types_of_a_chain_are_named():
    process = chain({"double": at_clients(2.0), "sum": summed()})
    assert type(process) is MeasuredProcess
    assert str(process.next.type_signature) == (
        "(<state=<double=int32,sum=<>>@SERVER,x={float32}@CLIENTS> -> <state=<double=int32,sum=<>>@SERVER,"
        "result=float32@SERVER,measurements=<double=<sum=float32>,sum=<>>@SERVER>)"
    )
    assert AggregationProcess(process.initialize, process.next).is_weighted is False


def test_first_of_a_chain_takes_any_arguments():
    process = chain({"mean": summed(weighted=True), "triple": at_server(3.0)})
    output = process.next(process.initialize(), value=[1.0, 4.0], weight=[1.0, 2.0])
    assert output.result == 9.0 and set(output.measurements["mean"]) == {"mean_value", "mean_weight"}
    assert AggregationProcess(process.initialize, process.next).is_weighted


def test_chain_of_one_is_the_process():
    process = chain({"double": at_clients(2.0)})
    output = process.next(process.initialize(), [1.0, 2.0])
    np.testing.assert_array_equal(output.result, [2.0, 4.0])
    assert output.state == {"double": 1}


def test_chain_follows_the_order_of_the_dict_and_not_of_the_names():
    def step(name):
        next = fc.computation(lambda s, x: MeasuredProcessOutput(s, 10 * x + name, ()), "int32", "int32")
        return MeasuredProcess(fc.computation(lambda: 0), next)

    process = chain({"z": step(1), "a": step(2), "m": step(3)})
    assert process.next(process.initialize(), 0).result == 123
    ordered = chain(collections.OrderedDict(m=step(3), a=step(2)))
    assert ordered.next(ordered.initialize(), 0).result == 32


def test_concatenate_keeps_them_apart():
    process = concatenate({"double": at_clients(2.0), "sum": summed("float32[2]")})
    values = {"double": [1.0, 2.0], "sum": [[1.0, 2.0], [3.0, 4.0]]}
    state = process.initialize()
    for number in (1, 2):
        state, result, measurements = process.next(state, values)
        assert state == {"double": number, "sum": ()} and measurements["double"] == {"sum": 6.0}
        np.testing.assert_array_equal(result["double"], [2.0, 4.0])
        np.testing.assert_array_equal(result["sum"], [4.0, 6.0])
    assert str(process.next.type_signature.parameter) == (
        "<state=<double=int32,sum=<>>@SERVER,value=<double={float32}@CLIENTS,sum={float32[2]}@CLIENTS>>"
    )


def test_values_and_results_may_be_at_different_placements():
    process = concatenate({"clients": at_clients(2.0), "server": at_server(3.0)})
    output = process.next(process.initialize(), {"clients": [1.0], "server": 2.0})
    assert output.result["server"] == 6.0 and output.result["clients"].tolist() == [2.0]


def test_without_placements():
    chained, joined = chain({"a": plain(2.0), "b": plain(3.0)}), concatenate({"a": plain(2.0), "b": plain(3.0)})
    output = chained.next(chained.initialize(), 5.0)
    assert (output.result, output.state) == (30.0, {"a": 1, "b": 1})
    assert output.measurements == {"a": {"taken": 5.0}, "b": {"taken": 10.0}}
    assert joined.next(joined.initialize(), {"a": 1.0, "b": 5.0}).result == {"a": 2.0, "b": 15.0}
    slope = jax.grad(lambda x: chained.next.as_function()(chained.initialize(), x).result)(5.0)
    assert slope == 6.0 and str(chained.state_type) == "<a=int32,b=int32>"


def test_compositions_compose():
    inner = concatenate({"x": at_clients(2.0), "y": at_clients(3.0)})

    @fc.federated_computation(fc.at_server(()), inner.next.type_signature.result["result"])
    def add(state, values):
        total = fc.federated_sum(fc.federated_map(jnp.add, values["x"], values["y"]))
        return MeasuredProcessOutput(state, total, fc.federated_value((), fc.SERVER))

    nothing = fc.federated_computation(lambda: fc.federated_value((), fc.SERVER))
    process = chain({"both": inner, "add": MeasuredProcess(nothing, add)})
    output = process.next(process.initialize(), {"x": [1.0, 2.0], "y": [10.0, 20.0]})
    assert output.result == 96.0 and output.state == {"both": {"x": 1, "y": 1}, "add": ()}


def test_a_wider_parameter_takes_the_result():
    wide = fc.computation(lambda s, x: MeasuredProcessOutput(s, jnp.sum(x), ()), "int32", "float32[?]")
    process = chain({"a": plain(2.0, "float32[3]"), "b": MeasuredProcess(fc.computation(lambda: 0), wide)})
    assert process.next(process.initialize(), [1.0, 2.0, 3.0]).result == 12.0


def test_states_in_parts_and_measurements_of_nothing():
    process = chain({"a": at_clients(2.0, zipped=False), "b": at_clients(3.0, zipped=False, measured=False)})
    output = process.next(process.initialize(), [1.0])
    assert output.state == {"a": {"count": 1}, "b": {"count": 1}} and output.result.tolist() == [6.0]
    silent = chain({"a": at_clients(2.0), "b": at_clients(3.0, measured=False)})
    measurements = silent.next(silent.initialize(), [1.0]).measurements
    assert measurements == {"a": {"sum": 2.0}, "b": ()}


MISFITS = {
    "the dtype": ({"first": plain(2.0, result="int32"), "second": plain(2.0)}, chain),
    "the shape": ({"first": plain(2.0, "float32[3]"), "second": plain(2.0, "float32[4]")}, chain),
    "a wider result": ({"first": plain(2.0, "float32[?]"), "second": plain(2.0, "float32[3]")}, chain),
    "the placement of the value": ({"first": summed(), "second": at_clients(2.0)}, chain),
    "clients to the server": ({"first": at_clients(2.0), "second": at_server(2.0)}, chain),
    "the placement of the state": ({"first": plain(2.0), "second": at_server(2.0)}, concatenate),
    "a state in parts": ({"first": at_clients(2.0), "second": at_clients(2.0, zipped=False)}, chain),
}


@pytest.mark.parametrize("name", MISFITS)
def test_two_processes_that_do_not_fit_are_named(name):
    processes, compose = MISFITS[name]
    with pytest.raises(ProcessCompositionError, match=r"'first'.*'second'") as caught:
        compose(processes)
    assert isinstance(caught.value, TypeError)


def test_measurements_at_two_placements_are_refused():
    other = at_clients(2.0)

    @fc.federated_computation(other.state_type, fc.at_clients("float32"))
    def next(state, x):
        return MeasuredProcessOutput(state, x, x)

    with pytest.raises(ProcessCompositionError, match=r"measurements of 'first', .*, and of 'second', .*CLIENTS"):
        chain({"first": other, "second": MeasuredProcess(other.initialize, next)})


def test_the_pair_that_does_not_fit_is_the_one_named():
    with pytest.raises(ProcessCompositionError, match=r"'b', int32, .* that 'c' takes"):
        chain({"a": plain(2.0), "b": plain(2.0, result="int32"), "c": plain(2.0)})


@pytest.mark.parametrize("compose", [chain, concatenate])
def test_a_process_with_a_weight_takes_no_single_value(compose):
    with pytest.raises(ProcessCompositionError, match=rf"{compose.__name__}: 'mean' must take a state and one value"):
        compose({"double": at_clients(2.0), "mean": summed(weighted=True)})


@pytest.mark.parametrize("compose", [chain, concatenate])
@pytest.mark.parametrize("wrong", [[], None, {"a": 1}, {1: plain(2.0)}, plain(2.0), {"a": fc.aggregators.mean()}])
def test_what_is_no_dict_of_processes_is_refused(compose, wrong):
    with pytest.raises(TypeError, match=rf"{compose.__name__} takes a dict from name to MeasuredProcess, got"):
        compose(wrong)


@pytest.mark.parametrize("compose", [chain, concatenate])
def test_no_process_is_refused(compose):
    with pytest.raises(ValueError, match="at least one process"):
        compose({})


def test_thirty_rounds_are_traced_once():
    traces = []

    @fc.federated_computation(fc.at_server(()), fc.at_clients("float32"))
    def next(state, x):
        def double(v):
            traces.append(v)
            return 2 * v

        return MeasuredProcessOutput(state, fc.federated_map(double, x), fc.federated_value((), fc.SERVER))

    nothing = fc.federated_computation(lambda: fc.federated_value((), fc.SERVER))
    process = chain({"double": MeasuredProcess(nothing, next), "sum": summed()})
    state = process.initialize()
    state, _, _ = process.next(state, np.ones(4, np.float32))
    counted = len(traces)
    for number in range(30):
        state, result, _ = process.next(state, np.full(4, number, np.float32))
        assert result == 8 * number
    assert len(traces) == counted
