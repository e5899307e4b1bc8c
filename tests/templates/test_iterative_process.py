"""IterativeProcess: its checks, each with its own error and in their order, its attributes, and a process in words."""

import itertools

import jax
import jax.numpy as jnp
import optax
import pytest

import fedjax_core as fc
from fedjax_core.templates import EstimationProcess, IterativeProcess, LearningProcess, LearningProcessOutput, errors


def initialize():
    return fc.computation(lambda: 0)


def step(state_type="int32"):
    return fc.computation(lambda state: state, state_type)


VALID = {"initialize_fn": initialize, "next_fn": step}

RULES = {
    "1 initialize_fn is a function": ({"initialize_fn": lambda: lambda: 0}, TypeError),
    "2 initialize_fn has a parameter": (
        {"initialize_fn": lambda: fc.computation(lambda x: x, "int32")},
        errors.TemplateInitFnParamNotEmptyError,
    ),
    "3 next_fn is a function": ({"next_fn": lambda: lambda state: state}, TypeError),
    "4 next_fn has no parameter": (
        {"next_fn": lambda: fc.computation(lambda: 0)},
        errors.TemplateNextFnNumArgsError,
    ),
    "4 next_fn takes another state": (
        {"next_fn": lambda: step("float32")},
        errors.TemplateStateNotAssignableError,
    ),
    "5 next_fn returns another state": (
        {"next_fn": lambda: fc.computation(lambda state: state * 1.0, "int32")},
        errors.TemplateStateNotAssignableError,
    ),
}


def build(changes=()):
    return IterativeProcess(**{name: make() for name, make in {**VALID, **dict(changes)}.items()})


def test_valid():
    process = build()
    assert str(process.initialize.type_signature) == "( -> int32)"
    assert str(process.next.type_signature) == "(int32 -> int32)"
    assert str(process.state_type) == "int32"


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


@pytest.mark.parametrize("role", ["initialize_fn", "next_fn"])
@pytest.mark.parametrize("value", [None, 3, "int32", fc.at_server("int32"), int])
def test_what_is_no_computation_is_named_in_the_message(role, value):
    with pytest.raises(TypeError, match=rf"`{role}` must be a Computation, got .*fc\.computation") as caught:
        build({role: lambda: value})
    assert caught.type is TypeError


def test_a_computation_that_has_no_types_yet_is_none():
    with pytest.raises(TypeError, match=r"`next_fn` must be a Computation, got .*typed at each first use"):
        build({"next_fn": lambda: fc.computation(lambda state: state)})


def test_something_that_looks_like_a_computation_is_none():
    class Lookalike:
        type_signature = initialize().type_signature
        parameters = ()

        def __call__(self):
            return 0

    with pytest.raises(TypeError, match="Lookalike"):
        build({"initialize_fn": Lookalike})


def test_the_whole_parameter_may_be_the_state():
    pair = fc.computation(lambda: (0, 1.0))
    swap = fc.computation(lambda first, second: (first + 1, second), "int32", "float32")
    process = IterativeProcess(fc.computation(lambda: (0, 1.0)), swap)
    assert str(process.state_type) == "<first=int32,second=float32>"
    assert str(IterativeProcess(pair, step(process.state_type)).state_type) == str(process.state_type)


def test_the_first_argument_may_be_the_state():
    add = fc.computation(lambda state, value: (state + value, value), "int32", "int32")
    process = build({"next_fn": lambda: add})
    assert str(process.state_type) == "int32"
    state, value = process.next(process.initialize(), 4)
    assert (int(state), int(value)) == (4, 4)


def test_the_first_element_of_a_struct_argument_may_be_the_state():
    process = build({"next_fn": lambda: fc.computation(lambda pair: pair, ("int32", "float32"))})
    assert str(process.state_type) == "int32"


def test_the_whole_parameter_goes_before_its_first_element():
    nested = fc.computation(lambda: ((), ()))
    process = IterativeProcess(nested, fc.computation(lambda state: state, ((), ())))
    assert str(process.state_type) == "<<>,<>>"


def test_the_state_may_be_empty():
    process = IterativeProcess(fc.computation(lambda: ()), fc.computation(lambda state: (state, 1.0), ()))
    assert str(process.state_type) == "<>"


def test_the_state_type_is_the_wider_one_of_next():
    process = IterativeProcess(
        fc.computation(lambda: jnp.zeros(0)),
        fc.computation(lambda state: jnp.concatenate([state, jnp.ones(1)]), "float32[?]"),
    )
    assert str(process.state_type) == "float32[?]"
    assert process.next(process.next(process.initialize())).shape == (2,)


def test_a_narrower_parameter_does_not_take_the_initial_state():
    with pytest.raises(errors.TemplateStateNotAssignableError, match=r"int32\[\?\]|int32\[3\]"):
        IterativeProcess(fc.computation(lambda: jnp.zeros(2, "int32")), step("int32[3]"))


def test_placement_is_part_of_the_state():
    at_server = fc.federated_computation(lambda: fc.federated_value(0, fc.SERVER))
    at_clients = fc.federated_computation(lambda state: state, fc.at_clients("int32"))
    with pytest.raises(errors.TemplateStateNotAssignableError, match=r"int32@SERVER.*\{int32\}@CLIENTS"):
        IterativeProcess(at_server, at_clients)


