"""Sampled metrics, whose number of rows is known only at run time, in evaluation and training."""

import jax
import numpy as np
import optax
import pytest

import fedjax_core as fc
from tests import learning_references as reference

KEY = jax.random.key(2)
MODEL = reference.linear_model()
CLIENTS = reference.make_clients((5, 1, 3, 8, 2))
SAMPLED = fc.metrics.finalize_then_sample(3, key=jax.random.key(9))
ROWS = "<accuracy=float32[?],loss=float32[?],num_examples=int32[?]>"
COUNTS = "<accuracy=int32,loss=int32,num_examples=int32>"


@pytest.fixture(scope="module")
def process():
    return fc.algorithms.fed_eval(MODEL, SAMPLED, key=KEY)


@pytest.fixture(scope="module")
def of_client():
    """The metrics of every client by its number of examples, which identifies it."""
    weights = reference.as_float64(MODEL.init(KEY))
    return {len(client["y"]): reference.evaluate(weights, {name: client}) for name, client in CLIENTS.items()}


def assert_sample(sample, of_client, number):
    assert list(map(len, sample.values())) == [number] * 3
    assert len(set(sample["num_examples"].tolist())) == number
    for row, examples in enumerate(sample["num_examples"].tolist()):
        reference.assert_close({name: value[row] for name, value in sample.items()}, of_client[examples])


def test_type_signature_of_fed_eval(process):
    assert str(process.next.type_signature.result["metrics"].member["client_work"]) == (
        f"<eval=<current_round_metrics={ROWS},num_non_finite={COUNTS},total_rounds_metrics={ROWS}>>"
    )


@pytest.mark.slow
def test_fed_eval_over_rounds_agrees_with_the_oracle(process, of_client):
    state = process.initialize()
    for ids, current, total in ((["a"], 1, 1), (["b", "c"], 2, 3), (list(CLIENTS), 3, 3)):
        state, metrics = process.next(state, reference.cohort(CLIENTS, ids))
        found = metrics["client_work"]["eval"]
        assert_sample(found["current_round_metrics"], of_client, current)
        assert len(found["total_rounds_metrics"]["loss"]) == total
        assert not any(jax.tree.leaves(found["num_non_finite"]))
    assert state.client_work["round_num"] == 3 and state.client_work["samples"]["loss"].shape == (3,)


def test_fed_eval_of_a_process_made_before(process):
    statistics = process.next.type_signature  # of the same model
    finalizers = {name: metric.finalize for name, metric in fc.model_calls.model_metrics(MODEL).items()}
    made = SAMPLED.create(finalizers, "<accuracy=<int32,int32>,loss=<float32,int32>,num_examples=int32>")
    assert fc.algorithms.fed_eval(MODEL, made, key=KEY).next.type_signature == statistics


def test_clients_that_are_not_finite_are_reported_and_stay(process):
    clients = {**CLIENTS, "b": {**CLIENTS["b"], "x": np.full((1, 4), np.nan, np.float32)}}
    _, metrics = process.next(process.initialize(), reference.cohort(clients, ["a", "b"]))
    found = metrics["client_work"]["eval"]
    assert found["num_non_finite"] == {"accuracy": 0, "loss": 1, "num_examples": 0}
    assert np.isnan(found["current_round_metrics"]["loss"]).sum() == 1
    assert sorted(found["current_round_metrics"]["num_examples"].tolist()) == [1, 5]


@pytest.mark.slow
@pytest.mark.parametrize("config", [{"lanes": 2, "devices": 2}, {"lanes": 1, "devices": 4, "memory_budget": 300}])
def test_lanes_devices_and_waves_sample_the_same_clients(process, config):
    cohort = reference.cohort(CLIENTS)
    _, expected = process.next(process.initialize(), cohort)
    _, found = process.next.with_config(fc.EngineConfig(**config))(process.initialize(), cohort)
    reference.assert_close(found, expected)


def test_as_function_of_fed_eval_returns_all_rows_with_the_count(process):
    cohort = reference.cohort(CLIENTS, ["a", "b"])
    _, found = jax.jit(process.next.as_function())(process.initialize(), fc.pack_cohort(cohort))
    _, expected = process.next(process.initialize(), cohort)
    rows = found["client_work"]["eval"]["current_round_metrics"]["loss"]
    assert rows.values.shape == (3,) and rows.count == 2
    np.testing.assert_allclose(
        rows.values[:2], expected["client_work"]["eval"]["current_round_metrics"]["loss"], rtol=1e-6
    )


def test_federated_evaluation(of_client):
    evaluation = fc.algorithms.federated_evaluation(MODEL, SAMPLED)
    assert str(evaluation.type_signature.result) == (
        f"<eval=<current_round_metrics={ROWS},num_non_finite={COUNTS},total_rounds_metrics={ROWS}>>@SERVER"
    )
    found = evaluation(MODEL.init(KEY), reference.cohort(CLIENTS))["eval"]
    assert_sample(found["current_round_metrics"], of_client, 3)
    reference.assert_same_bits(found["total_rounds_metrics"], found["current_round_metrics"])


def test_training_metrics():
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), metrics_aggregation=SAMPLED, key=KEY)
    plain = fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), key=KEY)
    assert str(process.next.type_signature.result["metrics"].member["client_work"]) == (
        f"<train=<current_round_metrics={ROWS},non_finite_clients=<client=int32[20],reason=int32[20]>,"
        f"num_non_finite={COUNTS},num_non_finite_clients=<metrics=int32,update=int32,weight=int32>,"
        f"total_rounds_metrics={ROWS}>>"
    )
    state, metrics = process.next(process.initialize(), reference.cohort(CLIENTS, ["a", "b"]))
    train = metrics["client_work"]["train"]
    assert sorted(train["current_round_metrics"]["num_examples"].tolist()) == [1, 5]
    state, metrics = process.next(state, reference.cohort(CLIENTS, ["c"]))
    assert metrics["client_work"]["train"]["current_round_metrics"]["num_examples"].tolist() == [3]
    assert sorted(metrics["client_work"]["train"]["total_rounds_metrics"]["num_examples"].tolist()) == [1, 3, 5]
    new, _ = process.next(state, reference.cohort(CLIENTS, []))
    reference.assert_same_bits(new, state._replace(round_num=state.round_num + 1))
    other, _ = plain.next(plain.initialize(), reference.cohort(CLIENTS, ["a", "b"]))
    other, _ = plain.next(other, reference.cohort(CLIENTS, ["c"]))
    reference.assert_close(state.weights, other.weights)


def test_history_takes_samples(process):
    """A history has a column for every row of a small sample."""
    _, metrics = process.next(process.initialize(), reference.cohort(CLIENTS, ["a", "b"]))
    flat = fc.program.flatten_metrics(metrics)
    assert sum("current_round_metrics/loss" in name for name in flat) == 2
