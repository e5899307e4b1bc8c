"""Optax's extended transformations: the extra arguments that an optimizer needs, and the training loss that it gets."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_core import types
from fedjax_core.contracts import Aggregator, Model
from fedjax_core.language import Placed, federated_zip
from fedjax_core.metrics import finalize_sum
from fedjax_core.model_calls import model_metrics


def asks_for(optimizer: optax.GradientTransformation, weights_type: types.Type, *names: str) -> bool:
    """Whether an optimizer cannot make a step without these extra arguments; found by tracing a step.

    Args:
      optimizer: any optax transformation.
      weights_type: the type of the trainable weights.
      *names: `value`, `value_fn`, or both.

    Example:

    >>> weights = types.to_type({"w": "float32[3]"})
    >>> [asks_for(o, weights, "value") for o in (optax.sgd(0.1), optax.polyak_sgd())]
    [False, True]
    """
    weights = jax.tree.map(lambda t: jax.ShapeDtypeStruct(t.shape, t.dtype), types.tree_of_types(weights_type))
    # An optimizer that fails even with all arguments has another fault, which its first step reports better.
    return not _makes_a_step(optimizer, weights, names) and _makes_a_step(optimizer, weights, ())


def _makes_a_step(optimizer: optax.GradientTransformation, weights: Any, without: tuple[str, ...]) -> bool:
    def step(weights):
        extra = {"value": jnp.float32(0), "grad": weights, "value_fn": _a_loss}
        # An object that no computation can use; if the argument were left out, a default could replace it.
        extra |= dict.fromkeys(without, object())
        update = optax.with_extra_args_support(optimizer).update
        return update(weights, optimizer.init(weights), weights, **extra)

    try:
        jax.eval_shape(step, weights)
    except Exception:
        return False
    return True


def _a_loss(weights: Any) -> jax.Array:
    return sum((jnp.sum(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(weights)), jnp.float32(0))


def training_loss(model: Model, metrics: Placed) -> Placed:
    """The mean loss of all examples that the clients trained on, float32 at SERVER.

    Args:
      model: the model.
      metrics: the clients' statistics by name, after the guard.
    """
    finalizers = {"loss": model_metrics(model)["loss"].finalize}
    return finalize_sum(finalizers, federated_zip({"loss": metrics["loss"]}))[0]["loss"]


def why_no_training_loss(metrics: types.Type, aggregator: Aggregator) -> str | None:
    """The reason why a round has no training loss for its finalizer; None if it has one."""
    if aggregator.always_releases:
        return (
            "it asks for `value`, the training loss of the round, which would leave the clients without the noise that "
            "the aggregator adds; write a server_optimizer that does not need it, for example optax.sgd(1.0)"
        )
    # The type of `mean_loss`'s statistic is given, not traced: with stacked weights, one model per cluster, `predict`
    # may not take them.
    expected = types.to_type(("float32", "int32"))
    if (
        not isinstance(metrics, types.StructType)
        or "loss" not in metrics
        or not metrics["loss"].is_equivalent_to(expected)
    ):
        return (
            f"it asks for `value`, the training loss of the round, but the clients measure {metrics}; let the "
            "client_work return the statistics of fc.clients.accumulator(model)"
        )
    return None
