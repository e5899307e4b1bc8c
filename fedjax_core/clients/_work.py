"""Client work from a function of one client."""

import inspect
from collections.abc import Callable

from fedjax_core import _checks
from fedjax_core.clients._slope import with_finite_slope
from fedjax_core.contracts import ClientWork
from fedjax_core.language import federated_broadcast, federated_map
from fedjax_core.templates import AggregationProcess


def client_work(work: Callable, metrics_process: AggregationProcess) -> ClientWork:
    """Client work that applies a function to every client.

    Args:
      work: `(weights, data, key) -> ClientResult`, a pure JAX function of one client. `data` is a `ClientBatches`, and
        `key` is the client's own key. A further parameter named `round_num`, int32 `[]`, gets the number of rounds
        before this one. If the result is not finite, so that the round leaves the client out, the derivative is zero:
        gradients of `as_function` are those of a round without the client.
      metrics_process: combines the clients' statistics.

    Returns:
      A `ClientWork`, whose state is that of `metrics_process`.

    Raises:
      TypeError: `work` is not a function, or `metrics_process` is not an `AggregationProcess`.

    Example: every client sends the difference between the weights and the mean of its examples.

    >>> import jax.numpy as jnp, fedjax_core as fc
    >>> from fedjax_core.contracts import ClientResult
    >>> model = fc.Model(
    ...     init=lambda key: jnp.zeros(2),
    ...     predict=lambda weights, batch, key=None, training=False: batch["x"] - weights[None],
    ...     loss=lambda predictions, batch: jnp.sum(predictions**2, axis=1),
    ...     metrics={},
    ...     batch_type=fc.types.to_type({"x": "float32[?,2]"}),
    ... )
    >>> def mean(weights, data, key):
    ...     number = data.num_examples.astype("float32")
    ...     update = weights - data.sum()["x"] / jnp.maximum(number, 1)
    ...     return ClientResult(update, number, fc.clients.local_evaluation(model)(weights, data))
    >>> work = client_work(mean, fc.algorithms.metrics_process(model))
    >>> type(work).__name__
    'ClientWork'
    """
    repair = "write def work(weights, data, key): ..."
    _checks.check_function("client_work(work=...)", work, "of one client", repair)
    if not isinstance(metrics_process, AggregationProcess):
        raise TypeError(
            f"client_work takes an AggregationProcess to combine metrics, got {metrics_process!r}; write "
            "fc.algorithms.metrics_process(model)"
        )

    of_client = with_finite_slope(work)

    def init(weights):
        return metrics_process.initialize()

    def run(state, weights, data, key):
        return federated_map(of_client, weights, data, key), ()

    def run_by_round(state, weights, data, key, round_num):
        return federated_map(of_client, weights, data, key, federated_broadcast(round_num)), ()

    def commit(state, result, included, shared):
        return metrics_process.next(state, result.metrics)

    takes_round = "round_num" in inspect.signature(work).parameters
    return ClientWork(init, run_by_round if takes_round else run, commit)
