"""The operator that gives every client a key of its own."""

import jax
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.language._graph import ClientIdentity, Node, user_location
from fedjax_core.language._movement import federated_broadcast
from fedjax_core.language._placed import Placed, map_nodes, node_of, placed_argument
from fedjax_core.types import CLIENTS, SERVER


def federated_split_key(key) -> Placed:
    """One key per client, with the client's identity folded in.

    The identity is the client's id (its index in a plain list of clients) and its occurrence in
    the cohort, in two 32-bit halves. The client's position among the others does not matter: a client
    draws the same numbers no matter which others take part.

    Args:
      key: a JAX key (`jax.random.key`) at SERVER.

    Returns:
      A key at CLIENTS.

    Raises:
      TypeError: `key` is not one key at SERVER.

    Example:

    >>> import jax, fedjax_core as fc
    >>> @fc.federated_computation(fc.at_server("key<fry>"), fc.at_clients("float32"))
    ... def largest_draw(key, values):
    ...     return fc.federated_max(fc.federated_map(jax.random.uniform, fc.federated_split_key(key)))
    >>> bool(0 < largest_draw(jax.random.key(0), [0.0, 0.0]) < 1)
    True
    """
    node = placed_argument(key, "federated_split_key", at=SERVER, repaired="fc.federated_split_key(server_key)")
    member = node.member_type
    is_tensor = isinstance(member, types.TensorType)
    if not (is_tensor and member.shape == () and jnp.issubdtype(member.dtype, jax.dtypes.prng_key)):
        raise TypeError(
            f"federated_split_key takes one key, got {node.type} at {user_location()}; make one with "
            "jax.random.key(seed)"
        )
    identity = Node(ClientIdentity(), (), jax.ShapeDtypeStruct((2,), jnp.uint32), CLIENTS, False, user_location())

    # In two halves, since `fold_in` takes 32 bits and JAX has no uint64 unless x64 is enabled.
    def fold(key, identity):
        return jax.random.fold_in(jax.random.fold_in(key, identity[0]), identity[1])

    sent = node_of(federated_broadcast(Placed(node)))
    return Placed(map_nodes(fold, (sent, identity), "federated_split_key"))
