"""The operators that place, move, map and zip values."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import types
from fedjax_core.language._abstract import infer, strong
from fedjax_core.language._arguments import check_function, check_one_placement, check_placement, described
from fedjax_core.language._graph import Broadcast, Map, Node, user_location
from fedjax_core.language._placed import (
    Placed,
    derive,
    is_placed,
    map_nodes,
    node_of,
    placed_argument,
    refuse_trimmed,
)
from fedjax_core.types import CLIENTS, SERVER, Placement


def federated_value(value: Any, placement: Placement) -> Placed:
    """A constant at a placement.

    Args:
      value: a pytree of arrays and numbers, or an argument declared without a placement.
      placement: `SERVER` or `CLIENTS`.

    Raises:
      TypeError: `value` is already placed, or a leaf of it is not an array or a number.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation()
    ... def start():
    ...     return fc.federated_value({"round": 0}, fc.SERVER)
    >>> str(start.type_signature)
    '( -> <round=int32>@SERVER)'
    """
    check_placement("federated_value", placement)
    types.type_of(value)  # raises where JAX could not flatten it
    if is_placed(value) and node_of(value).placement is None:
        node = node_of(value)
        return Placed(derive(Map(lambda v: v, structural=True), (node,), node.abstract, placement=placement))
    if any(map(is_placed, jax.tree.leaves(value))):
        raise TypeError(
            f"federated_value takes a constant, got {types.type_of(value)} at {user_location()}; to send a value "
            "to the clients write fc.federated_broadcast(value), to compute with it fc.federated_map(fn, value)"
        )
    arrays = jax.tree.map(constant, value)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype), arrays)
    operation = Map(lambda: arrays)
    return Placed(Node(operation, (), abstract, placement, True, user_location()))


def constant(x):
    """An array or number as an array with the dtype of its type."""
    # A copy: the program is compiled at its first call, and the caller may write to the array before that.
    return (
        strong(x) if isinstance(x, jax.Array) else np.array(x, types.of_kind(types.type_of(x), types.TensorType).dtype)
    )


def federated_eval(fn: Callable, placement: Placement) -> Placed:
    """The result of a function without arguments, computed at a placement.

    Args:
      fn: a pure JAX function, or a computation without placements, that takes no arguments.
      placement: `SERVER` or `CLIENTS`.

    Raises:
      TypeError: `fn` is not a function, has placements, or fails when it is traced.

    Example:

    >>> import jax.numpy as jnp, fedjax_core as fc
    >>> @fc.federated_computation()
    ... def initialize():
    ...     return fc.federated_eval(lambda: jnp.zeros(3), fc.SERVER)
    >>> str(initialize.type_signature)
    '( -> float32[3]@SERVER)'
    """
    check_placement("federated_eval", placement)
    check_function("federated_eval", fn, "fc.federated_eval(lambda: ..., fc.SERVER)")
    abstract = infer(fn, (), described("federated_eval", fn))
    return Placed(Node(Map(fn), (), abstract, placement, placement is SERVER, user_location()))


def federated_broadcast(value) -> Placed:
    """The server's value at every client.

    Args:
      value: a value, or a struct of values, at SERVER.

    Returns:
      The same value at CLIENTS, all equal.

    Raises:
      TypeError: `value` is not at SERVER, or contains trimmed rows.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_server("float32"))
    ... def send(weights):
    ...     return fc.federated_broadcast(weights)
    >>> str(send.type_signature)
    '(float32@SERVER -> float32@CLIENTS)'
    """
    node = placed_argument(
        value, "federated_broadcast", at=SERVER, repaired="fc.federated_broadcast(fc.federated_mean(value))"
    )
    refuse_trimmed("federated_broadcast", (node,))
    return Placed(derive(Broadcast(), (node,), node.abstract, placement=CLIENTS, all_equal=True))


def federated_map(fn: Callable, *args) -> Placed:
    """A pure function applied where its arguments are: at the server, or at every client.

    Args:
      fn: a pure JAX function, or a computation without placements, that takes one argument per value.
      *args: values, or structs of values, all at one placement.

    Returns:
      What `fn` returns, at that placement; its type is inferred by tracing `fn` once.

    Raises:
      TypeError: the arguments are at different placements, `fn` has placements itself, or it cannot
        be applied to the arguments; the message has the line, the types and the reason.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("float32"))
    ... def count_hot(readings):
    ...     return fc.federated_sum(fc.federated_map(lambda t: (t > 70).astype("int32"), readings))
    >>> print(count_hot([68.0, 71.0, 75.0]))
    2
    """
    check_function("federated_map", fn, "fc.federated_map(lambda value: ..., value)")
    if not args:
        raise TypeError(
            "federated_map takes at least one value, got none; for a function without arguments write "
            "fc.federated_eval(fn, fc.SERVER)"
        )
    repaired = "fc.federated_map(fn, value) with a placed value"
    nodes = tuple(placed_argument(a, "federated_map", repaired=repaired) for a in args)
    check_one_placement("federated_map", nodes)
    return Placed(map_nodes(fn, nodes, described("federated_map", fn)))


def federated_zip(value) -> Placed:
    """A struct of values at one placement as one value: `<a=T@P,b=U@P>` becomes `<a=T,b=U>@P`.

    Args:
      value: a pytree (dict, tuple, NamedTuple, dataclass) of placed values.

    Raises:
      TypeError: the values are at different placements.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_server("int32"), fc.at_server("float32"))
    ... def pair(count, total):
    ...     return fc.federated_zip({"count": count, "total": total})
    >>> str(pair.type_signature)
    '(<count=int32@SERVER,total=float32@SERVER> -> <count=int32,total=float32>@SERVER)'
    """
    return Placed(placed_argument(value, "federated_zip", repaired="fc.federated_zip((a, b))"))
