"""Client work from a function of one client."""

from collections.abc import Callable

from fedjax_core.contracts import ClientWork
from fedjax_core.language import federated_map, federated_value
from fedjax_core.templates import AggregationProcess, MeasuredProcessOutput
from fedjax_core.types import CLIENTS


def client_work(work: Callable, metrics_process: AggregationProcess) -> ClientWork:
    """The client work that applies a function to every client; its state is that of the metrics.

    Args:
      work: `(weights, data, key) -> ClientResult`, a pure JAX function of one client: `data` is a
        `Sequence`, `key` a key of its own.
      metrics_process: combines the clients' statistics.

    Returns:
      A `ClientWork`.

    Raises:
      TypeError: `work` is no function, or `metrics_process` no `AggregationProcess`.
    """
    if not callable(work):
        raise TypeError(f"client_work takes a function of one client, got {work!r}")
    if not isinstance(metrics_process, AggregationProcess):
        raise TypeError(
            f"client_work combines metrics with an AggregationProcess, got {metrics_process!r}; write "
            "fc.algorithms.metrics_process(model)"
        )

    def init(weights):
        return metrics_process.initialize()

    def next(state, weights, data, key):
        return MeasuredProcessOutput(state, federated_map(work, weights, data, key), federated_value((), CLIENTS))

    return ClientWork(init, next, metrics_process.next)
