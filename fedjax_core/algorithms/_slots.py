"""The usual distributors and finalizers: ways to send the weights out and to update them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_core import _checks, trees, types
from fedjax_core.algorithms._checks import check_kinds, takes_argument
from fedjax_core.algorithms._extended import asks_for
from fedjax_core.clients import LocalOptimizer, check_optimizer
from fedjax_core.contracts import Distributor, Finalizer
from fedjax_core.language import Placed, federated_broadcast, federated_map, federated_value
from fedjax_core.templates import MeasuredProcessOutput
from fedjax_core.types import SERVER


def as_finalizer(server_optimizer: optax.GradientTransformation | Finalizer) -> Finalizer:
    """The finalizer that applies a server optimizer; a finalizer as it is."""
    return server_optimizer if isinstance(server_optimizer, Finalizer) else apply_optimizer(server_optimizer)


def broadcast() -> Distributor:
    """Sends the server's weights unchanged to every client.

    Returns:
      A `Distributor` without state and measurements.

    Example:

    >>> type(broadcast()).__name__
    'Distributor'
    """

    def next(state, weights):
        return MeasuredProcessOutput(state, federated_broadcast(weights), federated_value((), SERVER))

    return Distributor(lambda weights: federated_value((), SERVER), next)


def apply_optimizer(
    optimizer: optax.GradientTransformation, *, should_reject_update: Callable[[Any, Any], Any] | None = None
) -> Finalizer:
    """Takes one optimizer step on the server, with the aggregated update as the gradient.

    An extended transformation that needs `value`, such as `optax.contrib.reduce_on_plateau`, gets the mean training
    loss of the round. One that needs `value_fn`, such as a line search, is an error: the server holds no examples on
    which it could evaluate other weights.

    Args:
      optimizer: any optax transformation that does not need `value_fn`.
      should_reject_update: `(state, update) -> bool`, or `-> (bool, measurements)` with a dict, traced by JAX. It gets
        the optimizer's state after the step. If it returns True, the weights of the model and the optimizer's state
        stay as they were, bit for bit, while the other slots keep the states of the round. None rejects nothing; a
        round whose update is not finite does not count in any case, see `compose`.

    Returns:
      A `Finalizer` whose state is that of the optimizer. It measures `update_non_finite`, int32, one if the update
      holds a NaN or infinity, otherwise zero; and with `should_reject_update`, its measurements and `update_rejected`,
      int32.

    Raises:
      TypeError: `optimizer` is not an optax transformation, or `should_reject_update` is not a function; when the
        process is built: the update has another type than the weights, the optimizer needs `value_fn`, it needs `value`
        and the round has none, or `should_reject_update` returns something else.

    Example: FedAvgM.

    >>> type(apply_optimizer(optax.sgd(1.0, momentum=0.9))).__name__
    'Finalizer'

    Rejecting updates that are too long:

    >>> import jax, numpy as np, fedjax_core as fc
    >>> def is_long(state, update):
    ...     return fc.trees.norm(update) > 0.01
    >>> server = apply_optimizer(optax.sgd(1.0), should_reject_update=is_long)
    >>> model = fc.models.logistic_regression(2, 2)
    >>> process = fc.algorithms.fed_avg(model, optax.sgd(0.1), server_optimizer=server, key=jax.random.key(0))
    >>> clients = [{"x": np.eye(2, dtype=np.float32), "y": np.array([0, 1], np.int32)}]
    >>> state, metrics = process.next(process.initialize(), clients)
    >>> print(process.report(state)["weights_norm"], metrics["finalizer"]["update_rejected"])
    0.0 1

    References:
      Reddi et al. 2021, Adaptive Federated Optimization, algorithm 1 (ServerOpt).
    """
    if isinstance(optimizer, LocalOptimizer):
        raise TypeError(
            "server_optimizer must be an optax.GradientTransformation, got a LocalOptimizer, which trains clients; "
            "write optax.sgd(1.0), or pass it as client_optimizer"
        )
    check_optimizer(optimizer, "server_optimizer", "optax.sgd(1.0)")
    if should_reject_update is not None:
        called = "apply_optimizer(should_reject_update=...)"
        _checks.check_function(called, should_reject_update, "of the optimizer's state and the update", _REJECT)
    extended = optax.with_extra_args_support(optimizer)

    def init(weights):
        return federated_map(optimizer.init, weights)

    def step(state, weights, update, **extra):
        updates, moved = extended.update(update, state, weights, **extra)
        stepped = optax.apply_updates(weights, updates)
        measured = {"update_non_finite": _flag(~trees.is_finite(update))}
        if should_reject_update is None:
            return moved, stepped, measured
        rejected, measurements = _decision(should_reject_update(moved, update))
        moved, stepped = trees.where(rejected, (state, weights), (moved, stepped))
        return moved, stepped, {**measurements, **measured, "update_rejected": _flag(rejected)}

    def step_by_loss(state, weights, update, value):
        return step(state, weights, update, value=value, grad=update, value_fn=_no_value_fn)

    def next(state, weights, update, value=None):
        _check_update(weights, update)
        if not asks_for(optimizer, types.member_of(weights.fedjax_type), "value", "value_fn"):
            return MeasuredProcessOutput(*federated_map(step, state, weights, update))
        if value is None:
            raise TypeError(
                "server_optimizer asks for `value`, the training loss of the round, which its finalizer does not get; "
                "pass it on: inner.next(state, weights, update, value)"
            )
        return MeasuredProcessOutput(*federated_map(step_by_loss, state, weights, update, value()))

    return Finalizer(init, next)


_REJECT = "write lambda state, update: fc.trees.norm(update) > 10.0"


def _flag(condition) -> jax.Array:
    return jnp.asarray(condition, jnp.int32)


def _decision(answer) -> tuple:
    """The answer of `should_reject_update`, a bool, and its measurements."""
    rejected, measurements = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
    measurements = {} if measurements is None else measurements
    is_bool = isinstance(rejected, bool | np.bool_ | jax.Array) and types.type_of(rejected) == types.to_type("bool")
    if not (is_bool and isinstance(measurements, dict)):
        raise TypeError(
            "apply_optimizer(should_reject_update=...) must return a bool, or a bool and a dict of measurements, got "
            f"{answer!r}; {_REJECT}"
        )
    return jnp.asarray(rejected), measurements


def _no_value_fn(weights):
    raise TypeError(
        "server_optimizer asks for `value_fn`, the loss as a function of the weights, but the server holds no "
        "examples; use it on the clients, client_optimizer=optax.lbfgs(), or write server_optimizer=optax.sgd(1.0)"
    )


def _check_update(weights: Placed, update: Placed) -> None:
    """Raises TypeError unless the update has the weights' type; other shapes could broadcast without an error."""
    taken, found = (types.member_of(value.fedjax_type) for value in (weights, update))
    containers, others = (jax.tree.structure(types.tree_of_types(type_)) for type_ in (taken, found))
    if taken.is_equivalent_to(found) and containers == others:
        return
    among = "" if containers == others else f" in the containers {others}, not {containers}"
    raise TypeError(
        f"apply_optimizer takes an update of the type of the trainable weights, {taken}, got {found}{among}; expand it "
        "in the aggregator, or write on_part(predicate, apply_optimizer(optimizer)) to update a part of the weights"
    )


def on_part(predicate: Callable[[str], bool], finalizer: Finalizer) -> Finalizer:
    """Updates a part of the trainable weights; all other weights stay as they are, bit for bit.

    Args:
      predicate: chooses the part, from the path of a leaf in the trainable weights, such as `"body.kernel"`.
      finalizer: updates the part. It gets the weights from `trees.part`, with `None` in place of those that stay, and
        the update in the same containers.

    Returns:
      A `Finalizer` with the state and the measurements of `finalizer`. Its update must have the leaves of the part at
      their paths, in any containers.

    Raises:
      TypeError: an argument has the wrong type; when the process is built: the predicate chooses nothing, or the
        update has other leaves than the part.

    Example: the head does not change.

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
            raise TypeError(f"on_part(predicate=...) must choose some of the paths {paths}, got none; {repair}")
        return finalizer.init(federated_map(chosen, weights))

    def next(state, weights, update, value=None):
        part = federated_map(chosen, weights)
        update = federated_map(lambda update, part: trees.match(update, like=part), update, part)
        named = {"value": value} if takes_argument(finalizer.next, "value") else {}
        output = finalizer.next(state, part, update, **named)
        return output._replace(result=federated_map(trees.with_part, weights, output.result))

    return Finalizer(init, next)
