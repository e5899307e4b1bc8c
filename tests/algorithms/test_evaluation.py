"""Evaluation and the aggregation of metrics, by the steps of TFF's tutorials."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.templates import AggregationProcess, MeasuredProcessOutput
from tests import learning_references as reference

KEY = jax.random.key(2)
MODEL = reference.linear_model()
CLIENTS = reference.make_clients((5, 1, 0, 8))
STATISTICS = "<accuracy=<int32,int32>,loss=<float32,int32>,num_examples=int32>"
WEIGHTS = "<bias=float32[3],kernel=float32[4,3]>"
DATA = "{<x=float32[?,4],y=int32[?]>*}@CLIENTS"
LEFT_OUT = (
    "non_finite_clients=<client=int32[20],reason=int32[20]>,"
    "num_non_finite_clients=<metrics=int32,update=int32,weight=int32>"
)


def _aggregate(metrics):
    """As in TFF's tutorial: sums, and the clients' mean accuracy weighted by their examples."""
    total = fc.federated_sum({"count": metrics["num_examples"], "right": metrics["accuracy"][0]})
    accuracy = fc.federated_map(lambda s: s[0] / s[1].astype(jnp.float32).clip(1), metrics["accuracy"])
    weight = fc.federated_map(lambda n: n.astype(jnp.float32), metrics["num_examples"])
    return {"total": total, "mean_accuracy": fc.federated_mean(accuracy, weight)}


TYPED = fc.federated_computation(_aggregate, fc.at_clients(STATISTICS))
UNTYPED = fc.federated_computation(_aggregate)


@fc.federated_computation(fc.at_server("int32"), fc.at_clients(STATISTICS))
def _count_rounds(rounds, metrics):
    rounds = fc.federated_map(lambda n: n + 1, rounds)
    result = fc.federated_zip({"rounds": rounds, "examples": fc.federated_sum(metrics["num_examples"])})
    return MeasuredProcessOutput(rounds, result, fc.federated_value({"seen": 1}, fc.SERVER))


COUNTING = AggregationProcess(fc.federated_computation(lambda: fc.federated_value(0, fc.SERVER)), _count_rounds)

_AGGREGATIONS = {
    "none": None,
    "computation": TYPED,
    "process": COUNTING,
    "sum_then_finalize": fc.metrics.sum_then_finalize(),
    "secure_sum_then_finalize": fc.metrics.secure_sum_then_finalize(),
    "finalize_then_sample": fc.metrics.finalize_then_sample(2, key=KEY),
}


@pytest.fixture(scope="module")
def evaluation():
    return fc.algorithms.federated_evaluation(MODEL)


@pytest.fixture(scope="module")
def process():
    return fc.algorithms.fed_eval(MODEL)


@pytest.fixture(scope="module")
def weights():
    return MODEL.init(KEY)


def test_type_signature_of_the_evaluation(evaluation):
    assert str(evaluation.type_signature) == (
        f"(<weights={WEIGHTS}@SERVER,data={DATA}> -> "
        "<eval=<accuracy=float32,loss=float32,num_examples=int32,num_non_finite=int32>>@SERVER)"
    )


@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_metrics_agree_with_the_oracle(evaluation, weights, batch_size):
    metrics = evaluation(weights, reference.cohort(CLIENTS, batch_size=batch_size))["eval"]
    assert metrics.pop("num_non_finite") == 0
    reference.assert_close(metrics, reference.evaluate(reference.as_float64(weights), CLIENTS))


def test_evaluation_takes_numpy_weights_and_lists_of_batches(evaluation, weights):
    numpy_weights = jax.tree.map(np.asarray, weights)
    listed = [[client] for client in CLIENTS.values()]
    expected = evaluation(weights, reference.cohort(CLIENTS, batch_size=8))
    reference.assert_same_bits(evaluation(numpy_weights, listed), expected)


@pytest.mark.parametrize("ids", [[], ["c"]], ids=["empty cohort", "empty client"])
def test_metrics_over_nobody_are_nan(evaluation, process, weights, ids):
    metrics = evaluation(weights, reference.cohort(CLIENTS, ids))["eval"]
    assert np.isnan(metrics["loss"]) and np.isnan(metrics["accuracy"]) and metrics["num_examples"] == 0
    _, metrics = process.next(process.initialize(), reference.cohort(CLIENTS, ids))
    both = metrics["client_work"]["eval"]
    assert np.isnan(both["current_round_metrics"]["loss"]) and np.isnan(both["total_rounds_metrics"]["loss"])


def test_client_that_is_not_finite_is_left_out_and_counted(evaluation, weights):
    clients = dict(CLIENTS)
    clients["b"] = {**clients["b"], "x": np.full((1, 4), np.nan, np.float32)}
    metrics = evaluation(weights, reference.cohort(clients))["eval"]
    assert metrics.pop("num_non_finite") == 1
    without = {name: CLIENTS[name] for name in ("a", "c", "d")}
    reference.assert_close(metrics, reference.evaluate(reference.as_float64(weights), without))


def test_evaluation_is_one_step_ahead_of_training(evaluation):
    """Training metrics are measured before each step, so with a single step they are those of the initial weights."""
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), key=KEY)
    state = process.initialize()
    cohort = reference.cohort(CLIENTS, batch_size=8)
    new, metrics = process.next(state, cohort)
    before, after = evaluation(state.weights, cohort)["eval"], evaluation(new.weights, cohort)["eval"]
    np.testing.assert_allclose(metrics["client_work"]["train"]["loss"], before["loss"], rtol=1e-6)
    assert after["loss"] < before["loss"]


@pytest.mark.parametrize("given", [TYPED, UNTYPED], ids=["typed", "untyped"])
def test_user_aggregation_of_evaluation_metrics(given, weights):
    evaluation = fc.algorithms.federated_evaluation(MODEL, given)
    assert str(evaluation.type_signature.result) == (
        "<eval=<mean_accuracy=float32,total=<count=int32,right=int32>>>@SERVER"
    )
    metrics = evaluation(weights, reference.cohort(CLIENTS))["eval"]
    expected = reference.evaluate(reference.as_float64(weights), CLIENTS)
    assert metrics["total"]["count"] == 14
    np.testing.assert_allclose(metrics["total"]["right"] / 14, expected["accuracy"], rtol=1e-6)
    np.testing.assert_allclose(metrics["mean_accuracy"], expected["accuracy"], rtol=1e-6)


@pytest.mark.parametrize("given", [TYPED, UNTYPED], ids=["typed", "untyped"])
def test_user_aggregation_of_training_metrics(given):
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), metrics_aggregation=given, key=KEY)
    assert str(process.next.type_signature.result["metrics"].member["client_work"]) == (
        f"<train=<mean_accuracy=float32,{LEFT_OUT},total=<count=int32,right=int32>>>"
    )
    _, metrics = process.next(process.initialize(), reference.cohort(CLIENTS, num_epochs=2))
    assert metrics["client_work"]["train"]["total"]["count"] == 28


@pytest.mark.parametrize("given", [TYPED, UNTYPED], ids=["typed", "untyped"])
def test_user_aggregation_in_fed_eval(given, weights):
    process = fc.algorithms.fed_eval(MODEL, given)
    state = process.set_model_weights(process.initialize(), weights)
    state, metrics = process.next(state, reference.cohort(CLIENTS))
    assert metrics["client_work"]["eval"]["current_round_metrics"]["total"]["count"] == 14


@pytest.mark.slow
def test_aggregation_process_keeps_its_state_over_rounds(weights):
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), metrics_aggregation=COUNTING, key=KEY)
    state = process.initialize()
    for _ in range(2):
        state, metrics = process.next(state, reference.cohort(CLIENTS))
    train = metrics["client_work"]["train"]
    assert {name: train[name] for name in ("rounds", "examples", "seen")} == {"rounds": 2, "examples": 14, "seen": 1}
    process = fc.algorithms.fed_eval(MODEL, COUNTING)
    state = process.initialize()
    for _ in range(2):
        state, metrics = process.next(state, reference.cohort(CLIENTS))
    assert metrics["client_work"]["eval"] == {"current_round_metrics": {"rounds": 2, "examples": 14}, "seen": 1}
    metrics = fc.algorithms.federated_evaluation(MODEL, COUNTING)(weights, reference.cohort(CLIENTS))
    assert metrics["eval"] == {"rounds": 1, "examples": 14, "seen": 1}


@pytest.mark.parametrize("ids", [[], ["c"]], ids=["empty cohort", "empty client"])
def test_round_of_fed_eval_without_examples_changes_the_round_number_only(ids):
    process = fc.algorithms.fed_eval(MODEL, COUNTING, key=KEY)
    state, _ = process.next(process.initialize(), reference.cohort(CLIENTS))
    new, _ = process.next(state, reference.cohort(CLIENTS, ids))
    reference.assert_same_bits(new, state._replace(round_num=state.round_num + 1))


def test_sum_then_finalize_in_training():
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), metrics_aggregation=fc.metrics.sum_then_finalize(), key=KEY)
    state = process.initialize()
    for _ in range(3):
        state, metrics = process.next(state, reference.cohort(CLIENTS))
    train = metrics["client_work"]["train"]
    counts = {"num_non_finite", "num_non_finite_clients", "non_finite_clients"}
    assert set(train) == {"current_round_metrics", "total_rounds_metrics", *counts}
    assert train["current_round_metrics"]["num_examples"] == 14
    assert train["total_rounds_metrics"]["num_examples"] == 42


@pytest.mark.parametrize("given", _AGGREGATIONS.values(), ids=_AGGREGATIONS)
def test_training_reports_what_evaluation_does(given):
    """The metrics and what their aggregation measures, and the number of clients that the round left out."""
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), metrics_aggregation=given, key=KEY)
    train = process.next.type_signature.result["metrics"].member["client_work"]["train"]
    evaluation = fc.algorithms.federated_evaluation(MODEL, given).type_signature.result.member["eval"]
    fields = {name: str(type_) for name, type_ in zip(train.names, train.children)}
    assert fields.pop("num_non_finite_clients") == "<metrics=int32,update=int32,weight=int32>"
    assert fields.pop("non_finite_clients") == "<client=int32[20],reason=int32[20]>"
    assert fields == {name: str(type_) for name, type_ in zip(evaluation.names, evaluation.children)}


@pytest.mark.slow
def test_training_counts_the_clients_that_secure_sums_clip():
    secure = fc.metrics.secure_sum_then_finalize({"num_examples": (0, 4)})
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.1), metrics_aggregation=secure, key=KEY)
    _, metrics = process.next(process.initialize(), reference.cohort(CLIENTS))
    train = metrics["client_work"]["train"]
    assert train["num_clipped"] == {"accuracy": 0, "loss": 0, "num_examples": 2}
    assert train["current_round_metrics"]["num_examples"] == 4 + 1 + 0 + 4


def test_fed_eval_over_three_rounds_agrees_with_the_oracle(process, weights):
    state = process.set_model_weights(process.initialize(), weights)
    seen = {}
    for number, ids in enumerate((["a", "c"], ["d"], ["b", "a"])):
        output = process.next(state, reference.cohort(CLIENTS, ids))
        state, metrics = output
        assert output.state is state and output.metrics is metrics
        current = {f"{number}{i}": CLIENTS[i] for i in ids}
        seen |= current
        both = metrics["client_work"]["eval"]
        assert both["num_non_finite"] == 0
        for name, clients in (("current_round_metrics", current), ("total_rounds_metrics", seen)):
            reference.assert_close(both[name], reference.evaluate(reference.as_float64(weights), clients))
        assert set(metrics) == {"distributor", "client_work", "aggregator", "finalizer"}
    assert state.round_num == 3
    reference.assert_same_bits(state.weights, weights)
    kept = process.set_model_weights(state, jax.tree.map(jnp.zeros_like, weights))
    reference.assert_same_bits(kept.client_work, state.client_work)


def test_first_weights_of_fed_eval():
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(fc.algorithms.fed_eval(MODEL).initialize().weights))
    process = fc.algorithms.fed_eval(MODEL, key=KEY)
    reference.assert_close(process.initialize().weights, MODEL.init(KEY), rtol=1e-6)
    with pytest.raises(TypeError, match=r"fed_eval\(key=\.\.\.\) must be one JAX key"):
        fc.algorithms.fed_eval(MODEL, key=jax.random.PRNGKey(0))


def test_type_signatures_of_fed_eval(process):
    count, total = "<low=uint32,high=int32>", "<high=float32,low=float32>"
    totals = f"<accuracy=<{count},{count}>,loss=<{total},{count}>,num_examples={count}>"
    state = f"<weights={WEIGHTS},client_work={totals},round_num=int32>"
    metrics = "<accuracy=float32,loss=float32,num_examples=int32>"
    assert str(process.initialize.type_signature) == f"( -> {state}@SERVER)"
    assert str(process.next.type_signature) == (
        f"(<state={state}@SERVER,data={DATA}> -> <state={state}@SERVER,metrics=<aggregator=<>,client_work=<eval="
        f"<current_round_metrics={metrics},num_non_finite=int32,total_rounds_metrics={metrics}>>,"
        "distributor=<>,finalizer=<>>@SERVER>)"
    )
    assert str(process.report.type_signature) == f"({state} -> <round_num=int32,weights_norm=float32>)"


@pytest.mark.parametrize(
    "wrong",
    [
        _aggregate,
        fc.metrics.sum_then_finalize,
        {"loss": 1},
        "sum",
    ],
    ids=["function", "uncalled", "dict", "string"],
)
def test_aggregation_of_a_wrong_kind_is_refused(wrong):
    for call in (fc.algorithms.federated_evaluation, fc.algorithms.fed_eval, fc.algorithms.metrics_process):
        with pytest.raises(TypeError, match="metrics_aggregation must be a federated computation of the clients'"):
            call(MODEL, wrong)


def test_aggregation_of_other_metrics_shows_both_types():
    @fc.federated_computation(fc.at_clients("<loss=float32>"))
    def other(metrics):
        return fc.federated_sum(metrics)

    for call in (fc.algorithms.federated_evaluation, fc.algorithms.fed_eval):
        with pytest.raises(TypeError, match=r"(?s)loss=float32.*num_examples=int32"):
            call(MODEL, other)


def test_aggregation_process_of_other_metrics_shows_both_types():
    other = MODEL._replace(metrics={})
    for call in (fc.algorithms.federated_evaluation, fc.algorithms.fed_eval):
        with pytest.raises(TypeError, match=r"(?s)metrics_aggregation.*accuracy=<int32,int32>"):
            call(other, COUNTING)
    with pytest.raises(TypeError, match=r"(?s)metrics_aggregation.*accuracy=<int32,int32>"):
        fc.algorithms.fed_avg(other, optax.sgd(0.1), metrics_aggregation=COUNTING, key=KEY)


def test_aggregation_process_with_a_weight_is_refused():
    weighted = fc.aggregators.as_process(fc.aggregators.mean(), "float32")
    with pytest.raises(TypeError, match=r"metrics_aggregation.*weight"):
        fc.algorithms.federated_evaluation(MODEL, weighted)


def test_aggregation_that_stays_at_the_clients_is_refused():
    staying = fc.federated_computation(lambda metrics: metrics)
    with pytest.raises(TypeError, match="SERVER"):
        fc.algorithms.federated_evaluation(MODEL, staying)


@pytest.mark.parametrize("name", ["num_non_finite", "num_non_finite_clients", "non_finite_clients"])
def test_a_metric_named_like_a_count_of_clients_is_refused(name):
    model = fc.models.logistic_regression(2, 3, metrics={name: fc.metrics.accuracy()})
    build = {"num_non_finite": lambda: fc.algorithms.federated_evaluation(model)}.get(
        name, lambda: fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(0))
    )
    with pytest.raises(ValueError, match=f"a metric may not be named '{name}'"):
        build()
