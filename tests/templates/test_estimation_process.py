"""EstimationProcess: its checks, each with its own error and in their order, and `map`."""

import itertools

import jax.numpy as jnp
import pytest

import fedjax_core as fc
from fedjax_core.templates import EstimationProcess, IterativeProcess, errors


def function(fn, *types):
    return lambda: fc.computation(fn, *types)


VALID = {
    "initialize_fn": function(lambda: 0),
    "next_fn": function(lambda state: state + 1, "int32"),
    "report_fn": function(lambda state: state / 2, "int32"),
}

RULES = {
    "1 initialize_fn is a function": ({"initialize_fn": lambda: lambda: 0}, TypeError),
    "2 initialize_fn has a parameter": (
        {"initialize_fn": function(lambda x: x, "int32")},
        errors.TemplateInitFnParamNotEmptyError,
    ),
    "3 next_fn is a function": ({"next_fn": lambda: lambda state: state}, TypeError),
    "4 next_fn has no parameter": ({"next_fn": function(lambda: 0)}, errors.TemplateNextFnNumArgsError),
    "4 next_fn takes another state": (
        {"next_fn": function(lambda state: state, "float32")},
        errors.TemplateStateNotAssignableError,
    ),
    "5 next_fn returns another state": (
        {"next_fn": function(lambda state: (state * 1.0, state), "int32")},
        errors.TemplateStateNotAssignableError,
    ),
    "6 report_fn is a function": ({"report_fn": lambda: lambda state: state}, TypeError),
    "7 report_fn takes another state": (
        {"report_fn": function(lambda state: state, "float32")},
        errors.TemplateStateNotAssignableError,
    ),
}


def build(changes=()):
    return EstimationProcess(**{name: make() for name, make in {**VALID, **dict(changes)}.items()})


def test_valid():
    process = build()
    assert isinstance(process, IterativeProcess)
    assert str(process.report.type_signature) == "(int32 -> float32)"
    assert float(process.report(process.next(process.initialize()))) == 0.5


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


@pytest.mark.parametrize(
    "report_fn",
    [function(lambda: 0), function(lambda state, more: state, "int32", "int32")],
    ids=["without argument", "with two"],
)
def test_a_report_takes_the_state_alone(report_fn):
    with pytest.raises(errors.TemplateStateNotAssignableError, match="`report_fn` must take the state, int32,"):
        build({"report_fn": report_fn})


def test_a_report_takes_the_state_of_next_not_only_the_initial_one():
    changes = {
        "initialize_fn": function(lambda: jnp.zeros(3)),
        "next_fn": function(lambda state: state, "float32[?]"),
    }
    with pytest.raises(errors.TemplateStateNotAssignableError, match=r"float32\[\?\].*float32\[3\]"):
        build({**changes, "report_fn": function(lambda state: state, "float32[3]")})
    process = build({**changes, "report_fn": function(lambda state: state.sum(), "float32[?]")})
    assert str(process.state_type) == "float32[?]"


def test_a_report_on_a_federated_state_takes_it_where_it_is():
    initialize_fn = fc.federated_computation(lambda: fc.federated_value(0, fc.SERVER))
    next_fn = fc.federated_computation(lambda state: state, "int32@SERVER")
    with pytest.raises(errors.TemplateStateNotAssignableError, match="int32@SERVER"):
        EstimationProcess(initialize_fn, next_fn, VALID["report_fn"]())


def test_two_arguments_of_the_type_of_the_state_are_not_one_state():
    with pytest.raises(errors.TemplateStateNotAssignableError):
        EstimationProcess(
            fc.computation(lambda: (0, 1)),
            fc.computation(lambda a, b: (a, b), "int32", "int32"),
            fc.computation(lambda state: state, "<a=int32,b=int32>"),
        )


def test_map_composes_after_report():
    process = build()
    mapped = process.map(fc.computation(lambda estimate: 3.0 * estimate + 1.0, "float32"))
    assert type(mapped) is EstimationProcess
    assert (mapped.initialize, mapped.next) == (process.initialize, process.next)
    assert str(mapped.report.type_signature) == "(int32 -> float32)"
    assert float(mapped.report(3)) == 5.5
    assert float(process.report(3)) == 1.5


def test_map_can_be_repeated():
    double = fc.computation(lambda estimate: 2 * estimate, "float32")
    assert float(build().map(double).map(double).report(3)) == 6.0


@pytest.mark.parametrize("outer", [fc.computation, fc.federated_computation])
@pytest.mark.parametrize("inner", [fc.computation, fc.federated_computation])
def test_map_composes_computations_of_both_kinds_without_placements(inner, outer):
    process = build({"report_fn": lambda: inner(lambda state: state, "int32")})
    mapped = process.map(outer(lambda estimate: {"estimate": estimate}, "int32"))
    assert int(mapped.report(3)["estimate"]) == 3


def test_map_keeps_a_placement():
    process = EstimationProcess(
        fc.federated_computation(lambda: fc.federated_value(2, fc.SERVER)),
        fc.federated_computation(lambda state: state, "int32@SERVER"),
        fc.federated_computation(lambda state: state, "int32@SERVER"),
    )
    half = fc.federated_computation(
        lambda estimate: fc.federated_map(lambda value: value / 2, estimate), "int32@SERVER"
    )
    mapped = process.map(half)
    assert str(mapped.report.type_signature) == "(int32@SERVER -> float32@SERVER)"
    assert float(mapped.report(mapped.initialize())) == 1.0


def test_map_takes_a_computation():
    with pytest.raises(TypeError, match="`fn` must be a Computation") as caught:
        build().map(lambda estimate: estimate)
    assert caught.type is TypeError


@pytest.mark.parametrize(
    "fn",
    [
        function(lambda estimate: estimate, "int32"),
        function(lambda estimate: estimate, "float32[1]"),
        function(lambda: 0),
        function(lambda estimate, more: estimate, "float32", "float32"),
    ],
    ids=["another dtype", "another shape", "no argument", "two arguments"],
)
def test_map_takes_a_function_of_the_estimate_alone(fn):
    with pytest.raises(errors.EstimateNotAssignableError, match="`fn` must take the estimate, float32,"):
        build().map(fn())


def test_map_does_not_take_an_unplaced_function_of_a_placed_estimate():
    process = EstimationProcess(
        fc.federated_computation(lambda: fc.federated_value(2, fc.SERVER)),
        fc.federated_computation(lambda state: state, "int32@SERVER"),
        fc.federated_computation(lambda state: state, "int32@SERVER"),
    )
    with pytest.raises(errors.EstimateNotAssignableError, match="int32@SERVER"):
        process.map(fc.computation(lambda estimate: estimate, "int32"))


def test_it_can_be_rebuilt_from_its_attributes():
    process = build()
    again = EstimationProcess(process.initialize, process.next, process.report)
    assert again.report is process.report


def test_it_takes_exactly_its_named_arguments():
    process = build()
    with pytest.raises(TypeError):
        EstimationProcess(process.initialize, process.next)
    with pytest.raises(TypeError):
        EstimationProcess(process.initialize, process.next, process.report, True)
