"""The usual ways to send the weights out and to move them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from fedjax_core import _checks, trees, types
from fedjax_core.algorithms._checks import check_kinds, takes_argument
from fedjax_core.algorithms._extended import asks_for
from fedjax_core.clients import LocalOptimizer, check_optimizer
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

    An extended transformation that asks for `value`, such as `optax.contrib.reduce_on_plateau`, is given the mean
    training loss of the round. One that asks for `value_fn`, such as a line search, is refused: the server holds no
    examples on which it could evaluate other weights.

    Args:
      optimizer: any optax transformation but those.

    Returns:
      A `Finalizer` whose state is the optimizer's. Measurement: `update_non_finite`, int32, one if the
      update holds a NaN or infinity.

    Raises:
      TypeError: the optimizer is no optax transformation; when built, for an update of another type than the
        weights, an optimizer that asks for `value_fn`, or one that asks for `value` where the round has none.

    Example: FedAvgM.

    >>> type(apply_optimizer(optax.sgd(1.0, momentum=0.9))).__name__
    'Finalizer'

    References:
      Reddi et al. 2021, Adaptive Federated Optimization, algorithm 1 (ServerOpt).
    """
    if isinstance(optimizer, LocalOptimizer):
        raise TypeError(
            "server_optimizer is an optax.GradientTransformation, got a LocalOptimizer, which trains clients; write "
            "optax.sgd(1.0), or give it as client_optimizer"
        )
    check_optimizer(optimizer, "server_optimizer", "optax.sgd(1.0)")
    extended = optax.with_extra_args_support(optimizer)

    def init(weights):
        return federated_map(optimizer.init, weights)

    def step(state, weights, update, **extra):
        updates, state = extended.update(update, state, weights, **extra)
        non_finite = (~trees.is_finite(update)).astype(jnp.int32)
        return state, optax.apply_updates(weights, updates), {"update_non_finite": non_finite}

    def step_by_loss(state, weights, update, value):
        return step(state, weights, update, value=value, grad=update, value_fn=_no_value_fn)

    def next(state, weights, update, value=None):
        _check_update(weights, update)
        if not asks_for(optimizer, types.member_of(weights.fedjax_type), "value", "value_fn"):
            return MeasuredProcessOutput(*federated_map(step, state, weights, update))
        if value is None:
            raise TypeError(
                "server_optimizer asks for `value`, the training loss of the round, which its finalizer is not given; "
                "hand it on: inner.next(state, weights, update, value)"
            )
        return MeasuredProcessOutput(*federated_map(step_by_loss, state, weights, update, value()))

    return Finalizer(init, next)


def _no_value_fn(weights):
    raise TypeError(
        "server_optimizer asks for `value_fn`, the loss as a function of the weights, but the server holds no "
        "examples; give it to the clients, client_optimizer=optax.lbfgs(), or write server_optimizer=optax.sgd(1.0)"
    )


def _check_update(weights: Placed, update: Placed) -> None:
    """An update of other shapes could be broadcast to those of the weights, and nobody would hear of it."""
    taken, found = (types.member_of(value.fedjax_type) for value in (weights, update))
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
    repair = 'write lambda path: path.startswith("body.")'
    _checks.check_function("on_part(predicate=...)", predicate, "of a leaf's path", repair)
    check_kinds("on_part", finalizer=finalizer)
    chosen = functools.partial(trees.part, predicate)

    def init(weights):
        member = types.member_of(weights.fedjax_type)
        if not jax.tree.leaves(chosen(types.tree_of_types(member))):
            paths = [path for path, _ in types.type_leaves(member)]
            raise TypeError(f"on_part(predicate=...) chooses some of the paths {paths}, got none of them")
        return finalizer.init(federated_map(chosen, weights))

    def next(state, weights, update, value=None):
        part = federated_map(chosen, weights)
        update = federated_map(lambda update, part: trees.match(update, like=part), update, part)
        named = {"value": value} if takes_argument(finalizer.next, "value") else {}
        output = finalizer.next(state, part, update, **named)
        return output._replace(result=federated_map(trees.with_part, weights, output.result))

    return Finalizer(init, next)
