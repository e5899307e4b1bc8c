"""Evaluating a model on a client's batches."""

from collections.abc import Callable

from fedjax_core.clients._accumulator import accumulator
from fedjax_core.clients._coupling import warn_of_coupled_rows
from fedjax_core.contracts import Model
from fedjax_core.model_calls import predicted


def local_evaluation(model: Model) -> Callable:
    """The function that evaluates a model on one client.

    Args:
      model: the model.

    Returns:
      `(weights, data) -> statistics`, a pure JAX function: the statistics of all metrics by name, of
      predictions without training behaviour. `data` is a `ClientBatches`.

    Raises:
      TypeError: the model does not take batches of its `batch_type`.

    Example: the losses of all clients' examples.

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
        def step(statistics, batch, mask):
            return metrics.add(statistics, predicted(model, weights, batch, mask).predictions, batch, mask)

        return data.reduce(metrics.init(), step)

    return evaluate
