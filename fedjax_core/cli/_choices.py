"""What a run can be built from, by name: tasks, algorithms, server optimizers, releases and exports."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from fedjax_core import algorithms, data, metrics, models, program
from fedjax_core.contracts import Model
from fedjax_core.data import FederatedData


class Task(NamedTuple):
    """A data set, a model for it, and the settings that suit both.

    Attributes:
      data: takes a key and returns the training clients and the held-out clients.
      model: returns the model; one of its metrics is an "accuracy".
      settings: the defaults of the settings that depend on the task.
      fed_sgd: the defaults that are different for fed-sgd; its `server_lr` is for plain SGD at the server.
    """

    data: Callable[[jax.Array], tuple[FederatedData, FederatedData]]
    model: Callable[[], Model]
    settings: dict[str, Any]
    fed_sgd: dict[str, Any]


class ServerOptimizer(NamedTuple):
    """A server optimizer.

    Attributes:
      make: returns the optax optimizer for a learning rate.
      rate: a learning rate that suits most tasks.
    """

    make: Callable[[float], optax.GradientTransformation]
    rate: float


class Outlet(NamedTuple):
    """An optional output of a run: a release or an export.

    Attributes:
      make: for a release, a function from the run's folder to a release manager; for an export, from the model to an
        export.
      extra: the extra of this package that it needs; "" for none.
      packages: the packages that the extra installs for it.
    """

    make: Callable[[Any], Any]
    extra: str = ""
    packages: tuple[str, ...] = ()


def _digits(key: jax.Array) -> tuple[FederatedData, FederatedData]:
    """100 clients, each with its own mixture of handwritten digits."""
    deal_key, split_key = jax.random.split(key)
    clients = data.digits(num_clients=100, partitioner=data.dirichlet(0.5), key=deal_key)
    flat = clients.map(lambda examples: {"x": examples["x"].reshape(-1, 64), "y": examples["y"]})
    return flat.split_examples(0.8, key=split_key)


def _shakespeare(key: jax.Array) -> tuple[FederatedData, FederatedData]:
    """Every role is a client; the later speeches of 100 of them are held out."""
    train_data, test_data = data.shakespeare("train"), data.shakespeare("test")
    speaking = [i for i, size in zip(test_data.client_ids, test_data.sizes) if size]
    return train_data, test_data.subset(data.sample_clients(0, speaking, 100, key=key))


def _synthetic(key: jax.Array) -> tuple[FederatedData, FederatedData]:
    """The synthetic data of the FedProx paper, with alpha and beta 1."""
    client_key, split_key = jax.random.split(key)
    return data.synthetic(1.0, 1.0, num_clients=30, key=client_key).split_examples(0.8, key=split_key)


TASKS = {
    "digits": Task(
        _digits,
        lambda: models.mlp(64, 128, 10, metrics={"accuracy": metrics.accuracy()}),
        {"rounds": 100, "cohort_size": 20, "client_lr": 0.3, "batch_size": 10, "epochs": 3},
        fed_sgd={"rounds": 300, "server_lr": 0.5},
    ),
    "shakespeare": Task(
        _shakespeare,
        lambda: models.character_model(
            hidden_size=128, num_layers=1, cell="gru", metrics={"accuracy": metrics.token_accuracy()}
        ),
        {"rounds": 30, "cohort_size": 10, "client_lr": 1.0, "batch_size": 4, "epochs": 1},
        fed_sgd={"rounds": 100, "server_lr": 1.0},
    ),
    "synthetic": Task(
        _synthetic,
        lambda: models.logistic_regression(60, 10, metrics={"accuracy": metrics.accuracy()}),
        {"rounds": 100, "cohort_size": 10, "client_lr": 0.01, "batch_size": 10, "epochs": 1},
        fed_sgd={"rounds": 300, "server_lr": 0.01},
    ),
}
ALGORITHMS = {
    "fed-avg": lambda model, config, **server: algorithms.fed_avg(model, optax.sgd(config.client_lr), **server),
    "fed-prox": lambda model, config, **server: algorithms.fed_prox(
        model, optax.sgd(config.client_lr), strength=config.proximal, **server
    ),
    "fed-sgd": lambda model, config, **server: algorithms.fed_sgd(model, **server),
}


def _yogi(learning_rate: float) -> optax.GradientTransformation:
    """FedYogi. `optax.yogi` begins the first moment at 1e-6, which moves weights whose gradient is zero."""
    return optax.chain(
        optax.scale_by_yogi(b2=0.99, eps=1e-3, initial_accumulator_value=0.0),
        optax.scale_by_learning_rate(learning_rate),
    )


SERVER_OPTIMIZERS = {
    "sgd": ServerOptimizer(optax.sgd, 1.0),
    "momentum": ServerOptimizer(functools.partial(optax.sgd, momentum=0.9), 0.5),
    "adam": ServerOptimizer(functools.partial(optax.adam, b2=0.99, eps=1e-3), 0.02),
    "yogi": ServerOptimizer(_yogi, 0.02),
    "adagrad": ServerOptimizer(functools.partial(optax.adagrad, eps=1e-3), 0.1),
}
RELEASES = {
    "jsonl": Outlet(lambda folder: program.release_to_json_lines(folder / "rounds.jsonl")),
    "tensorboard": Outlet(
        lambda folder: program.release_to_tensorboard(folder / "tensorboard"), "tensorboard", ("tensorboardX",)
    ),
}
EXPORTS = {
    "weights": Outlet(lambda model: program.export_weights(), "export", ("safetensors",)),
    "predict": Outlet(program.export_predict, "export", ("safetensors", "flatbuffers")),
}
