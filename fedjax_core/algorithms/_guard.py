"""How a round leaves out clients whose results are not finite."""

import jax
import jax.numpy as jnp

from fedjax_core import trees
from fedjax_core.aggregators import mean
from fedjax_core.contracts import ClientResult
from fedjax_core.language import Placed, federated_map, federated_value
from fedjax_core.language.graph import Map, Node, ancestors, node_of
from fedjax_core.templates import ProcessCompositionError
from fedjax_core.types import CLIENTS, SERVER

REASONS = ("update", "weight", "metrics")
"""The reasons for which a client is left out of a round; a reason's number is its place here."""


def guard(result: ClientResult) -> tuple[ClientResult, jax.Array, jax.Array]:
    """Replaces a client's result by zeros if any part of it is not finite.

    Returns:
      The result, with zeros in every field if one is not finite; bool, whether the client is fit and contributes; and
      int32, the number of the first of `REASONS` that makes it unfit, -1 if it is fit. `extra` and `running`
      count as the update.
    """
    parts = ((result.update, result.extra, result.running), result.weight, result.metrics)
    broken = jnp.stack([~trees.is_finite(part) for part in parts])
    fit = ~broken.any()
    result = trees.where(fit, result, trees.zeros_like(result))
    reason = jnp.where(fit, -1, jnp.argmax(broken).astype(jnp.int32))
    return result, trees.any_positive(result.weight), reason


def guarded_mean(value: Placed, weight: Placed | None = None) -> tuple[Placed, Placed]:
    r"""The weighted mean over the clients whose value and weight are finite, for means inside client work.

    A client that is left out here must be left out of the whole round: pass the second result to `leave_out`.
    `compose` raises an error for client work whose results do not depend on it. A client that becomes unfit later in
    the round has contributed a finite value to the mean, which stays in it.

    Args:
      value: a pytree of numbers at CLIENTS.
      weight: float32 at CLIENTS, `[]` or any weight that `aggregators.mean` takes; None gives all clients the same
        weight.

    Returns:
      The mean at SERVER, zero where the total weight is zero, and a bool at CLIENTS: whether the client is in the
      mean.

    Raises:
      TypeError: `value` or `weight` is not at CLIENTS, or does not hold numbers.

    Example: the mean gradient, for client work in two passes as in Mime.

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("float32"), fc.at_clients("float32"))
    ... def mean_gradient(gradients, sizes):
    ...     return guarded_mean(gradients, sizes)
    >>> mean, fit = mean_gradient([1.0, float("nan"), 4.0], [1.0, 5.0, 2.0])
    >>> print(mean, fit)
    3.0 [ True False  True]
    """
    if weight is None:
        weight = federated_map(lambda value: jnp.float32(1), value)
    fit = federated_map(_is_fit, value, weight)
    value, weight = federated_map(_kept, value, weight, fit)
    return mean().next(federated_value((), SERVER), value, weight).result, fit


def _is_fit(value, weight):
    return trees.is_finite((value, weight))


def _kept(value, weight, fit):
    return trees.where(fit, (value, weight), trees.zeros_like((value, weight)))


def check_left_out(result: Placed, shared: Placed) -> None:
    """Raises unless the clients that a `guarded_mean` leaves out are left out of the round too.

    Args:
      result: the `ClientResult` at CLIENTS that the client work returns.
      shared: the value at SERVER that it shares.

    Raises:
      ProcessCompositionError: `result` or `shared` was computed from a `guarded_mean`, and `result` does not depend
        on the second value that it returned.
    """
    means = {node for node in ancestors([node_of(result), node_of(shared)]) if _is_fit_of_mean(node)}
    if not means <= _at_clients(node_of(result)):
        raise ProcessCompositionError(
            "the client_work does not leave out of the round those clients that its guarded_mean leaves out, so they "
            "would count in one part of the round and not in another; write `mean, fit = guarded_mean(value, weight)` "
            "and `return leave_out(result, unless=fit), shared`"
        )


def _is_fit_of_mean(node: Node) -> bool:
    return isinstance(node.operation, Map) and node.operation.fn is _is_fit


def _at_clients(node: Node) -> set[Node]:
    """The nodes at CLIENTS that a value is computed from, without those behind a value from the server."""
    found, stack = set(), [node]
    while stack:
        node = stack.pop()
        if node.placement is CLIENTS and node not in found:
            found.add(node)
            stack.extend(node.inputs)
    return found


def leave_out(result: Placed, *, unless: Placed) -> Placed:
    """Makes the round leave out a client that an earlier pass has left out.

    Args:
      result: a `ClientResult` at CLIENTS.
      unless: bool at CLIENTS, the second result of `guarded_mean`.

    Returns:
      The result, with NaN for its update and weight where `unless` is False, so that the round leaves the client out.

    Raises:
      TypeError: an argument is not at CLIENTS.

    Example: inside `ClientWork.run`.

    >>> def run(state, weights, data, key):
    ...     gradient, number = federated_map(full_gradient, weights, data)
    ...     mean, fit = guarded_mean(gradient, number)
    ...     result = federated_map(local_steps, weights, data, federated_broadcast(mean), key)
    ...     return leave_out(result, unless=fit), mean
    """
    return federated_map(_unless, result, unless)


def _unless(result: ClientResult, fit) -> ClientResult:
    def spoilt(leaf):
        return jnp.where(fit, leaf, jnp.nan) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    # The weight too: an update of integers alone cannot hold a NaN.
    return result._replace(update=jax.tree.map(spoilt, result.update), weight=jax.tree.map(spoilt, result.weight))
