"""Evaluating a model on a client's batches."""

from collections.abc import Callable

from fedjax_core import trees
from fedjax_core.clients._measuring import measure, no_statistics
from fedjax_core.contracts import Model, model_metrics


def local_evaluation(model: Model) -> Callable:
    """The function that evaluates a model on one client.

    Args:
      model: the model.

    Returns:
      `(weights, data) -> statistics`, a pure JAX function: the statistics of all metrics by name, of
      predictions without training behaviour. `data` is a `Sequence`.

    Raises:
      TypeError: the model does not take batches of its `batch_type`.
    """
    metrics = model_metrics(model)
    start = no_statistics(model)

    def evaluate(weights, data):
        def step(statistics, batch, mask):
            return trees.add(statistics, measure(metrics, model.predict(weights, batch), batch, mask))

        return data.reduce(start, step)

    return evaluate
