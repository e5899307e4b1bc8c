"""FedProx: federated averaging with clients that are pulled towards the weights at the start of the round."""

from typing import Any

import jax
import optax

from fedjax_core.algorithms._extended import asks_for
from fedjax_core.algorithms._fed_avg import fed_avg
from fedjax_core.clients import (
    ClientOptimizer,
    LocalOptimizer,
    Weighting,
    check_optimizer,
    map_optimizer,
    proximal,
    trainable_of,
    weights_type,
)
from fedjax_core.contracts import Aggregator, Finalizer, Model
from fedjax_core.templates import LearningProcess
from fedjax_core.types import tree_of_types, type_of


def fed_prox(
    model: Model,
    client_optimizer: ClientOptimizer,
    *,
    strength: float,
    server_optimizer: optax.GradientTransformation | Finalizer | None = None,
    aggregator: Aggregator | None = None,
    weighting: Weighting = "examples",
    metrics_aggregation: Any = None,
    key: jax.Array,
) -> LearningProcess:
    r"""FedProx: each client minimizes its loss plus the squared distance to the server's weights.

    A client's steps use the gradient of :math:`f(w) + \frac{\mu}{2} \|w - x\|^2`, where :math:`x` are the weights
    that the server sent. This is `fed_avg` with `clients.proximal` in front of the client optimizer; the metrics are
    those of :math:`f`.

    Args:
      model: the model.
      client_optimizer: an optax transformation that needs neither `value` nor `value_fn`, which would be those of
        :math:`f`; or a function of `round_num` that returns one. For a `LocalOptimizer`, put `clients.proximal` inside
        it and use `fed_avg`.
      strength: :math:`\mu`, at least 0; 0 is `fed_avg`.
      server_optimizer: as in `fed_avg`.
      aggregator: as in `fed_avg`.
      weighting: as in `fed_avg`.
      metrics_aggregation: as in `fed_avg`.
      key: a JAX key, consumed: the initial weights and all rounds draw from it.

    Returns:
      A `LearningProcess`, see `compose`.

    Raises:
      TypeError: an argument has the wrong type, the client optimizer needs `value` or `value_fn`, or `key` is not a
        typed key.
      ValueError: `strength` is negative or not finite, or `weighting` is an unknown string.
      ProcessCompositionError: the aggregator does not fit the model.

    Example: a strong pull keeps the clients near the server's weights.

    >>> import jax, numpy as np, optax, fedjax_core as fc
    >>> model = fc.models.logistic_regression(2, 2)
    >>> clients = [[{"x": np.eye(2, dtype=np.float32), "y": np.array([0, 1], np.int32)}] * 5]
    >>> for strength in (0.0, 1.0):
    ...     process = fed_prox(model, optax.sgd(0.5), strength=strength, key=jax.random.key(0))
    ...     state, _ = process.next(process.initialize(), clients)
    ...     print(f"{fc.trees.norm(state.weights):.2f}")
    0.98
    0.40

    References:
      Li et al. 2020, Federated Optimization in Heterogeneous Networks, algorithm 2.
    """

    def pulled(optimizer):
        _check_takes_pull(optimizer, model)
        return optax.chain(proximal(strength), optimizer)

    options = {"server_optimizer": server_optimizer, "aggregator": aggregator, "weighting": weighting}
    options |= {"metrics_aggregation": metrics_aggregation, "key": key}
    return fed_avg(model, map_optimizer(pulled, client_optimizer), **options)


def _check_takes_pull(optimizer: Any, model: Model):
    if isinstance(optimizer, LocalOptimizer):
        raise TypeError(
            "fed_prox(client_optimizer=...) must be an optax.GradientTransformation, got a LocalOptimizer; put the "
            "pull into it, optax.chain(fc.clients.proximal(strength), optax.sgd(0.02)), and pass it to fed_avg"
        )
    check_optimizer(optimizer, "client_optimizer", "optax.sgd(0.02)")
    trainable = type_of(trainable_of(tree_of_types(weights_type(model))))
    if asks_for(optimizer, trainable, "value", "value_fn"):
        raise TypeError(
            "fed_prox(client_optimizer=...) must need the gradient only, got an optimizer that asks for `value` or "
            "`value_fn`, which are those of the loss without the pull; write optax.sgd(0.02), or train without the "
            "pull: fed_avg(model, client_optimizer)"
        )
