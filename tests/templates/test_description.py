"""A process in words."""

import jax
import optax

import fedjax_core as fc
from fedjax_core.templates import EstimationProcess, LearningProcess, LearningProcessOutput


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