def test_the_next_state_keeps_the_placement():
    at_server = fc.federated_computation(lambda: fc.federated_value(0, fc.SERVER))
    broadcast = fc.federated_computation(fc.federated_broadcast, fc.at_server("int32"))
    with pytest.raises(errors.TemplateStateNotAssignableError, match="int32@CLIENTS"):
        IterativeProcess(at_server, broadcast)


def test_the_next_state_is_the_first_of_several_results():
    second = fc.computation(lambda state, value: (value, state), "int32", "float32")
    with pytest.raises(errors.TemplateStateNotAssignableError, match=r"<float32,int32>.*return new_state, other"):
        build({"next_fn": lambda: second})


def test_an_empty_result_is_no_state():
    with pytest.raises(errors.TemplateStateNotAssignableError):
        build({"next_fn": lambda: fc.computation(lambda state: (), "int32")})


def test_the_argument_of_initialize_is_in_the_message():
    with pytest.raises(errors.TemplateInitFnParamNotEmptyError, match=r"\(int32 -> int32\).*lambda:"):
        build({"initialize_fn": step})


def test_an_empty_struct_is_an_argument():
    with pytest.raises(errors.TemplateInitFnParamNotEmptyError):
        build({"initialize_fn": lambda: fc.computation(lambda nothing: 0, ())})


def test_it_takes_exactly_its_named_arguments():
    with pytest.raises(TypeError):
        IterativeProcess(initialize(), step(), True)
    with pytest.raises(TypeError):
        IterativeProcess(initialize(), step(), next_is_multi_arg=True)


def test_it_can_be_rebuilt_from_its_attributes():
    process = build()
    again = IterativeProcess(process.initialize, process.next)
    assert (again.initialize, again.next) == (process.initialize, process.next)
    assert again.state_type == process.state_type


def test_its_attributes_cannot_be_set():
    process = build()
    for name in ("initialize", "next", "state_type"):
        with pytest.raises(AttributeError):
            setattr(process, name, None)


def test_it_shows_its_types():
    assert repr(build()) == "IterativeProcess(initialize=( -> int32), next=(int32 -> int32))"


def test_a_learning_process_writes_long_types_by_a_letter_and_explains_it():
    model = fc.models.logistic_regression(784, 10)
    process = fc.algorithms.fed_avg(
        model, optax.sgd(0.1), server_optimizer=optax.sgd(1.0, momentum=0.9), key=jax.random.key(0)
    )
    types, plan = process.describe().split("\n\nnext\n")
    assert (
        types
        == """\
initialize: ( -> S@SERVER)
next: (<state=S@SERVER,data={<x=float32[?,784],y=int32[?]>*}@CLIENTS> -> <state=S@SERVER,metrics=M@SERVER>)
report: (S -> <round_num=int32,weights_norm=float32>)
get_model_weights: (S -> W)
set_model_weights: (<state=S,weights=W> -> S)
where
  S = <weights=W,distributor=<>,client_work=<>,aggregator=<>,finalizer=<<trace=W>,<>>,round_num=int32,key=key<fry>>
  W = <bias=float32[10],kernel=float32[784,10]>
  M = <
    aggregator=<mean_value=<norm=float32>,mean_weight=<num_zero=int32,total=float32>>,
    client_work=<
      train=<
        loss=float32,
        non_finite_clients=<client=int32[20],reason=int32[20]>,
        num_examples=int32,
        num_non_finite=int32,
        num_non_finite_clients=<metrics=int32,update=int32,weight=int32>
      >
    >,
    distributor=<>,
    finalizer=<update_non_finite=int32>
  >"""
    )
    assert "  receives 31.4 kB: W (state.weights)" in plan.splitlines()
    assert plan.splitlines()[-1] == process.next.describe().splitlines()[-1]


def identity(type_):
    return fc.computation(lambda value: value, type_)


def state_type(size=100):
    return fc.types.to_type({f"w{i}": f"float32[{size}]" for i in range(10)})


def test_weights_that_are_the_whole_state_have_its_letter():
    @fc.federated_computation
    def initialize():
        return fc.federated_eval(lambda: fc.trees.zeros_like(fc.types.tree_of_types(state_type())), fc.SERVER)

    @fc.federated_computation(fc.at_server(state_type()), fc.at_clients("float32[?]*"))
    def next(state, data):
        return LearningProcessOutput(state, fc.federated_value((), fc.SERVER))

    lines = LearningProcess(initialize, next, identity(state_type())).describe().splitlines()
    assert lines[:5] == [
        "initialize: ( -> S@SERVER)",
        "next: (<state=S@SERVER,data={float32[?]*}@CLIENTS> -> <state=S@SERVER,metrics=<>@SERVER>)",
        "report: (S -> S)",
        "get_model_weights: (S -> S)",
        "set_model_weights: (<state=S,weights=S> -> S)",
    ]
    assert [line for line in lines if " = " in line] == ["  S = <"]
    assert lines[-2:] == ["next", "nothing is communicated"]


def test_other_processes_have_no_model_weights():
    clock = EstimationProcess(fc.computation(lambda: 0), identity("int32"), identity("int32"))
    assert (
        clock.describe()
        == """\
initialize: ( -> int32)
next: (int32 -> int32)
report: (int32 -> int32)

next
one function, without placements"""
    )
    process = fc.aggregators.as_process(fc.aggregators.mean(), "float16")
    assert process.describe().splitlines()[-1] == "per client: receives 0 B, sends 8 B"
