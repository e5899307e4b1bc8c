"""LearningProcess: its fourteen checks, each with its own error and in their order."""

import collections
import itertools
from typing import NamedTuple

import jax.numpy as jnp
import pytest

import fedjax_core as fc
from fedjax_core.templates import IterativeProcess, LearningProcess, LearningProcessOutput, errors

Namesake = collections.namedtuple("LearningProcessOutput", ["state", "metrics"])

METRICS = {
    "at server": lambda: fc.federated_value(0.0, fc.SERVER),
    "at clients": lambda: fc.federated_value(0.0, fc.CLIENTS),
    "struct at server": lambda: {"a": fc.federated_value(0.0, fc.SERVER), "b": fc.federated_value(1, fc.SERVER)},
    "unplaced": lambda: 1.0,
    "empty": lambda: (),
}


def initialize(value=0, placement=fc.SERVER):
    return fc.federated_computation(lambda: fc.federated_value(value, placement))


def step(
    state="int32@SERVER",
    data="int32[?]*",
    placement="CLIENTS",
    num_arguments=2,
    output=LearningProcessOutput,
    new_state=None,
    metrics="at server",
):
    def fn(state):
        next_state = state if new_state is None else fc.federated_value(new_state, fc.SERVER)
        return output(next_state, METRICS[metrics]())

    by_number = {
        1: lambda state: fn(state),
        2: lambda state, data: fn(state),
        3: lambda state, data, more: fn(state),
    }
    placed = data if placement is None else f"{{{data}}}@{placement}"
    types = [state, placed, "int32@SERVER"][:num_arguments]
    return fc.federated_computation(by_number[num_arguments], *types)


def identity(state_type="int32"):
    return fc.computation(lambda state: state, state_type)


def replace(state_type="int32", weights_type="int32"):
    return fc.computation(lambda state, weights: weights, state_type, weights_type)


def build(
    initialize_fn=None,
    next_fn=None,
    report_fn=None,
    get_model_weights=None,
    set_model_weights=None,
    initial=0,
    state_placement=fc.SERVER,
    **changes,
):
    state = "int32@SERVER" if state_placement is fc.SERVER else "{int32}@CLIENTS"
    return LearningProcess(
        initialize_fn or initialize(initial, state_placement),
        next_fn or step(state, **changes),
        report_fn or identity(),
        get_model_weights,
        set_model_weights,
    )


RULES = {
    "1 initialize_fn is a function": ({"initialize_fn": lambda: 0}, TypeError),
    "2 initialize_fn has a parameter": (
        {"initialize_fn": fc.federated_computation(lambda x: x, "int32@SERVER")},
        errors.TemplateInitFnParamNotEmptyError,
    ),
    "3 next_fn is a function": ({"next_fn": lambda state, data: state}, TypeError),
    "4 next_fn has no parameter": (
        {"next_fn": fc.federated_computation(lambda: fc.federated_value(0, fc.SERVER))},
        errors.TemplateNextFnNumArgsError,
    ),
    "4 next_fn takes another state": ({"initial": 0.0}, errors.TemplateStateNotAssignableError),
    "5 next_fn returns another state": ({"new_state": 0.0}, errors.TemplateStateNotAssignableError),
    "6 the state is at CLIENTS": ({"state_placement": fc.CLIENTS}, errors.LearningProcessPlacementError),
    "7 next_fn returns a tuple": ({"output": lambda *fields: fields}, errors.LearningProcessOutputError),
    "8 next_fn takes three arguments": ({"num_arguments": 3}, errors.TemplateNextFnNumArgsError),
    "9 the data is at SERVER": ({"placement": "SERVER"}, errors.LearningProcessPlacementError),
    "10 the data is no sequence": ({"data": "int32[?]"}, errors.LearningProcessSequenceTypeError),
    "11 the metrics are at CLIENTS": ({"metrics": "at clients"}, errors.LearningProcessPlacementError),
    "12 report_fn is a function": ({"report_fn": lambda state: state}, TypeError),
    "12 report_fn takes another state": (
        {"report_fn": identity("float32")},
        errors.ReportFnTypeSignatureError,
    ),
    "13 get_model_weights is a function": ({"get_model_weights": lambda state: state}, TypeError),
    "13 get_model_weights takes another state": (
        {"get_model_weights": identity("float32")},
        errors.GetModelWeightsTypeSignatureError,
    ),
    "14 set_model_weights is a function": ({"set_model_weights": lambda state, weights: state}, TypeError),
    "14 set_model_weights takes another state": (
        {"set_model_weights": replace("float32", "int32")},
        errors.SetModelWeightsTypeSignatureError,
    ),
}


