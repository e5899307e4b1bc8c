"""What the command line trains: a data set and its model."""

from typing import NamedTuple

import jax

from fedjax_core import data, metrics, models
from fedjax_core.contracts import Model


class Task(NamedTuple):
    """Training and held-out data, and the model to train.

    Attributes:
      train_data: the population.
      test_data: what is held out.
      model: its metrics have an "accuracy".
    """

    train_data: data.FederatedData
    test_data: data.FederatedData
    model: Model


def digits(key: jax.Array) -> Task:
    """Handwritten digits: 100 clients that differ in their labels, a perceptron with one hidden layer."""
    deal_key, split_key = jax.random.split(key)
    clients = data.digits(num_clients=100, partitioner=data.dirichlet(0.5), key=deal_key)
    flat = clients.map(lambda examples: {"x": examples["x"].reshape(-1, 64), "y": examples["y"]})
    train_data, test_data = flat.split_examples(0.8, key=split_key)
    model = models.mlp(64, 128, 10, metrics={"accuracy": metrics.accuracy()})
    return Task(train_data, test_data, model)


def shakespeare(key: jax.Array) -> Task:
    """The next character of Shakespeare's roles, by a recurrent network, held out: later speeches of 100 roles."""
    train_data, test_data = data.shakespeare("train"), data.shakespeare("test")
    speaking = [i for i, size in zip(test_data.client_ids, test_data.sizes) if size]
    test_data = test_data.subset(data.sample_clients(0, speaking, 100, key=key))
    model = models.character_model(
        hidden_size=128, num_layers=1, cell="gru", metrics={"accuracy": metrics.token_accuracy()}
    )
    return Task(train_data, test_data, model)


def synthetic(key: jax.Array) -> Task:
    """The task of the FedProx paper with alpha and beta 1, and its model, a logistic regression."""
    client_key, split_key = jax.random.split(key)
    train_data, test_data = data.synthetic(1.0, 1.0, num_clients=30, key=client_key).split_examples(0.8, key=split_key)
    model = models.logistic_regression(60, 10, metrics={"accuracy": metrics.accuracy()})
    return Task(train_data, test_data, model)


TASKS = {"digits": digits, "shakespeare": shakespeare, "synthetic": synthetic}
