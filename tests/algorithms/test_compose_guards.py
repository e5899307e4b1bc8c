"""What a round leaves unchanged, in clients, metrics and state, if something is empty or not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.contracts import Aggregator
from fedjax_core.templates import MeasuredProcessOutput
from tests import learning_references as reference

KEY = jax.random.key(5)
MODEL = reference.linear_model()
CLIENTS = reference.make_clients((5, 3, 0, 4))
NOBODY = {"metrics": 0, "update": 0, "weight": 0}


def counting(inner, *, always_releases=False):
    """An aggregator whose state changes in every round: it holds the sum released so far and the number of rounds."""

    def init(value_type):
        zeros = jax.tree.map(lambda t: np.zeros(t.shape, t.dtype), fc.types.tree_of_types(value_type))
        return fc.federated_value({"released": zeros, "rounds": 0}, fc.SERVER)

    def next(state, value, weight):
        _, result, measurements = inner.next(fc.federated_value((), fc.SERVER), value, weight)

        def step(state, result):
            return {"released": fc.trees.add(state["released"], result), "rounds": state["rounds"] + 1}

        return MeasuredProcessOutput(fc.federated_map(step, state, result), result, measurements)

    return Aggregator(init, next, always_releases)


def plus(number, inner):
    """An aggregator that adds a number to every entry of the result, as one with noise would."""

    def next(state, value, weight):
        state, result, measurements = inner.next(state, value, weight)
        shifted = fc.federated_map(lambda r: jax.tree.map(lambda x: x + number, r), result)
        return MeasuredProcessOutput(state, shifted, measurements)

    return inner._replace(next=next)


def _process(**changes):
    settings = {
        "server_optimizer": optax.chain(optax.adam(0.1), optax.trace(0.9)),
        "aggregator": counting(fc.aggregators.mean()),
        "metrics_aggregation": fc.metrics.sum_then_finalize(),
        "key": KEY,
    } | changes
    return fc.algorithms.fed_avg(MODEL, optax.sgd(0.2), **settings)


@pytest.fixture(scope="module")
def started():
    """A process in which every slot has a state, and its state after two ordinary rounds."""
    process = _process()
    state = process.initialize()
    for _ in range(2):
        state, _ = process.next(state, reference.cohort(CLIENTS))
    return process, state


def _nan_client(client):
    return {**client, "x": np.where(np.arange(4) == 2, np.nan, client["x"]).astype(np.float32)}


@pytest.mark.parametrize("ids", [[], ["c"], ["c", "c"]], ids=["empty cohort", "empty client", "empty clients"])
def test_round_without_examples_changes_the_round_number_only(started, ids):
    process, state = started
    new, metrics = process.next(state, reference.cohort(CLIENTS, ids))
    reference.assert_same_bits(new, state._replace(round_num=state.round_num + 1))
    train = metrics["client_work"]["train"]
    assert np.isnan(train["current_round_metrics"]["loss"])
    assert train["current_round_metrics"]["num_examples"] == 0
    assert train["total_rounds_metrics"]["num_examples"] == 24
    assert train["num_non_finite_clients"] == NOBODY
    assert metrics["aggregator"]["mean_weight"] == {"num_zero": 1, "total": 0.0}
    assert metrics["aggregator"]["mean_value"]["norm"] == 0.0


def test_empty_list_of_clients_is_an_empty_cohort(started):
    process, state = started
    new, _ = process.next(state, [])
    reference.assert_same_bits(new, state._replace(round_num=state.round_num + 1))


def test_round_of_which_every_client_is_non_finite_changes_the_round_number_only(started):
    process, state = started
    broken = {name: _nan_client(client) for name, client in CLIENTS.items()}
    new, metrics = process.next(state, reference.cohort(broken))
    reference.assert_same_bits(new, state._replace(round_num=state.round_num + 1))
    assert metrics["client_work"]["train"]["num_non_finite_clients"] == {**NOBODY, "update": 3}
    assert np.isnan(metrics["client_work"]["train"]["current_round_metrics"]["accuracy"])


def test_ordinary_round_moves_everything_but_the_key(started):
    process, state = started
    new, _ = process.next(state, reference.cohort(CLIENTS))
    assert (jax.random.key_data(new.key) == jax.random.key_data(state.key)).all()
    moving = (new.weights, new.client_work, new.aggregator, new.finalizer)
    before = (state.weights, state.client_work, state.aggregator, state.finalizer)
    for part, old in zip(moving, before):
        assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(jax.tree.leaves(part), jax.tree.leaves(old)))
    assert new.round_num == 3 and new.aggregator["rounds"] == 3


@pytest.mark.parametrize("ids", [[], ["c"]], ids=["empty cohort", "empty client"])
def test_aggregator_that_always_releases_moves_without_examples(ids):
    aggregator = plus(0.5, counting(fc.aggregators.mean(), always_releases=True))
    process = _process(aggregator=aggregator, server_optimizer=optax.sgd(1.0, momentum=0.9))
    state = process.initialize()
    new, metrics = process.next(state, reference.cohort(CLIENTS, ids))
    assert new.aggregator["rounds"] == 1
    reference.assert_close(new.weights, jax.tree.map(lambda w: w - 0.5, state.weights))
    assert metrics["finalizer"] == {"update_non_finite": 0}


@pytest.mark.parametrize("weighting", ["examples", "uniform", lambda metrics: metrics["num_examples"]])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_client_that_is_not_finite_is_left_out_and_counted(weighting, value):
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.2), weighting=weighting, key=KEY)
    state = process.initialize()
    clients = dict(CLIENTS)
    clients["b"] = {**clients["b"], "x": np.full_like(clients["b"]["x"], value)}
    new, metrics = process.next(state, reference.cohort(clients))
    without = {name: CLIENTS[name] for name in ("a", "c", "d")}
    expected, expected_metrics = process.next(state, reference.cohort(without))
    reference.assert_close(new.weights, expected.weights, rtol=1e-6, atol=1e-6)
    assert fc.algorithms.left_out_clients(metrics, list(clients)) == {"b": "update"}
    assert fc.algorithms.left_out_clients(expected_metrics, list(without)) == {}
    for found, number in ((metrics, 1), (expected_metrics, 0)):
        del found["client_work"]["train"]["non_finite_clients"]
        assert found["client_work"]["train"].pop("num_non_finite_clients") == {**NOBODY, "update": number}
    reference.assert_close(metrics, expected_metrics, rtol=1e-6)


def test_weight_that_is_not_finite_does_not_spoil_the_round():
    """A client whose weight is not finite is left out, like one whose update is not."""

    def weighting(metrics):
        return jnp.where(metrics["num_examples"] == 3, jnp.nan, 1.0)

    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.2), weighting=weighting, key=KEY)
    _, metrics = process.next(process.initialize(), reference.cohort(CLIENTS))
    assert metrics["client_work"]["train"]["num_non_finite_clients"] == {**NOBODY, "weight": 1}
    assert fc.algorithms.left_out_clients(metrics, list(CLIENTS)) == {"b": "weight"}
    assert metrics["aggregator"]["mean_weight"]["total"] == 2.0
    assert metrics["client_work"]["train"]["num_examples"] == 9


def test_client_of_whom_only_a_metric_is_not_finite_is_left_out_for_it():
    spoilt = fc.contracts.Metric(lambda p, batch, mask: jnp.sum(1 / (3.0 - jnp.sum(mask))), lambda statistic: statistic)
    process = fc.algorithms.fed_avg(MODEL._replace(metrics={"spoilt": spoilt}), optax.sgd(0.2), key=KEY)
    _, metrics = process.next(process.initialize(), reference.cohort(CLIENTS, ["b", "d"], batch_size=8))
    train = metrics["client_work"]["train"]
    assert (train["num_non_finite"], train["num_non_finite_clients"]) == (0, {**NOBODY, "metrics": 1})
    assert fc.algorithms.left_out_clients(metrics, list(CLIENTS)) == {"b": "metrics"}
    assert metrics["aggregator"]["mean_weight"]["total"] == len(CLIENTS["d"]["y"])
    assert np.isfinite(train["spoilt"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_aggregate_that_is_not_finite_changes_the_round_number_only(value):
    process = _process(aggregator=plus(value, counting(fc.aggregators.mean())))
    state = process.initialize()
    new, metrics = process.next(state, reference.cohort(CLIENTS))
    reference.assert_same_bits(new, state._replace(round_num=state.round_num + 1))
    assert metrics["finalizer"] == {"update_non_finite": 1}
    assert metrics["client_work"]["train"]["current_round_metrics"]["num_examples"] == 12


def test_overflow_of_finite_updates_is_a_rejected_update():
    clients = reference.make_clients((16, 16))
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(1e38), key=KEY)
    state = process.initialize()
    new, metrics = process.next(state, reference.cohort(clients, batch_size=16))
    assert metrics["client_work"]["train"]["num_non_finite_clients"] == NOBODY
    assert metrics["finalizer"] == {"update_non_finite": 1}
    reference.assert_same_bits(new.weights, state.weights)


def test_weights_of_zero_are_a_rejected_update():
    process = _process(weighting=lambda metrics: 0.0)
    state = process.initialize()
    new, metrics = process.next(state, reference.cohort(CLIENTS))
    reference.assert_same_bits(new, state._replace(round_num=state.round_num + 1))
    assert metrics["aggregator"]["mean_weight"] == {"num_zero": 1, "total": 0.0}


def test_metrics_and_report_have_exactly_the_documented_structure():
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.2), key=KEY)
    metrics_type = process.next.type_signature.result["metrics"]
    assert str(metrics_type) == (
        "<aggregator=<mean_value=<norm=float32>,mean_weight=<num_zero=int32,total=float32>>,"
        "client_work=<train=<accuracy=float32,loss=float32,non_finite_clients=<client=int32[20],reason=int32[20]>,"
        "num_examples=int32,num_non_finite=int32,num_non_finite_clients=<metrics=int32,update=int32,weight=int32>>>,"
        "distributor=<>,finalizer=<update_non_finite=int32>>@SERVER"
    )
    state = (
        "<weights=<bias=float32[3],kernel=float32[4,3]>,distributor=<>,client_work=<>,aggregator=<>,"
        "finalizer=<<>,<>>,round_num=int32,key=key<fry>>"
    )
    assert str(process.initialize.type_signature) == f"( -> {state}@SERVER)"
    assert str(process.report.type_signature) == f"({state} -> <round_num=int32,weights_norm=float32>)"
    weights = "<bias=float32[3],kernel=float32[4,3]>"
    assert str(process.get_model_weights.type_signature) == f"({state} -> {weights})"
    assert str(process.set_model_weights.type_signature) == f"(<state={state},weights={weights}> -> {state})"
    data = "{<x=float32[?,4],y=int32[?]>*}@CLIENTS"
    assert str(process.next.type_signature) == (
        f"(<state={state}@SERVER,data={data}> -> <state={state}@SERVER,metrics={metrics_type}>)"
    )


def test_report_is_the_round_number_and_the_norm_of_the_weights(started):
    process, state = started
    report = process.report(state)
    flat = np.concatenate([np.asarray(w, np.float64).ravel() for w in jax.tree.leaves(state.weights)])
    assert report["round_num"] == 2
    np.testing.assert_allclose(report["weights_norm"], np.linalg.norm(flat), rtol=1e-6)


def test_weights_are_set_and_got(started):
    process, state = started
    weights = {"kernel": np.full((4, 3), 2.0, np.float32), "bias": np.zeros(3, np.float32)}
    new = process.set_model_weights(state, weights)
    reference.assert_same_bits(process.get_model_weights(new), weights)
    reference.assert_same_bits(new._replace(weights=state.weights), state)
