"""The argument checks that the operators share."""

from collections.abc import Callable

import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.language._graph import Node, user_location
from fedjax_core.language._placed import Placed, placed_argument
from fedjax_core.types import CLIENTS, Placement


def client_argument(value, operator: str) -> Node:
    """The node of an argument that must be at CLIENTS."""
    return placed_argument(
        value, operator, at=CLIENTS, repaired=f"fc.{operator}(fc.federated_broadcast(value)) or leave {operator} out"
    )


def check_leaves(operator: str, node: Node, allowed: str, accept: Callable):
    """Raises TypeError unless every leaf of a value is a tensor of an accepted dtype."""
    for path, leaf in types.type_leaves(node.member_type):
        if not (isinstance(leaf, types.TensorType) and accept(leaf.dtype)):
            where = f"its field {path} is {leaf}" if path else f"it is {leaf}"
            raise TypeError(
                f"{operator} takes {allowed}, got {node.type}: {where}, at {user_location()}; convert it at the "
                f"clients: fc.{operator}(fc.federated_map(fn, value))"
            )


def check_one_placement(operator: str, nodes):
    """Raises TypeError, with the repaired call, unless all arguments are at one placement."""
    if len({node.placement for node in nodes}) > 1:
        found = ", ".join(str(node.type) for node in nodes)
        raise TypeError(
            f"{operator} takes values at one placement, got {found} at {user_location()}. To compute at the "
            f"clients bring the server's value to them: fc.{operator}(fn, fc.federated_broadcast(server_value), "
            "client_value); to compute at the server combine the clients' first, for example with fc.federated_sum"
        )


def check_placement(operator: str, placement):
    """Raises TypeError unless `placement` is a placement."""
    if not isinstance(placement, Placement):
        raise TypeError(f"{operator} takes fc.SERVER or fc.CLIENTS as placement, got {placement!r}")


def check_function(operator: str, fn, repaired: str):
    """Raises TypeError unless `fn` is a function, and one without placements if it is a computation."""
    if isinstance(fn, Placed) or not callable(fn):
        raise TypeError(
            f"{operator} takes a function as its first argument, got {name_of(fn)} at {user_location()}; "
            f"write {repaired}"
        )
    signature = getattr(fn, "type_signature", None)
    if isinstance(signature, types.Type) and signature.contains("federated"):
        raise TypeError(
            f"{operator} takes a function without placements, got {name_of(fn)} of type {signature} at "
            f"{user_location()}; call it with the placed values: {name_of(fn)}(...)"
        )


def is_number(dtype) -> bool:
    """Whether a dtype can be summed."""
    return jnp.issubdtype(dtype, jnp.number)


def is_real(dtype) -> bool:
    """Whether the numbers of a dtype are real."""
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)


def described(operator: str, fn) -> str:
    """An operator and its function, as error messages name them."""
    return f"{operator}({name_of(fn)})"


def name_of(fn) -> str:
    """The name of a function in error messages."""
    code = getattr(fn, "__code__", None)
    name = getattr(fn, "__name__", None) or repr(fn)
    return name if code is None or name != "<lambda>" else f"lambda at line {code.co_firstlineno}"