def test_valid():
    process = build()
    assert isinstance(process, IterativeProcess)
    assert str(process.state_type) == "int32@SERVER"
    assert str(process.initialize.type_signature) == "( -> int32@SERVER)"
    expected = "(<state=int32@SERVER,data={int32[?]*}@CLIENTS> -> <state=int32@SERVER,metrics=float32@SERVER>)"
    assert str(process.next.type_signature) == expected
    assert str(process.report.type_signature) == "(int32 -> int32)"


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


def test_all_rules_broken_at_once():
    every = {}
    for changes, _ in reversed(RULES.values()):
        every.update(changes)
    with pytest.raises(TypeError, match="`initialize_fn` must be a Computation"):
        build(**every)


# The state: checks 4 to 6.


def test_an_unplaced_state():
    next_fn = fc.computation(lambda state, data: LearningProcessOutput(state, 0.0), "int32", "int32[3]")
    with pytest.raises(errors.LearningProcessPlacementError, match=r"got int32; .*fc\.federated_value"):
        build(initialize_fn=fc.computation(lambda: 0), next_fn=next_fn)


def test_a_struct_of_placed_states():
    pair = ("int32@SERVER", "float32@SERVER")
    initialize_fn = fc.federated_computation(
        lambda: (fc.federated_value(0, fc.SERVER), fc.federated_value(0.0, fc.SERVER))
    )
    next_fn = fc.federated_computation(
        lambda state, data: LearningProcessOutput(state, fc.federated_value((), fc.SERVER)), pair, "{int32*}@CLIENTS"
    )
    with pytest.raises(
        errors.LearningProcessPlacementError, match=r"<int32@SERVER,float32@SERVER>; .*fc\.federated_zip"
    ):
        build(initialize_fn=initialize_fn, next_fn=next_fn)


def test_an_unplaced_state_where_a_placed_one_is_taken():
    with pytest.raises(errors.TemplateStateNotAssignableError, match="int32 where `next_fn` takes int32@SERVER;"):
        build(initialize_fn=fc.computation(lambda: 0))


def test_two_arguments_of_the_type_of_the_state_are_not_one_state():
    initialize_fn = fc.federated_computation(
        lambda: (fc.federated_value(0, fc.SERVER), fc.federated_value(0, fc.SERVER))
    )
    next_fn = fc.federated_computation(lambda a, b: LearningProcessOutput(a, b), "int32@SERVER", "int32@SERVER")
    with pytest.raises(errors.TemplateStateNotAssignableError):
        build(initialize_fn=initialize_fn, next_fn=next_fn)


def test_the_state_may_be_empty():
    process = LearningProcess(initialize(()), step("<>@SERVER"), identity("<>"))
    assert str(process.get_model_weights.type_signature) == "(<> -> <>)"


def test_the_state_may_grow_within_the_type_of_next():
    process = LearningProcess(
        initialize(jnp.zeros(0)), step("float32[?]@SERVER"), fc.computation(jnp.sum, "float32[?]")
    )
    assert str(process.state_type) == "float32[?]@SERVER"
    with pytest.raises(errors.ReportFnTypeSignatureError, match=r"float32\[\?\].*float32\[0\]"):
        LearningProcess(initialize(jnp.zeros(0)), step("float32[?]@SERVER"), identity("float32[0]"))


# The output: check 7.


@pytest.mark.parametrize(
    "output",
    [
        Namesake,
        lambda state, metrics: (state, metrics),
        lambda state, metrics: [state, metrics],
        lambda state, metrics: collections.OrderedDict(state=state, metrics=metrics),
        lambda state, metrics: state,
    ],
    ids=["namesake", "tuple", "list", "dict", "state alone"],
)
def test_only_the_output_itself_is_one(output):
    with pytest.raises(errors.LearningProcessOutputError, match=r"got .*int32@SERVER.*LearningProcessOutput\("):
        build(output=output)


def test_an_output_placed_as_a_whole_is_refused():
    with pytest.raises(errors.TemplateStateNotAssignableError):
        build(output=lambda *fields: fc.federated_zip(LearningProcessOutput(*fields)))


