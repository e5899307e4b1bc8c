"""The operators that read and write rows of a table at the server."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.language._aggregation import federated_collect
from fedjax_core.language._arguments import described
from fedjax_core.language._graph import ClientIndex, Node, user_location
from fedjax_core.language._movement import federated_broadcast
from fedjax_core.language._placed import Placed, map_nodes, node_of, placed_argument
from fedjax_core.types import CLIENTS, SERVER


def federated_select(keys, table, fn: Callable | None = None) -> Placed:
    """The rows of a table at the server that each client selects.

    Args:
      keys: int32 at CLIENTS, a scalar or a vector of row numbers per client.
      table: a pytree at SERVER.
      fn: `(table, key) -> row`; by default the `key`-th row of every leaf.

    Returns:
      At CLIENTS, the row of a scalar key, or the stacked rows of a vector of keys.

    Raises:
      TypeError: an argument is not at its placement, the keys are not int32 scalars or vectors, or `fn` fails.

    Example:

    >>> import jax.numpy as jnp, fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("int32"), fc.at_server("float32[4]"))
    ... def sum_of_rows(keys, table):
    ...     return fc.federated_sum(fc.federated_select(keys, table))
    >>> print(sum_of_rows([0, 3], jnp.array([1.0, 2.0, 3.0, 4.0])))
    5.0
    """
    node = _keys_argument("federated_select", keys)
    repaired = "fc.federated_select(keys, table) with the keys at CLIENTS and the table at SERVER"
    rows = placed_argument(table, "federated_select", at=SERVER, repaired=repaired)
    pick = fn or (lambda table, key: jax.tree.map(lambda leaf: leaf[key], table))
    many = len(_shape(node.member_type) or ()) == 1
    node = _of_table(node, rows)

    def select(keys, table):
        return jax.vmap(lambda key: pick(table, key))(keys) if many else pick(table, keys)

    sent = node_of(federated_broadcast(Placed(rows)))
    return Placed(map_nodes(select, (node, sent), described("federated_select", pick)))


def federated_scatter(table, keys, rows) -> Placed:
    """A table at the server with the clients' rows written into it, for client state that lasts across rounds.

    If several clients write the same row, the last one in the cohort wins. A row whose key is outside the table
    is left out.

    Args:
      table: a pytree at SERVER whose leaves have a common leading dimension `N`.
      keys: int32 at CLIENTS, a scalar or a vector of row numbers per client.
      rows: the table's pytree at CLIENTS, whose leaves have the keys' dimensions in place of the leading one.

    Returns:
      The new table at SERVER, of the table's type.

    Raises:
      TypeError: an argument is not at its placement, the keys are not int32 scalars or vectors, or the rows do
        not fit the table.

    Example:

    >>> import jax.numpy as jnp, fedjax_core as fc
    >>> @fc.federated_computation(fc.at_server("float32[4]"), fc.at_clients("int32"), fc.at_clients("float32"))
    ... def write(table, keys, rows):
    ...     return fc.federated_scatter(table, keys, rows)
    >>> print(write(jnp.zeros(4), [2, 0], [5.0, 7.0]))
    [7. 0. 5. 0.]
    """
    repaired = "fc.federated_scatter(table, keys, rows) with the table at SERVER, keys and rows at CLIENTS"
    target = placed_argument(table, "federated_scatter", at=SERVER, repaired=repaired)
    node = _keys_argument("federated_scatter", keys)
    values = placed_argument(rows, "federated_scatter", at=CLIENTS, repaired=repaired)
    _check_rows(target, node, values)
    node = _of_table(node, target)
    written = node_of(federated_collect((Placed(node), Placed(values)), padded=True))
    return Placed(map_nodes(_scatter, (target, written), "federated_scatter"))


def federated_client_index() -> Placed:
    """Each client's row in the population, int32 at CLIENTS, for `federated_select` and `federated_scatter`.

    For a cohort of `FederatedData` the row is the client's position in the population, `data.client_ids.rows`: subsets
    and splits keep the rows of the data that they are taken from. For a plain list, and for `{id: client}`, it is the
    position in the list or dict. A table that is selected from or scattered into by this index must have one row for
    each client of the population. A call raises an error if the population of its cohort has another size, if a list is
    longer than the table, and for `{id: client}`, since its positions would mean other clients in another call.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("float32"))
    ... def rows(values):
    ...     return fc.federated_collect(fc.federated_client_index())
    >>> rows([5.0, 6.0]).tolist()
    [0, 1]
    """
    abstract = jax.ShapeDtypeStruct((), jnp.int32)
    return Placed(Node(ClientIndex(), (), abstract, CLIENTS, False, user_location()))


def _of_table(keys: Node, table: Node) -> Node:
    """The keys; if they are the clients' rows in the population, their node records the table's number of rows."""
    shapes = [_shape(leaf) for _, leaf in types.type_leaves(table.member_type)]
    leading = {shape[:1] for shape in shapes if shape is not None}
    if not isinstance(keys.operation, ClientIndex) or len(leading) != 1:
        return keys
    (rows,) = leading.pop() or (None,)
    return dataclasses.replace(keys, operation=ClientIndex(rows))


def _shape(type_: types.Type) -> tuple[int | None, ...] | None:
    return types.of_kind(type_, types.TensorType).shape


def _keys_argument(operator: str, keys) -> Node:
    repaired = f"fc.{operator} with int32 keys at CLIENTS"
    node = placed_argument(keys, operator, at=CLIENTS, repaired=repaired)
    member = node.member_type
    if not (isinstance(member, types.TensorType) and member.dtype == jnp.int32 and len(member.shape or ()) <= 1):
        raise TypeError(
            f"{operator} takes int32 keys, a scalar or a vector per client, got {node.type} at {user_location()}; "
            "write fc.federated_map(lambda k: k.astype('int32'), keys)"
        )
    return node


def _check_rows(table: Node, keys: Node, rows: Node):
    key_shape = _shape(keys.member_type) or ()
    expected = jax.tree.map(
        lambda leaf: types.TensorType(leaf.dtype, (*key_shape, *leaf.shape[1:])) if leaf.shape else None,
        types.tree_of_types(table.member_type),
    )
    if any(leaf is None for leaf in jax.tree.leaves(expected, is_leaf=lambda x: x is None)):
        raise TypeError(f"federated_scatter takes a table of rows, got {table.type}: a scalar has no rows")
    expected = types.type_of(expected)
    if not expected.is_assignable_from(types.matched_type(expected, rows.member_type)):
        raise TypeError(
            f"federated_scatter writes rows of type {expected} into {table.type}, got {rows.type} "
            f"at {user_location()}; convert them: fc.federated_scatter(table, keys, fc.federated_map(fn, rows))"
        )


def _scatter(table, written):
    (keys, rows), is_client = written
    keys = jnp.where(jnp.expand_dims(is_client, range(1, keys.ndim)), keys, -1)
    rows = types.matched(types.type_of(table), rows)
    lead, number = keys.ndim, math.prod(keys.shape)
    keys = keys.reshape(number)

    def write(leaf, row):
        if number == 0:
            return leaf
        row = row.reshape((number, *row.shape[lead:]))
        size = leaf.shape[0]
        # Rows outside go to one more row, which is cut off: a negative key would count from the end of the table.
        place = jnp.where((keys >= 0) & (keys < size), keys, size)
        # The last writer of each row is found by a maximum: JAX does not specify which of several writers wins.
        last = jnp.full(size + 1, -1, jnp.int32).at[place].max(jnp.arange(number, dtype=jnp.int32))[:size]
        chosen = row.at[jnp.maximum(last, 0)].get(mode="clip")
        return jnp.where(jnp.expand_dims(last >= 0, range(1, leaf.ndim)), chosen, leaf)

    return jax.tree.map(write, table, rows)
