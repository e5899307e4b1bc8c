"""Every reference model and both adapters in real rounds, and models that draw random numbers."""

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from flax import nnx

import fedjax_core as fc
from tests import learning_references as reference
from tests.marks import with_slow

KEY = jax.random.key(17)
IMAGES = {"x": "float32[?,4,4,1]", "y": "int32[?]"}


class Net(nn.Module):
    """Convolution, normalization and dropout."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(2, (3, 3))(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(0.5, deterministic=not train)(x.reshape(x.shape[0], -1))
        return nn.Dense(3)(x)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(16, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)])

    def __call__(self, x):
        x = self.norm(x.reshape(x.shape[0], -1))
        return self.layers[1](self.dropout(jax.nn.relu(self.layers[0](x))))


def _models():
    characters = {"vocab_size": 7, "hidden_size": 5, "sequence_length": 6}
    return {
        "logistic_regression": fc.models.logistic_regression(4, 3),
        "mlp": fc.models.mlp(4, (5, 4), 3),
        "emnist_cnn": fc.models.emnist_cnn(),
        "lstm": fc.models.character_model(num_layers=2, cell="lstm", **characters),
        "gru": fc.models.character_model(num_layers=1, cell="gru", **characters),
        "linen": fc.models.from_linen(Net(), fc.models.cross_entropy(), IMAGES),
        "nnx": fc.models.from_nnx(NnxNet, fc.models.cross_entropy(), IMAGES),
    }


def _clients(model, sizes=(5, 0, 2), seed=0):
    random = np.random.default_rng(seed)

    def field(tensor, size):
        shape = (size, *tensor.shape[1:])
        if np.issubdtype(tensor.dtype, np.integer):
            return random.integers(0, 3, shape).astype(np.int32)
        return random.normal(size=shape).astype(np.float32)

    names = model.batch_type.names
    clients = [{n: field(model.batch_type[n], size) for n in names} for size in sizes]
    return fc.data.from_clients(dict(zip("abc", clients)))


@pytest.mark.parametrize("name", with_slow(_models(), {"gru", "lstm", "emnist_cnn", "nnx"}))
def test_two_rounds_of_every_model(name):
    model = _models()[name]
    data = _clients(model)
    process = fc.algorithms.fed_avg(model, optax.sgd(0.1), key=KEY)
    next = process.next.with_config(fc.EngineConfig(devices=1))
    state = first = process.initialize()
    for _ in range(2):
        state, metrics = next(state, data.cohort(["a", "b", "c"], fc.data.Batching(3)))
    train = metrics["client_work"]["train"]
    assert np.isfinite(train["loss"]) and train["num_examples"] == 7 and train["num_non_finite_clients"]["update"] == 0
    assert fc.trees.norm(fc.trees.subtract(state.weights, first.weights)) > 1e-4


@pytest.fixture(scope="module")
def dropout():
    model = _models()["linen"]
    process = fc.algorithms.fed_avg(model, optax.sgd(0.1), key=KEY)
    return process, process.next.with_config(fc.EngineConfig(devices=1)), _clients(model, (4, 4, 3))


@pytest.mark.slow
def test_dropout_is_a_function_of_the_key(dropout):
    process, next, data = dropout
    state, cohort = process.initialize(), data.cohort(["a", "b", "c"], fc.data.Batching(4))
    reference.assert_same_bits(next(state, cohort), next(state, cohort))
    other = state._replace(key=jax.random.key(99))
    assert _loss(next, other, cohort) != _loss(next, state, cohort)


def _loss(next, state, cohort):
    return float(next(state, cohort).metrics["client_work"]["train"]["loss"])


def test_dropout_differs_over_rounds(dropout):
    process, next, data = dropout
    state = process.initialize()
    cohort = data.cohort(["a"], fc.data.Batching(4))
    losses = {_loss(next, state._replace(round_num=jax.numpy.int32(n)), cohort) for n in range(4)}
    assert len(losses) == 4


def test_dropout_differs_over_clients_and_steps(dropout):
    """Equal clients draw different numbers, as do two occurrences of a client and successive batches."""
    process, next, data = dropout
    equal = fc.data.from_clients(dict.fromkeys("abc", data["a"]))
    state = process.initialize()
    batching = fc.data.Batching(4)
    losses = [_loss(next, state, equal.cohort([i], batching)) for i in "abc"]
    assert len(set(losses)) == 3
    twice = _loss(next, state, equal.cohort(["a", "a"], batching))
    assert twice not in losses


@pytest.mark.slow
def test_dropout_does_not_depend_on_the_order_of_the_clients(dropout):
    process, next, data = dropout
    state, batching = process.initialize(), fc.data.Batching(2)
    expected = next(state, data.cohort(["a", "b", "c"], batching))
    for order in ("cab", "bca"):
        reference.assert_same_bits(next(state, data.cohort(list(order), batching)), expected)


def test_dropout_is_off_in_evaluation(dropout):
    process, _, data = dropout
    model = _models()["linen"]
    evaluation = fc.algorithms.federated_evaluation(model).with_config(fc.EngineConfig(devices=1))
    weights = process.initialize().weights
    metrics = evaluation(weights, data.cohort(["a", "b", "c"], fc.data.Batching(3)))["eval"]
    everyone = {name: np.concatenate([data[c][name] for c in "abc"]) for name in ("x", "y")}
    expected = model.loss(model.predict(weights, everyone), everyone).mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