# The data: checks 8 to 10.


def test_next_takes_the_state_only():
    with pytest.raises(errors.TemplateNextFnNumArgsError, match="exactly two arguments, state and data, got 1:"):
        build(num_arguments=1)


def test_next_takes_one_struct_of_state_and_data():
    next_fn = fc.federated_computation(
        lambda both: LearningProcessOutput(both[0], fc.federated_value((), fc.SERVER)),
        ("int32@SERVER", "{int32*}@CLIENTS"),
    )
    with pytest.raises(errors.TemplateNextFnNumArgsError, match="got 1:"):
        build(next_fn=next_fn)


def test_next_takes_no_argument():
    with pytest.raises(errors.TemplateNextFnNumArgsError, match=r"\( -> int32@SERVER\)"):
        build(next_fn=initialize())


@pytest.mark.parametrize("data", ["int32", "<int32,int32>", "<>"])
def test_unplaced_data(data):
    with pytest.raises(errors.LearningProcessPlacementError, match=r"the data .*fc\.at_clients"):
        build(data=data, placement=None)


def test_a_struct_of_placed_data():
    repair = r"fc\.at_clients\('<int32\*,int32\*>'\)"
    with pytest.raises(errors.LearningProcessPlacementError, match=f"the data .*{repair}"):
        build(data="<{int32*}@CLIENTS,{int32*}@CLIENTS>", placement=None)


@pytest.mark.parametrize("data", ["int32*", "<int32*,int32*>", "<a=int32*,b=<c=<x=float32[?],y=int8[?]>*,d=int32*>>"])
def test_sequences_and_structs_of_sequences(data):
    assert str(_data_type(build(data=data))) == f"{{{data}}}@CLIENTS"


def _data_type(process):
    return process.next.type_signature.parameter[1]


@pytest.mark.parametrize("data", ["<int32*,int32>", "<a=int32*,b=<c=int32*,d=float32>>", "<x=float32[?],y=int32[?]>"])
def test_structs_with_something_else_than_sequences(data):
    with pytest.raises(errors.LearningProcessSequenceTypeError, match=r"fc\.types\.SequenceType"):
        build(data=data)


# The metrics: check 11.


@pytest.mark.parametrize(
    "metrics, repair",
    [
        ("unplaced", r"fc\.federated_value"),
        ("empty", r"fc\.federated_value"),
        ("struct at server", r"fc\.federated_zip"),
        ("at clients", r"fc\.federated_sum"),
    ],
)
def test_metrics_that_are_not_at_server_as_a_whole(metrics, repair):
    with pytest.raises(errors.LearningProcessPlacementError, match=f"the metrics must be at SERVER .*{repair}"):
        build(metrics=metrics)


# report, get_model_weights and set_model_weights: checks 12 to 14.

READERS = {
    "report_fn": errors.ReportFnTypeSignatureError,
    "get_model_weights": errors.GetModelWeightsTypeSignatureError,
}


@pytest.mark.parametrize("role", READERS)
@pytest.mark.parametrize("value", [3, fc.at_server("int32"), lambda state: state])
def test_a_reader_is_a_computation(role, value):
    with pytest.raises(TypeError, match=f"`{role}` must be a Computation") as caught:
        build(**{role: value})
    assert caught.type is TypeError


@pytest.mark.parametrize("role", READERS)
@pytest.mark.parametrize(
    "fn",
    [
        fc.computation(lambda: 0),
        fc.computation(lambda state, more: state, "int32", "int32"),
        fc.computation(lambda state: state, "int32[?]"),
        fc.computation(lambda state: state, "<int32>"),
        fc.federated_computation(lambda state: state, "int32@SERVER"),
    ],
    ids=["no argument", "two arguments", "another shape", "struct", "placed"],
)
def test_a_reader_takes_the_unplaced_state_alone(role, fn):
    with pytest.raises(READERS[role], match=f"`{role}` must take the unplaced state, int32, .*got the type"):
        build(**{role: fn})


@pytest.mark.parametrize("role", READERS)
def test_a_reader_takes_an_equivalent_state_not_a_wider_one(role):
    readers = {"report_fn": identity("float32[3]"), "get_model_weights": identity("float32[3]")}
    readers[role] = identity("float32[?]")
    with pytest.raises(READERS[role]):
        LearningProcess(initialize(jnp.zeros(3)), step("float32[3]@SERVER"), **readers)


