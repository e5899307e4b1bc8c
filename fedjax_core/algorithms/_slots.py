"""The usual ways to send the weights out and to move them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedjax_core import trees, types
from fedjax_core.algorithms._checks import check_kinds
from fedjax_core.clients import check_optimizer
from fedjax_core.contracts import Distributor, Finalizer
from fedjax_core.language import Placed, federated_broadcast, federated_map, federated_value
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
      TypeError: the optimizer is no optax transformation; when built for an update of another type than the
        weights.

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
        _check_update(weights, update)
        return MeasuredProcessOutput(*federated_map(step, state, weights, update))

    return Finalizer(init, next)


def _check_update(weights: Placed, update: Placed) -> None:
    """An update of other shapes could be broadcast to those of the weights, and nobody would hear of it."""
    taken, found = (value.fedjax_type.member for value in (weights, update))
    containers, others = (jax.tree.structure(types.tree_of_types(type_)) for type_ in (taken, found))
    if taken.is_equivalent_to(found) and containers == others:
        return
    among = "" if containers == others else f" in the containers {others}, not {containers}"
    raise TypeError(
        f"apply_optimizer takes an update of the type of the trainable weights, {taken}, got {found}{among}; expand it "
        "in the aggregator, or write on_part(predicate, apply_optimizer(optimizer)) to move a part of the weights"
    )


def on_part(predicate: Callable[[str], bool], finalizer: Finalizer) -> Finalizer:
    """Moves a part of the trainable weights by an update of this part; all others stay, bit for bit.

    Args:
      predicate: chooses the part, by the path of a leaf in the trainable weights, such as `"body.kernel"`.
      finalizer: moves the part. It is given the weights as `trees.part` makes them, with `None` in place of
        those that stay, and the update in these containers.

    Returns:
      A `Finalizer` with the state and the measurements of `finalizer`. The update has the leaves of the part at
      their paths, in any containers.

    Raises:
      TypeError: an argument of a wrong kind; when built, a predicate that chooses nothing, or an update with
        other leaves than the part.

    Example: the head stays where it is.

    >>> import optax
    >>> finalizer = on_part(lambda path: path.startswith("body."), apply_optimizer(optax.sgd(1.0)))
    >>> type(finalizer).__name__
    'Finalizer'
    """
    if not callable(predicate):
        raise TypeError(
            f"on_part(predicate=...) is a function of a leaf's path, got {predicate!r}; write "
            'lambda path: path.startswith("body.")'
        )
    check_kinds("on_part", finalizer=finalizer)
    chosen = functools.partial(trees.part, predicate)

    def init(weights):
        member = weights.fedjax_type.member
        if not jax.tree.leaves(chosen(types.tree_of_types(member))):
            paths = [path for path, _ in types.type_leaves(member)]
            raise TypeError(f"on_part(predicate=...) chooses some of the paths {paths}, got none of them")
        return finalizer.init(federated_map(chosen, weights))

    def next(state, weights, update):
        part = federated_map(chosen, weights)
        update = federated_map(lambda update, part: trees.match(update, like=part), update, part)
        output = finalizer.next(state, part, update)
        return output._replace(result=federated_map(trees.with_part, weights, output.result))

    return Finalizer(init, next)
