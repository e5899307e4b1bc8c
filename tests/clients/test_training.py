"""The work of one client, against the oracle: local training, gradients, evaluation, weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.contracts import ClientResult, ClientWork, Metric, ModelWeights
from tests import learning_references as reference

KEY = jax.random.key(1)
MODEL = reference.linear_model()
METRICS = fc.algorithms.metrics_process(MODEL)
CLIENTS = reference.make_clients((7, 0, 4))
DATA = fc.at_clients(fc.types.SequenceType(MODEL.batch_type))


def _each(work: ClientWork):
    """The result of every client, from the same weights."""

    @fc.federated_computation(fc.at_server(fc.clients.weights_type(MODEL)), DATA)
    def answers(weights, data):
        keys = fc.federated_split_key(fc.federated_value(KEY, fc.SERVER))
        state = work.init(weights)
        result, _ = work.run(state, fc.federated_broadcast(weights), data, keys)
        return result

    return lambda weights, cohort: answers(weights, cohort)


@pytest.fixture(scope="module")
def weights():
    return MODEL.init(KEY)


@pytest.mark.parametrize(
    ("optimizer", "oracle"),
    [(optax.sgd(0.3), reference.SGD(0.3)), (optax.sgd(0.3, momentum=0.8), reference.SGD(0.3, momentum=0.8))],
)
@pytest.mark.parametrize("weighting", ["examples", "uniform", lambda metrics: metrics["loss"]])
def test_local_training_agrees_with_the_oracle(weights, optimizer, oracle, weighting):
    work = fc.clients.local_training(MODEL, optimizer, METRICS, weighting=weighting)
    result = _each(work)(weights, reference.cohort(CLIENTS, num_epochs=3))
    assert isinstance(result, ClientResult) and result.weight.dtype == jnp.float32
    initial = reference.as_float64(weights)
    for i, client in enumerate(CLIENTS.values()):
        trained, statistics = oracle.run(initial, reference.batches(client, 3, 3))
        update = jax.tree.map(lambda u, i=i: u[i], result.update)
        reference.assert_close(update, jax.tree.map(np.subtract, initial, trained))
        loss, number = result.metrics["loss"]
        np.testing.assert_allclose([loss[i], number[i]], statistics[[0, 2]], rtol=1e-5)
        assert result.metrics["accuracy"][0][i] == statistics[1]
    examples = np.array([21, 0, 12], np.float32)
    if weighting == "examples":
        expected = examples
    elif weighting == "uniform":
        expected = [1.0, 0.0, 1.0]
    else:
        expected = np.asarray(result.metrics["loss"][0]) / np.maximum(examples, 1)
    np.testing.assert_allclose(result.weight, expected, rtol=1e-6)


def test_empty_client_answers_exactly_nothing(weights):
    work = fc.clients.local_training(MODEL, optax.adamw(0.1, weight_decay=0.5), METRICS, weighting="uniform")
    result = _each(work)(weights, reference.cohort(CLIENTS, ["b"]))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(result))


def test_local_gradient_is_that_of_the_mean_loss(weights):
    work = fc.clients.local_gradient(MODEL, METRICS)
    result = _each(work)(weights, reference.cohort(CLIENTS))
    initial = reference.as_float64(weights)
    for i in (0, 2):
        expected = reference.gradient(initial, CLIENTS["abc"[i]])
        reference.assert_close(jax.tree.map(lambda u, i=i: u[i], result.update), expected)
    assert result.weight.tolist() == [7.0, 0.0, 4.0]
    assert not any(np.any(leaf[1]) for leaf in jax.tree.leaves(result.update))


def test_local_gradient_of_many_batches_in_low_precision_is_their_mean():
    model = fc.Model(
        init=lambda key: jnp.zeros(2, jnp.bfloat16),
        predict=lambda weights, batch, key=None, training=False: batch["x"] @ weights,
        loss=lambda predictions, batch: predictions.astype(jnp.float32),
        metrics={},
        batch_type=fc.types.to_type({"x": "bfloat16[?,2]"}),
    )
    process = fc.algorithms.fed_sgd(model, server_optimizer=optax.sgd(1.0), key=KEY)
    data = fc.data.from_clients({"a": {"x": np.ones((1000, 2), jnp.bfloat16)}})
    state, _ = process.next(process.initialize(), data.cohort(["a"], fc.data.Batching(batch_size=1)))
    assert state.weights.dtype == jnp.bfloat16 and state.weights.tolist() == [-1.0, -1.0]


def test_padding_of_a_batch_cannot_spoil_a_gradient(weights):
    """A model that fails on the zeros of padding: the masked examples must not reach loss, gradient or metrics."""

    def predict(weights, batch, key=None, training=False):
        return MODEL.predict(weights, batch) / jnp.abs(batch["x"]).sum(axis=1, keepdims=True)

    model = MODEL._replace(predict=predict)
    for work in (fc.clients.local_training(model, optax.sgd(0.1), METRICS), fc.clients.local_gradient(model, METRICS)):
        result = _each(work)(weights, reference.cohort(CLIENTS, ["a"]))
        assert fc.trees.is_finite(result.metrics)
        assert fc.trees.is_finite(result.update)


def test_local_evaluation_takes_predictions_without_training(weights):
    def predict(weights, batch, key=None, training=False):
        assert key is None and training is False
        return MODEL.predict(weights, batch)

    evaluate = fc.clients.local_evaluation(MODEL._replace(predict=predict))

    @fc.federated_computation(fc.at_server(fc.clients.weights_type(MODEL)), DATA)
    def statistics(weights, data):
        return fc.federated_map(evaluate, fc.federated_broadcast(weights), data)

    result = statistics(weights, reference.cohort(CLIENTS))
    initial = reference.as_float64(weights)
    expected = [sum(reference.measured(initial, b) for b in reference.batches(CLIENTS[i], 3, 1)) for i in "ac"]
    np.testing.assert_allclose(np.asarray(result["loss"][0])[[0, 2]], [e[0] for e in expected], rtol=1e-5)
    assert np.asarray(result["num_examples"]).tolist() == [7, 0, 4]


def test_weights_are_split_and_joined():
    whole = ModelWeights({"w": 1.0}, {"mean": 2.0})
    assert fc.clients.trainable_of(whole) == {"w": 1.0}
    assert fc.clients.trainable_of({"w": 1.0}) == {"w": 1.0}
    for non_trainable in ({"mean": 2.0}, (), None):
        weights = fc.contracts.ModelWeights({"w": 1.0}, non_trainable)
        assert fc.clients.with_trainable(weights, {"w": 3.0}) == fc.contracts.ModelWeights({"w": 3.0}, non_trainable)
    assert fc.clients.with_trainable({"w": 1.0}, {"w": 3.0}) == {"w": 3.0}


def test_weights_type():
    assert str(fc.clients.weights_type(MODEL)) == "<bias=float32[3],kernel=float32[4,3]>"
    model = MODEL._replace(init=lambda key: ModelWeights({"w": jnp.ones(2)}, {"count": jnp.int32(0)}))
    assert str(fc.clients.weights_type(model)) == "<trainable=<w=float32[2]>,non_trainable=<count=int32>>"
    with pytest.raises(TypeError, match="the model's `init`"):
        fc.clients.weights_type(MODEL._replace(init=lambda: {}))


def test_abstract_statistics():
    statistics = fc.clients.abstract_statistics(MODEL)
    assert str(fc.types.type_of(statistics)) == "<accuracy=<int32,int32>,loss=<float32,int32>,num_examples=int32>"
    ratio = Metric(lambda predictions, batch, mask: predictions.mean(0), lambda statistic: statistic)
    assert fc.clients.abstract_statistics(MODEL._replace(metrics={"r": ratio}))["r"].shape == (3,)


def test_model_that_does_not_take_its_own_batches_is_refused():
    model = MODEL._replace(batch_type=fc.types.to_type("<x=float32[?,5],y=int32[?]>"))
    for call in (fc.clients.local_evaluation, fc.clients.abstract_statistics):
        with pytest.raises(TypeError, match="the model and its metrics"):
            call(model)


@pytest.mark.parametrize("batch_type", ["<x=float32[?,4],y=int32[?]>", {"x": "float32[?,4]"}, None])
def test_batch_type_of_a_wrong_kind_is_refused(batch_type):
    with pytest.raises(TypeError, match="batch_type"):
        fc.clients.abstract_statistics(MODEL._replace(batch_type=batch_type))


def test_client_work_of_wrong_parts_is_refused():
    with pytest.raises(TypeError, match=r"client_work\(work=\.\.\.\) must be a function of one client"):
        fc.clients.client_work(None, METRICS)
    with pytest.raises(TypeError, match=r"write fc\.algorithms\.metrics_process\(model\)"):
        fc.clients.client_work(lambda weights, data, key: None, fc.metrics.sum_then_finalize())