@pytest.mark.parametrize("role", READERS)
def test_a_reader_of_two_arguments_does_not_take_a_struct(role):
    readers = {"report_fn": identity("<a=int32,b=int32>"), "get_model_weights": None}
    readers[role] = fc.computation(lambda a, b: a, "int32", "int32")
    with pytest.raises(READERS[role]):
        LearningProcess(initialize({"a": 0, "b": 0}), step("<a=int32,b=int32>@SERVER"), **readers)


class State(NamedTuple):
    count: object
    weights: object


STATE = fc.types.to_type(State("int32", {"w": "float32[3]"}))
WEIGHTS = fc.types.to_type({"w": "float32[3]"})


def build_with_weights(**changes):
    arguments = {
        "initialize_fn": initialize(State(0, {"w": jnp.zeros(3)})),
        "next_fn": step(fc.at_server(STATE)),
        "report_fn": fc.computation(lambda state: state.count, STATE),
        "get_model_weights": fc.computation(lambda state: state.weights, STATE),
        "set_model_weights": fc.computation(lambda state, weights: state._replace(weights=weights), STATE, WEIGHTS),
    }
    return LearningProcess(**{**arguments, **changes})


def test_weights_are_a_part_of_the_state():
    process = build_with_weights()
    signature = process.set_model_weights.type_signature
    state, weights = str(STATE), str(WEIGHTS)
    assert str(signature) == f"(<state={state},weights={weights}> -> {state})"
    assert str(process.get_model_weights.type_signature) == f"({state} -> {weights})"


def test_weights_run():
    process = build_with_weights()
    state = process.set_model_weights(process.initialize(), {"w": jnp.ones(3)})
    assert type(state) is State
    assert process.get_model_weights(state)["w"].tolist() == [1.0, 1.0, 1.0]
    assert int(process.report(state)) == 0


@pytest.mark.parametrize("value", [3, fc.at_server("int32"), lambda state, weights: state])
def test_set_model_weights_is_a_computation(value):
    with pytest.raises(TypeError, match="`set_model_weights` must be a Computation") as caught:
        build(set_model_weights=value)
    assert caught.type is TypeError


@pytest.mark.parametrize(
    "fn",
    [
        fc.computation(lambda: State(0, {"w": jnp.zeros(3)})),
        fc.computation(lambda state: state, STATE),
        fc.computation(lambda both: both[0], (STATE, WEIGHTS)),
        fc.computation(lambda state, weights, more: state, STATE, WEIGHTS, "int32"),
    ],
    ids=["none", "one", "one struct of two", "three"],
)
def test_set_model_weights_takes_two_arguments(fn):
    with pytest.raises(errors.SetModelWeightsTypeSignatureError, match="`set_model_weights` must take"):
        build_with_weights(set_model_weights=fn)


def test_the_first_argument_of_set_model_weights_is_the_state():
    fn = fc.computation(lambda state, weights: State(0, weights), WEIGHTS, WEIGHTS)
    with pytest.raises(errors.SetModelWeightsTypeSignatureError):
        build_with_weights(set_model_weights=fn)


@pytest.mark.parametrize("weights_type", ["<w=float32[?]>", "<float32[3]>", "<w=float32[4]>", "<v=float32[3]>", STATE])
def test_the_second_argument_of_set_model_weights_is_what_get_model_weights_returns(weights_type):
    fn = fc.computation(lambda state, weights: state, STATE, weights_type)
    with pytest.raises(errors.SetModelWeightsTypeSignatureError, match=r"<w=float32\[3\]>"):
        build_with_weights(set_model_weights=fn)


@pytest.mark.parametrize(
    "change", [lambda state: state.weights, lambda state: state._replace(count=0.0)], ids=["weights", "other dtype"]
)
def test_set_model_weights_returns_a_state(change):
    fn = fc.computation(lambda state, weights: change(state), STATE, WEIGHTS)
    with pytest.raises(errors.SetModelWeightsTypeSignatureError, match="and return a state, got the type"):
        build_with_weights(set_model_weights=fn)


