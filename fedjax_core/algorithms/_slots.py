"""The usual ways to send the weights out and to move them."""

import jax.numpy as jnp
import optax

from fedjax_core import trees
from fedjax_core.clients import check_optimizer
from fedjax_core.contracts import Distributor, Finalizer
from fedjax_core.language import federated_broadcast, federated_map, federated_value
from fedjax_core.templates import MeasuredProcessOutput
from fedjax_core.types import SERVER


def broadcast() -> Distributor:
    """Every client gets the server's weights as they are.

    Returns:
      A `Distributor` without state and measurements.

    Example:

    >>> type(broadcast()).__name__
    'Distributor'
    """

    def next(state, weights):
        return MeasuredProcessOutput(state, federated_broadcast(weights), federated_value((), SERVER))

    return Distributor(lambda weights: federated_value((), SERVER), next)


def apply_optimizer(optimizer: optax.GradientTransformation) -> Finalizer:
    """The server takes the aggregated update as a gradient and makes one optimizer step.

    Args:
      optimizer: any optax transformation.

    Returns:
      A `Finalizer` whose state is the optimizer's. Measurement: `update_non_finite`, int32, one if the
      update holds a NaN or infinity.

    Raises:
      TypeError: the optimizer is no optax transformation.

    Example: FedAvgM.

    >>> type(apply_optimizer(optax.sgd(1.0, momentum=0.9))).__name__
    'Finalizer'

    References:
      Reddi et al. 2021, Adaptive Federated Optimization, algorithm 1 (ServerOpt).
    """
    check_optimizer(optimizer, "server_optimizer", "optax.sgd(1.0)")

    def init(weights):
        return federated_map(optimizer.init, weights)

    def step(state, weights, update):
        updates, state = optimizer.update(update, state, weights)
        non_finite = (~trees.is_finite(update)).astype(jnp.int32)
        return state, optax.apply_updates(weights, updates), {"update_non_finite": non_finite}

    def next(state, weights, update):
        return MeasuredProcessOutput(*federated_map(step, state, weights, update))

    return Finalizer(init, next)
