"""The metrics of a client, accumulated batch by batch in training or evaluation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fedjax_core import trees
from fedjax_core.clients._coupling import warn_of_coupled_rows
from fedjax_core.clients._measuring import abstract_statistics, measure
from fedjax_core.clients._unmasked import warn_of_unmasked_metrics
from fedjax_core.contracts import Model
from fedjax_core.model_calls import model_metrics, predicted


class Accumulator(NamedTuple):
    """Pure functions that add up the metrics of a model over batches.

    Attributes:
      init: `() -> running`, the sums of no batch, a pytree: floats are summed in two words, since a million batches
        would lose three digits in one.
      add: `(running, predictions, batch, mask) -> running`, with one more batch.
      total: `(running) -> statistics`, the statistics of all batches by name.
      finalize: `(statistics) -> metrics`, the finalized values by name.
    """

    init: Callable[[], trees.CompensatedSum]
    add: Callable[..., trees.CompensatedSum]
    total: Callable[[trees.CompensatedSum], dict[str, Any]]
    finalize: Callable[[dict[str, Any]], dict[str, Any]]


def accumulator(model: Model) -> Accumulator:
    """Accumulates the metrics of a model, including its loss, for client work that measures while it trains.

    Args:
      model: the model.

    Returns:
      An `Accumulator` for `model_calls.model_metrics(model)`.

    Raises:
      TypeError: the model does not take batches of its `batch_type`, or the shape of a statistic depends on the
        number of examples.

    Example:

    >>> import jax.numpy as jnp, fedjax_core as fc
    >>> metrics = accumulator(fc.models.logistic_regression(2, 2))
    >>> batch = {"x": jnp.eye(2), "y": jnp.array([0, 1])}
    >>> running = metrics.add(metrics.init(), jnp.zeros((2, 2)), batch, jnp.array([True, False]))
    >>> print({name: f"{value:.4f}" for name, value in metrics.finalize(metrics.total(running)).items()})
    {'loss': '0.6931', 'num_examples': '1.0000'}
    """
    metrics = model_metrics(model)
    abstract = abstract_statistics(model)
    warn_of_unmasked_metrics(model)

    def init():
        return trees.compensated_zero(abstract)

    def add(running, predictions, batch, mask):
        return trees.compensated_add(running, measure(metrics, predictions, batch, mask))

    def total(running):
        return jax.tree.map(lambda x, a: x.astype(a.dtype), running.high, abstract)

    def finalize(statistics):
        return {name: metric.finalize(statistics[name]) for name, metric in metrics.items()}

    return Accumulator(init, add, total, finalize)


def local_evaluation(model: Model) -> Callable:
    """Makes the function that evaluates a model on one client.

    Args:
      model: the model.

    Returns:
      `(weights, data) -> statistics`, a pure JAX function: the statistics of all metrics by name, for predictions in
      evaluation mode. `data` is a `ClientBatches`.

    Raises:
      TypeError: the model does not take batches of its `batch_type`.

    Example: the total loss of all clients' examples.

    >>> import numpy as np, fedjax_core as fc
    >>> model = fc.models.logistic_regression(2, 2)
    >>> evaluate = local_evaluation(model)
    >>> weights_type, batches = fc.clients.weights_type(model), fc.types.SequenceType(model.batch_type)
    >>> @fc.federated_computation(fc.at_server(weights_type), fc.at_clients(batches))
    ... def total_loss(weights, data):
    ...     statistics = fc.federated_map(evaluate, fc.federated_broadcast(weights), data)
    ...     return fc.federated_sum(statistics["loss"][0])
    >>> weights = {"bias": np.zeros(2, np.float32), "kernel": np.zeros((2, 2), np.float32)}
    >>> clients = [{"x": np.eye(2, dtype=np.float32), "y": np.array([0, 1], np.int32)}]
    >>> print(f"{total_loss(weights, clients):.4f}")
    1.3863
    """
    metrics = accumulator(model)
    warn_of_coupled_rows(model, training=False)

    def evaluate(weights, data):
        def step(running, batch, mask):
            return metrics.add(running, predicted(model, weights, batch, mask).predictions, batch, mask)

        # Filled, so that a metric that multiplies by the mask does not meet the NaN that a model may predict for zeros.
        return metrics.total(data.filled().reduce(metrics.init(), step))

    return evaluate
