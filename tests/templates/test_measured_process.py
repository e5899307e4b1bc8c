"""MeasuredProcess: its checks, each with its own error and in their order."""

import collections
import itertools

import jax.numpy as jnp
import pytest

import fedjax_core as fc
from fedjax_core.templates import IterativeProcess, MeasuredProcess, MeasuredProcessOutput, errors


def initialize():
    return fc.computation(lambda: 0)


def step(output=MeasuredProcessOutput):
    return fc.computation(lambda state, value: output(state, value, ()), "int32", "float32")


def function(fn, *types):
    return lambda: fc.computation(fn, *types)


VALID = {"initialize_fn": initialize, "next_fn": step}

RULES = {
    "1 initialize_fn is a function": ({"initialize_fn": lambda: lambda: 0}, TypeError),
    "2 initialize_fn has a parameter": (
        {"initialize_fn": function(lambda x: x, "int32")},
        errors.TemplateInitFnParamNotEmptyError,
    ),
    "3 next_fn is a function": ({"next_fn": lambda: lambda state: state}, TypeError),
    "4 next_fn has no parameter": (
        {"next_fn": function(lambda: 0)},
        errors.TemplateNextFnNumArgsError,
    ),
    "4 next_fn takes another state": (
        {"next_fn": function(lambda state: state, "float32")},
        errors.TemplateStateNotAssignableError,
    ),
    "5 next_fn returns another state": (
        {"next_fn": function(lambda state: (state * 1.0, state), "int32")},
        errors.TemplateStateNotAssignableError,
    ),
    "6 next_fn returns a tuple": (
        {"next_fn": lambda: step(lambda *fields: fields)},
        errors.TemplateNotMeasuredProcessOutputError,
    ),
}


def build(changes=()):
    return MeasuredProcess(**{name: make() for name, make in {**VALID, **dict(changes)}.items()})


def test_valid():
    process = build()
    assert isinstance(process, IterativeProcess)
    assert str(process.state_type) == "int32"
    output = process.next(process.initialize(), 2.5)
    assert type(output) is MeasuredProcessOutput
    assert (int(output.state), float(output.result), output.measurements) == (0, 2.5, ())


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_has_its_error(rule):
    changes, error = RULES[rule]
    with pytest.raises(TypeError) as caught:
        build(changes)
    assert caught.type is error


@pytest.mark.parametrize("first, second", list(itertools.combinations(RULES, 2)))
def test_the_first_broken_rule_is_the_one_reported(first, second):
    changes, error = RULES[first]
    with pytest.raises(TypeError) as caught:
        build({**RULES[second][0], **changes})
    assert caught.type is error


Namesake = collections.namedtuple("MeasuredProcessOutput", ["state", "result", "measurements"])


@pytest.mark.parametrize(
    "output",
    [
        lambda state, result, measurements: (state, result, measurements),
        lambda state, result, measurements: [state, result, measurements],
        lambda state, result, measurements: state,
        lambda *fields: collections.OrderedDict(zip(MeasuredProcessOutput._fields, fields)),
        Namesake,
    ],
    ids=["tuple", "list", "state alone", "dict", "namesake"],
)
def test_only_the_output_itself_is_one(output):
    with pytest.raises(errors.TemplateNotMeasuredProcessOutputError, match=r"got .*int32.*MeasuredProcessOutput\("):
        build({"next_fn": lambda: step(output)})


EMPTY_OUTPUT = MeasuredProcessOutput("<>", "<>", "<>")


def test_7_the_field_state_is_another_state():
    with pytest.raises(errors.TemplateStateNotAssignableError, match="<state=<>,result=<>,measurements=<>>, got <>;"):
        build(
            {
                "initialize_fn": function(lambda: MeasuredProcessOutput((), (), ())),
                "next_fn": function(lambda state: MeasuredProcessOutput((), (), ()), EMPTY_OUTPUT),
            }
        )


def test_6_goes_before_7():
    with pytest.raises(errors.TemplateNotMeasuredProcessOutputError):
        build(
            {
                "initialize_fn": function(lambda: MeasuredProcessOutput((), (), ())),
                "next_fn": function(lambda state: Namesake((), (), ()), EMPTY_OUTPUT),
            }
        )


def test_an_output_placed_as_a_whole_is_refused():
    @fc.federated_computation(fc.at_server("int32"))
    def next_fn(state):
        none = fc.federated_value((), fc.SERVER)
        return fc.federated_zip(MeasuredProcessOutput(state, none, none))

    at_server = fc.federated_computation(lambda: fc.federated_value(0, fc.SERVER))
    with pytest.raises(errors.TemplateStateNotAssignableError, match=r"<state=int32,result=<>,measurements=<>>@SERVER"):
        MeasuredProcess(at_server, next_fn)


def test_the_only_argument_may_be_a_struct():
    process = MeasuredProcess(
        fc.computation(lambda: (0, 1)),
        fc.computation(lambda state: MeasuredProcessOutput(state, (), ()), ("int32", "int32")),
    )
    assert str(process.state_type) == "<int32,int32>"


def test_two_arguments_of_the_type_of_the_state_are_not_one_state():
    with pytest.raises(errors.TemplateStateNotAssignableError, match="<int32,int32> where `next_fn` takes int32;"):
        MeasuredProcess(
            fc.computation(lambda: (0, 1)),
            fc.computation(lambda a, b: MeasuredProcessOutput((a, b), (), ()), "int32", "int32"),
        )


def test_the_state_may_be_empty():
    process = MeasuredProcess(
        fc.computation(lambda: ()), fc.computation(lambda state: MeasuredProcessOutput(state, (), ()), ())
    )
    assert str(process.state_type) == "<>"


def test_the_state_may_grow_within_the_type_of_next():
    process = MeasuredProcess(
        fc.computation(lambda: jnp.zeros(0)),
        fc.computation(
            lambda state: MeasuredProcessOutput(jnp.concatenate([state, jnp.ones(1)]), (), ()), "float32[?]"
        ),
    )
    assert str(process.state_type) == "float32[?]"


def test_a_federated_process_places_each_field_for_itself():
    @fc.federated_computation("int32@SERVER", "{float32}@CLIENTS")
    def next_fn(state, value):
        return MeasuredProcessOutput(state, value, ())

    process = MeasuredProcess(fc.federated_computation(lambda: fc.federated_value(0, fc.SERVER)), next_fn)
    result = process.next.type_signature.result
    assert str(result) == "<state=int32@SERVER,result={float32}@CLIENTS,measurements=<>>"


def test_it_can_be_rebuilt_from_its_attributes():
    process = build()
    assert MeasuredProcess(process.initialize, process.next).state_type == process.state_type


def test_it_takes_exactly_its_named_arguments():
    with pytest.raises(TypeError):
        MeasuredProcess(initialize(), step(), True)
