"""The training loss of a round, for a finalizer that asks for it."""

from fedjax_core import types
from fedjax_core.contracts import Aggregator, Model
from fedjax_core.language import Placed, federated_zip
from fedjax_core.metrics import finalize_sum
from fedjax_core.model_calls import model_metrics


def training_loss(model: Model, metrics: Placed) -> Placed:
    """The mean loss of all examples that the clients trained on, float32 at SERVER.

    Args:
      model: the model.
      metrics: the clients' statistics by name, guarded.
    """
    finalizers = {"loss": model_metrics(model)["loss"].finalize}
    return finalize_sum(finalizers, federated_zip({"loss": metrics["loss"]}))[0]["loss"]


def why_no_training_loss(metrics: types.Type, aggregator: Aggregator) -> str | None:
    """Why a round has no training loss that its finalizer may see; None if it has."""
    if aggregator.always_releases:
        return (
            "it asks for `value`, the training loss of the round, which would leave the clients without the noise that "
            "the aggregator adds; write a server_optimizer that needs none, for example optax.sgd(1.0)"
        )
    # The statistic of `mean_loss`, not traced: of stacked weights, one model a cluster, `predict` may take no part.
    expected = types.to_type(("float32", "int32"))
    if (
        not isinstance(metrics, types.StructType)
        or "loss" not in metrics
        or not metrics["loss"].is_equivalent_to(expected)
    ):
        return (
            f"it asks for `value`, the training loss of the round, but the clients measure {metrics}; let the "
            "client_work answer the statistics of fc.clients.accumulator(model)"
        )
    return None
