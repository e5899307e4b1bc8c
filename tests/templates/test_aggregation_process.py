"""AggregationProcess: its checks, each with its own error and in their order."""

import collections
import itertools

import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.templates import AggregationProcess, MeasuredProcess, MeasuredProcessOutput, errors

Namesake = collections.namedtuple("MeasuredProcessOutput", ["state", "result", "measurements"])

VALUES = {
    "at server": lambda: fc.federated_value(0.0, fc.SERVER),
    "at clients": lambda: fc.federated_value(0.0, fc.CLIENTS),
    "struct at server": lambda: {"a": fc.federated_value(0.0, fc.SERVER), "b": fc.federated_value(1, fc.SERVER)},
    "mixed struct": lambda: (fc.federated_value(0.0, fc.SERVER), fc.federated_value(1, fc.CLIENTS)),
    "unplaced": lambda: 1.0,
    "empty": lambda: (),
}


def initialize(state="int32", placement=fc.SERVER, zipped=True):
    def fn():
        value = fc.federated_value({"int32": 0, "float32": 0.0}[state], placement)
        return value if zipped else (value, value)

    return fc.federated_computation(fn)


def step(
    types=("int32@SERVER", "{float32}@CLIENTS"),
    output=MeasuredProcessOutput,
    new_state=None,
    result="at server",
    measurements="at server",
):
    def fn(state, value=None, weight=None, more=None):
        next_state = state if new_state is None else fc.federated_value(new_state, fc.SERVER)
        return output(next_state, VALUES[result](), VALUES[measurements]())

    by_number = {
        1: lambda state: fn(state),
        2: lambda state, value: fn(state, value),
        3: lambda state, value, weight: fn(state, value, weight),
        4: lambda state, value, weight, more: fn(state, value, weight, more),
    }
    return fc.federated_computation(by_number[len(types)], *types)


def build(
    initialize_fn=None,
    next_fn=None,
    initial="int32",
    placement=fc.SERVER,
    zipped=True,
    value="{float32}@CLIENTS",
    weight="{float32}@CLIENTS",
    num_arguments=2,
    **changes,
):
    placed = "int32@SERVER" if placement is fc.SERVER else "{int32}@CLIENTS"
    state = placed if zipped else (placed, placed)
    types = [state, value, weight, "{float32}@CLIENTS"][:num_arguments]
    return AggregationProcess(
        initialize_fn or initialize(initial, placement, zipped),
        next_fn or step(types, **changes),
    )


RULES = {
    "1 initialize_fn is a function": ({"initialize_fn": lambda: 0}, TypeError),
    "2 initialize_fn has a parameter": (
        {"initialize_fn": fc.federated_computation(lambda x: x, "int32@SERVER")},
        errors.TemplateInitFnParamNotEmptyError,
    ),
    "3 next_fn is a function": ({"next_fn": lambda state, value: state}, TypeError),
    "4 next_fn has no parameter": (
        {"next_fn": fc.federated_computation(lambda: fc.federated_value(0, fc.SERVER))},
        errors.TemplateNextFnNumArgsError,
    ),
    "4 next_fn takes another state": ({"initial": "float32"}, errors.TemplateStateNotAssignableError),
    "5 next_fn returns another state": ({"new_state": 0.0}, errors.TemplateStateNotAssignableError),
    "6 next_fn returns a tuple": (
        {"output": lambda *fields: fields},
        errors.TemplateNotMeasuredProcessOutputError,
    ),
    "8 the initial state is a struct of federated": ({"zipped": False}, errors.AggregationNotFederatedError),
    "8 measurements are unplaced": ({"measurements": "unplaced"}, errors.AggregationNotFederatedError),
    "9 the initial state is at CLIENTS": ({"placement": fc.CLIENTS}, errors.AggregationPlacementError),
    "10 next_fn takes one argument": ({"num_arguments": 1}, errors.TemplateNextFnNumArgsError),
    "10 next_fn takes four arguments": ({"num_arguments": 4}, errors.TemplateNextFnNumArgsError),
    "11 the value is at SERVER": ({"value": "float32@SERVER"}, errors.AggregationPlacementError),
    "11 the weight is at SERVER": (
        {"num_arguments": 3, "weight": "float32@SERVER"},
        errors.AggregationPlacementError,
    ),
    "11 the result is at CLIENTS": ({"result": "at clients"}, errors.AggregationPlacementError),
    "11 measurements are a struct of federated": (
        {"measurements": "struct at server"},
        errors.AggregationPlacementError,
    ),
}


def test_valid():
    process = build()
    assert isinstance(process, MeasuredProcess)
    assert str(process.state_type) == "int32@SERVER"
    assert not process.is_weighted


