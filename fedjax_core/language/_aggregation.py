"""The operators that combine the clients' values at the server."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_core import types
from fedjax_core.language import _reductions
from fedjax_core.language._abstract import infer, strong, symbol
from fedjax_core.language._arguments import check_leaves, client_argument, is_number, is_real
from fedjax_core.language._graph import Collect, user_location
from fedjax_core.language._movement import constant
from fedjax_core.language._placed import Placed, derive, map_nodes, node_of
from fedjax_core.language._sums import checked_sum
from fedjax_core.types import SERVER


def federated_sum(value) -> Placed:
    """The sum over the clients; zero if there are no clients.

    The sum of integers is exact, in their dtype but with at least 32 bits: int8 and int16 are
    summed in int32, uint8 and uint16 in uint32. A call waits for a sum of integers, and raises ValueError if it does
    not fit; in `as_function`, which cannot raise it, the sum wraps around, as integers do in JAX.

    Floats keep their dtype. They are summed in two words of at least float32, so the relative error, measured on the
    sum of the values' magnitudes, is about 1e-6 at most, for any number of clients.

    Args:
      value: numbers at CLIENTS; a struct is summed field by field.

    Raises:
      TypeError: `value` is not at CLIENTS, or a leaf of it is not a number.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("int32"))
    ... def total(counts):
    ...     return fc.federated_sum(counts)
    >>> print(total([1, 2, 3]))
    6
    """
    node = client_argument(value, "federated_sum")
    check_leaves("federated_sum", node, "numbers", is_number)
    return checked_sum("federated_sum", node)


def federated_min(value) -> Placed:
    """The minimum over the clients, entry by entry; the dtype's largest value if there are no clients.

    Args:
      value: real numbers or booleans at CLIENTS.

    Raises:
      TypeError: `value` is not at CLIENTS, or a leaf of it is neither a real number nor a boolean.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("float32"))
    ... def coldest(readings):
    ...     return fc.federated_min(readings)
    >>> print(coldest([68.0, 71.5]))
    68.0
    """
    return _extremum("federated_min", value, _reductions.highest, jnp.minimum, jnp.min)


def federated_max(value) -> Placed:
    """The maximum over the clients, entry by entry; the dtype's smallest value if there are no clients.

    Args:
      value: real numbers or booleans at CLIENTS.

    Raises:
      TypeError: `value` is not at CLIENTS, or a leaf of it is neither a real number nor a boolean.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("float32"))
    ... def hottest(readings):
    ...     return fc.federated_max(readings)
    >>> print(hottest([68.0, 71.5]))
    71.5
    """
    return _extremum("federated_max", value, _reductions.lowest, jnp.maximum, jnp.max)


def _extremum(operator, value, neutral, combine, reduce):
    node = client_argument(value, operator)
    check_leaves(operator, node, "real numbers", lambda dtype: is_real(dtype) or dtype == jnp.bool_)
    return Placed(_reductions.reduce_node(_reductions.elementwise(operator, neutral, combine, reduce), node))


def federated_mean(value, weight=None) -> Placed:
    """The weighted mean over the clients, `sum(value * weight) / sum(weight)`.

    Sums are accumulated as `federated_sum` does, in at least float32; the mean has the dtype of the value, float32 for
    integers. If the total weight is zero, the mean is 0 / 0 = NaN (the aggregator `mean` gives zero instead).

    Args:
      value: numbers at CLIENTS, a pytree.
      weight: one real scalar at CLIENTS; None gives every client the same weight.

    Raises:
      TypeError: `value` or `weight` is not at CLIENTS, a leaf of `value` is not a number, or `weight` is
        not a real scalar.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("float32"), fc.at_clients("float32"))
    ... def mean(values, weights):
    ...     return fc.federated_mean(values, weights)
    >>> print(mean([1.0, 4.0], [1.0, 2.0]))
    3.0
    """
    node = client_argument(value, "federated_mean")
    check_leaves("federated_mean", node, "numbers", is_number)
    if weight is None:
        weights = map_nodes(lambda _: jnp.ones((), jnp.float32), (node,), "federated_mean")
    else:
        weights = client_argument(weight, "federated_mean")
        member = weights.member_type
        if not (isinstance(member, types.TensorType) and member.shape == () and is_real(member.dtype)):
            raise TypeError(
                f"federated_mean takes one real scalar per client as weight, got {weights.type} at {user_location()}; "
                "write fc.federated_mean(value, fc.federated_map(lambda w: jnp.sum(w), weight))"
            )

    weighted = map_nodes(_times_weight, (node, weights), "federated_mean")
    total = federated_sum(Placed(weighted))
    dtypes = jax.tree.map(lambda a: _mean_dtype(a.dtype), node.abstract)

    def divide(total):
        value, weight = total
        return jax.tree.map(lambda v, d: (v / weight.astype(v.dtype)).astype(d), value, dtypes)

    return Placed(map_nodes(divide, (node_of(total),), "federated_mean"))


def _mean_dtype(dtype):
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else jnp.dtype(jnp.float32)


def _times_weight(value, weight):
    """The weighted value and the weight, in at least float32."""

    # A sum of small integers may wrap around, and one in float16 may overflow, although the mean itself would fit.
    def wide(x):
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    weight = wide(weight)
    return jax.tree.map(lambda v: wide(v) * weight.astype(wide(v).dtype), value), weight


def federated_aggregate(value, zero, accumulate: Callable, merge: Callable, report: Callable) -> Placed:
    """A reduction over the clients by user-defined functions.

    The engine accumulates the clients in groups, in an order of its own choosing, and merges the
    groups' accumulators. So `merge(zero, a)` and `merge(a, zero)` must equal `a` and `merge` must be associative,
    which `testing.check_aggregates` checks; and unless `accumulate` and `merge` are commutative, the result depends on
    that order and not on the clients alone.

    Args:
      value: a value at CLIENTS, of type T.
      zero: the initial accumulator, a pytree of arrays of type A, or a function without arguments that
        returns it. The accumulator keeps exactly this type.
      accumulate: `(A, T) -> A`.
      merge: `(A, A) -> A`.
      report: `A -> R`.

    Returns:
      R at SERVER.

    Raises:
      TypeError: `value` is not at CLIENTS or has no tensor in it, or a function does not take or
        return these types.

    Example:

    >>> import jax.numpy as jnp, fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("float32"))
    ... def norm(values):
    ...     return fc.federated_aggregate(
    ...         values, 0.0, lambda a, v: a + v * v, lambda a, b: a + b, jnp.sqrt)
    >>> print(norm([3.0, 4.0]))
    5.0
    """
    node = client_argument(value, "federated_aggregate")
    if not jax.tree.leaves(node.abstract):
        raise TypeError(
            f"federated_aggregate takes a value with at least one tensor, got {node.type} at {user_location()}; to "
            "count the clients write fc.federated_sum(fc.federated_map(lambda value: 1, value))"
        )
    make_zero = _zero(zero)
    empty = infer(make_zero, (), "the zero of federated_aggregate")
    described = "`{}` of federated_aggregate"
    _check_accumulator(empty, infer(accumulate, (empty, node.abstract), described.format("accumulate")), "accumulate")
    _check_accumulator(empty, infer(merge, (empty, empty), described.format("merge")), "merge")
    infer(report, (empty,), described.format("report"))
    operation = _reductions.sequential(
        "federated_aggregate", make_zero, accumulate, merge, lambda total: strong(report(total))
    )
    return Placed(_reductions.reduce_node(operation, node))


def _zero(zero) -> Callable:
    if callable(zero):
        return lambda: strong(zero())
    # Converted to JAX arrays at the end: `report` is traced on the zero itself, and a NumPy array has no `.at`.
    arrays = jax.tree.map(constant, zero)
    return lambda: jax.tree.map(jnp.asarray, arrays)


def _check_accumulator(zero, found, name: str):
    expected, got = types.type_of(zero), types.type_of(found)
    if not expected.is_equivalent_to(got) or jax.tree.structure(zero) != jax.tree.structure(found):
        raise TypeError(
            f"`{name}` of federated_aggregate must return an accumulator of the zero's type {expected}, got {got} "
            f"at {user_location()}; convert its result, or start from a zero of that type"
        )


def federated_collect(value, *, padded: bool = False) -> Placed:
    """All clients' values at the server, stacked in cohort order.

    This is the only operator whose result grows with the cohort; prefer an aggregate wherever one suffices.

    XLA compiles for fixed shapes. What the server computes from the rows of all clients is therefore compiled again for
    each number of clients, unless you collect `padded`: then the cohorts of a run share a few sizes.

    Args:
      value: tensors at CLIENTS.
      padded: whether rows of zeros may follow those of the clients (for typed keys, rows of any client). Their number
        depends on that of the clients alone; they count in the memory budget.

    Returns:
      The same pytree at SERVER, every leaf with a leading dimension `?`: the number of clients. If `padded`, a pair of
      this pytree, whose leading dimension may be larger, and `bool[?]`, which is True for the rows of clients.

    Raises:
      TypeError: `value` is not at CLIENTS, or contains a sequence.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("int32"))
    ... def everything(values):
    ...     return fc.federated_collect(values)
    >>> str(everything.type_signature), everything([3, 1, 2]).tolist()
    ('({int32}@CLIENTS -> int32[?]@SERVER)', [3, 1, 2])

    The range of the values, in a program for a few sizes:

    >>> import jax.numpy as jnp
    >>> def spread(rows, is_client):
    ...     return jnp.max(rows, where=is_client, initial=0) - jnp.min(rows, where=is_client, initial=99)
    >>> @fc.federated_computation(fc.at_clients("int32"))
    ... def spread_of_all(values):
    ...     return fc.federated_map(spread, *fc.federated_collect(values, padded=True))
    >>> print(spread_of_all([3, 1, 2]))
    2
    """
    node = client_argument(value, "federated_collect")
    check_leaves("federated_collect", node, "tensors", lambda dtype: True)
    operation = Collect(padded)
    return Placed(derive(operation, (node,), collected(operation, node.abstract), placement=SERVER, all_equal=True))


def collected(operation: Collect, abstract):
    """The abstract result of collecting abstract values: all clients' stacked along a leading dimension."""
    clients = symbol("clients")
    rows = jax.tree.map(lambda a: jax.ShapeDtypeStruct((clients, *a.shape), a.dtype), abstract)
    return (rows, jax.ShapeDtypeStruct((clients,), jnp.bool_)) if operation.padded else rows
