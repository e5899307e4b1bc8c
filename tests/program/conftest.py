"""Fixtures for the tests of runs: a small learning task, a clock, and a history of three rounds."""

import jax
import optax
import pytest

import fedjax_core as fc
from fedjax_core.program import History, Record
from tests import learning_references as reference
from tests.clock import Clock


@pytest.fixture(scope="module")
def model() -> fc.Model:
    return reference.linear_model()


@pytest.fixture(scope="module")
def process(model) -> fc.templates.LearningProcess:
    key = jax.random.key(5)
    return fc.algorithms.fed_avg(model, optax.sgd(0.1), server_optimizer=optax.adam(0.05), key=key)


@pytest.fixture(scope="module")
def evaluation(model) -> fc.computations.Computation:
    return fc.algorithms.federated_evaluation(model)


@pytest.fixture(scope="module")
def data() -> tuple[fc.data.FederatedData, fc.data.FederatedData]:
    """Eight clients, each with training examples and held-out examples."""
    return fc.data.from_clients(reference.make_clients([7, 3, 9, 4, 6, 5, 8, 2])).split_examples(0.7)


@pytest.fixture(scope="package")
def softmax_process() -> fc.templates.LearningProcess:
    """Softmax regression on `twelve_clients`."""
    return fc.algorithms.fed_avg(fc.models.logistic_regression(60, 10), optax.sgd(0.05), key=jax.random.key(1))


@pytest.fixture(scope="package")
def twelve_clients() -> fc.data.FederatedData:
    return fc.data.synthetic_iid(num_clients=12, key=jax.random.key(0))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def history() -> History:
    history = History()
    for i in range(1, 4):
        metrics = {"train/accuracy": 1 - 0.5 / i, "train/loss": 1 / 3 / i, "train/count": 10 * i}
        held_out = {"eval/accuracy": 1 - 0.6 / i, "eval/loss": 2 / i} if i != 2 else {}
        history.append(Record(i, 0.1 * i, 0.05, 10, metrics, held_out))
    return history