def test_weighted():
    assert build(num_arguments=3).is_weighted


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_has_its_error(rule):
    changes, error = RULES[rule]
    with pytest.raises(TypeError) as caught:
        build(**changes)
    assert caught.type is error


@pytest.mark.parametrize("first, second", list(itertools.combinations(RULES, 2)))
def test_the_first_broken_rule_is_the_one_reported(first, second):
    changes, error = RULES[first]
    with pytest.raises(TypeError) as caught:
        build(**{**RULES[second][0], **changes})
    assert caught.type is error


def test_a_namesake_of_the_output_is_none():
    with pytest.raises(errors.TemplateNotMeasuredProcessOutputError, match=r"MeasuredProcessOutput\("):
        build(output=Namesake)


def test_an_output_placed_as_a_whole_is_refused():
    with pytest.raises(errors.TemplateStateNotAssignableError):
        build(output=lambda *fields: fc.federated_zip(MeasuredProcessOutput(*fields)))


def test_nothing_federated():
    initialize_fn = fc.computation(lambda: 0)
    next_fn = fc.computation(lambda state, value: MeasuredProcessOutput(state, value, ()), "int32", "float32")
    with pytest.raises(errors.AggregationNotFederatedError, match=r"got int32;.*fc\.federated_zip"):
        AggregationProcess(initialize_fn, next_fn)


def test_an_unplaced_argument():
    with pytest.raises(errors.AggregationNotFederatedError, match=r"unplaced float32;.*fc\.federated_zip"):
        build(value="float32")


def test_an_unplaced_part_of_an_argument():
    with pytest.raises(errors.AggregationNotFederatedError, match="unplaced int8;"):
        build(value=("{float32}@CLIENTS", "int8"))


def test_an_unplaced_result():
    with pytest.raises(errors.AggregationNotFederatedError, match="unplaced float32;"):
        build(result="unplaced")


def test_an_unplaced_initial_state_is_not_assignable():
    with pytest.raises(errors.TemplateStateNotAssignableError, match="int32 where"):
        build(initialize_fn=fc.computation(lambda: 0))


def test_the_value_is_a_struct_of_federated_values():
    with pytest.raises(errors.AggregationPlacementError, match=r"fc\.at_clients\('<float32,int32>'\)"):
        build(value=("{float32}@CLIENTS", "{int32}@CLIENTS"))


def test_the_value_is_an_empty_struct():
    with pytest.raises(errors.AggregationPlacementError, match=r"the value .* got <>"):
        build(value="<>")


def test_the_weight_is_a_struct_of_federated_values():
    with pytest.raises(errors.AggregationPlacementError, match="the weight"):
        build(num_arguments=3, weight=("{float32}@CLIENTS",))


@pytest.mark.parametrize("field", ["result", "measurements"])
@pytest.mark.parametrize(
    "value, repair",
    [
        ("at clients", r"fc\.federated_sum\(value\)"),
        ("struct at server", r"fc\.federated_zip\(value\)"),
        ("mixed struct", r"fc\.federated_sum.*fc\.federated_zip"),
        ("empty", r"fc\.federated_value\(value, fc\.SERVER\)"),
    ],
)
def test_a_result_that_is_not_at_server_as_a_whole(field, value, repair):
    with pytest.raises(errors.AggregationPlacementError, match=f"`{field}` must be at SERVER.*{repair}"):
        build(**{field: value})


def test_the_state_at_clients_is_named():
    with pytest.raises(
        errors.AggregationPlacementError, match=r"the initial state must be at SERVER .*int32.*@CLIENTS"
    ):
        build(placement=fc.CLIENTS)


def test_a_value_may_be_the_same_at_all_clients():
    assert not build(value="float32@CLIENTS").is_weighted


def test_a_process_runs():
    @fc.federated_computation("int32@SERVER", "{float32[2]}@CLIENTS", "{float32}@CLIENTS")
    def next_fn(state, value, weight):
        count = fc.federated_map(lambda count: count + 1, state)
        return MeasuredProcessOutput(count, fc.federated_mean(value, weight), fc.federated_zip({"count": count}))

    process = AggregationProcess(initialize(), next_fn)
    state = process.initialize()
    for _ in range(2):
        state, result, measurements = process.next(state, [[1.0, 2.0], [4.0, 5.0]], [2.0, 1.0])
    np.testing.assert_allclose(result, [2.0, 3.0])
    assert (int(state), int(measurements["count"])) == (2, 2)


def test_it_can_be_rebuilt_from_its_attributes():
    process = build()
    assert AggregationProcess(process.initialize, process.next).state_type == process.state_type