def test_set_model_weights_may_return_a_narrower_state():
    process = LearningProcess(
        initialize(jnp.zeros(3)),
        step("float32[?]@SERVER"),
        identity("float32[?]"),
        set_model_weights=fc.computation(lambda state, weights: jnp.zeros(3), "float32[?]", "float32[?]"),
    )
    assert str(process.set_model_weights.type_signature.result) == "float32[3]"


def test_a_federated_set_model_weights_is_refused():
    fn = fc.federated_computation(lambda state, weights: weights, "int32@SERVER", "int32@SERVER")
    with pytest.raises(errors.SetModelWeightsTypeSignatureError):
        build(set_model_weights=fn)


def test_without_get_model_weights_the_state_is_the_weights():
    process = build()
    assert str(process.get_model_weights.type_signature) == "(int32 -> int32)"
    assert int(process.get_model_weights(3)) == 3


def test_without_set_model_weights_the_weights_are_the_state():
    process = build()
    assert str(process.set_model_weights.type_signature) == "(<state=int32,weights=int32> -> int32)"
    assert int(process.set_model_weights(3, 5)) == 5


def test_without_both_a_struct_stays_what_it_is():
    process = build_with_weights(get_model_weights=None, set_model_weights=None)
    state = State(jnp.int32(2), {"w": jnp.ones(3)})
    assert type(process.get_model_weights(state)) is State
    replaced = process.set_model_weights(process.initialize(), state)
    assert type(replaced) is State
    assert int(replaced.count) == 2


def test_weights_that_are_no_state_need_set_model_weights():
    with pytest.raises(errors.SetModelWeightsTypeSignatureError, match="`set_model_weights=None` replaces the whole"):
        build_with_weights(set_model_weights=None)


# The process as a whole.


@pytest.mark.parametrize("make", [build, build_with_weights], ids=["defaults", "weights"])
def test_it_can_be_rebuilt_from_its_attributes(make):
    process = make()
    names = ("initialize", "next", "report", "get_model_weights", "set_model_weights")
    again = LearningProcess(*(getattr(process, name) for name in names))
    for name in names:
        assert getattr(again, name) is getattr(process, name)
    assert again.state_type == process.state_type


def test_it_takes_exactly_its_named_arguments():
    with pytest.raises(TypeError):
        LearningProcess(initialize(), step())
    with pytest.raises(TypeError):
        LearningProcess(initialize(), step(), identity(), None, None, None)
    with pytest.raises(TypeError):
        LearningProcess(initialize(), step(), identity(), get_hparams_fn=None)
    process = LearningProcess(
        initialize_fn=initialize(),
        next_fn=step(),
        report_fn=identity(),
        get_model_weights=identity(),
        set_model_weights=replace(),
    )
    assert isinstance(process, LearningProcess)


def test_its_attributes_cannot_be_set():
    process = build()
    names = ("initialize", "next", "report", "get_model_weights", "set_model_weights", "get_hparams", "set_hparams")
    for name in (*names, "state_type"):
        with pytest.raises(AttributeError):
            setattr(process, name, None)


def test_a_round_runs():
    def count(sequence):
        return sequence.reduce(jnp.int32(0), lambda total, batch, mask: total + mask.sum(dtype=jnp.int32))

    @fc.federated_computation("int32@SERVER", "{float32[?]*}@CLIENTS")
    def next_fn(state, data):
        new = fc.federated_sum(fc.federated_map(count, data))
        return LearningProcessOutput(fc.federated_map(jnp.add, state, new), fc.federated_zip({"new": new}))

    process = LearningProcess(initialize(), next_fn, identity())
    state = process.initialize()
    for _ in range(2):
        output = process.next(state, [[jnp.zeros(3), jnp.zeros(3)], [jnp.zeros(3)]])
        assert type(output) is LearningProcessOutput
        state, metrics = output
    assert (int(state), int(metrics["new"])) == (18, 9)


def test_another_configuration_keeps_all_but_how_rounds_run():
    process = build()
    other = process.with_config(fc.EngineConfig(lanes=4, devices=1))
    assert (other.next.config.lanes, process.next.config.lanes) == (4, None)
    assert str(other.next.type_signature) == str(process.next.type_signature)
    for name in ("initialize", "report", "get_model_weights", "set_model_weights"):
        assert getattr(other, name) is getattr(process, name)
    with pytest.raises(TypeError, match="with_config takes an EngineConfig, got 4"):
        process.with_config(4)
