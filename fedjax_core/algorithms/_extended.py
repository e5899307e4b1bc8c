"""Optax's extended transformations: which extra arguments an optimizer asks for, and the training loss it is given."""

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
    """Whether an optimizer makes no step without these extra arguments, found by tracing one.

    Args:
      optimizer: any optax transformation.
      weights_type: the type of the trainable weights.
      *names: of `value` and `value_fn`.

    Example:

    >>> weights = types.to_type({"w": "float32[3]"})
    >>> [asks_for(o, weights, "value") for o in (optax.sgd(0.1), optax.polyak_sgd())]
    [False, True]
    """
    weights = jax.tree.map(lambda t: jax.ShapeDtypeStruct(t.shape, t.dtype), types.tree_of_types(weights_type))
    # An optimizer that fails with everything fails for another reason, which its first step tells better.
    return not _makes_a_step(optimizer, weights, names) and _makes_a_step(optimizer, weights, ())


def _makes_a_step(optimizer: optax.GradientTransformation, weights: Any, without: tuple[str, ...]) -> bool:
    def step(weights):
        extra = {"value": jnp.float32(0), "grad": weights, "value_fn": _a_loss}
        # An object that no computation can use, in place of an argument left out, which a default could replace.
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
