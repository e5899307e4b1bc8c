"""The reductions behind the aggregating operators."""

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_core import trees
from fedjax_core.language._graph import Aggregate, Node
from fedjax_core.language._placed import derive
from fedjax_core.types import SERVER


def _masked(values, valid, neutral):
    """`values` `[L, ...]` with `neutral` in the empty lanes."""
    if valid is None:
        return values
    # A selection, not a product with the mask: what an empty lane computes may be NaN.
    return jax.tree.map(lambda x, n: jnp.where(jnp.expand_dims(valid, range(1, x.ndim)), x, n), values, neutral)


def elementwise(name: str, neutral, combine, reduce) -> Aggregate:
    """A reduction of every entry on its own.

    Args:
      name: the operator.
      neutral: `dtype -> scalar`, the neutral element of `combine`.
      combine: `(a, b) -> a`, for example `jnp.add`.
      reduce: `(array, axis=0) -> array`, the same operation over the lanes.
    """

    def zero(value):
        return jax.tree.map(lambda a: jnp.full(a.shape, neutral(a.dtype), a.dtype), value)

    def accumulate(total, values, valid):
        present = _masked(values, valid, jax.tree.map(lambda x: jnp.asarray(neutral(x.dtype), x.dtype), values))

        def take(t, x):
            # `jnp.sum` widens small integers, but the carry of a loop must keep its dtype. In `as_function` all
            # clients are lanes; there may be none, and the minimum of an empty array is an error.
            return combine(t, reduce(x, axis=0).astype(t.dtype)) if x.shape[0] else t

        return jax.tree.map(take, total, present)

    def merge(a, b):
        return jax.tree.map(combine, a, b)

    return Aggregate(name, zero, accumulate, merge, lambda total: total)


def summed(name: str, abstract) -> Aggregate:
    """The sum of numbers, in two floats (see `trees.CompensatedSum`), of clients with these abstract values."""

    # A few clients are added up in one float: to read and write both words for every client would cost a small model
    # several percent of a round.
    def zero(value):
        return trees.compensated_zero(value).high

    def accumulate(few, values, valid):
        wide = jax.tree.map(lambda x, t: x.astype(t.dtype), values, few)
        return trees.add(few, jax.tree.map(_sum_rows, _masked(wide, valid, zero(few))))

    def close(few):
        return trees.compensated_zero(few)._replace(high=few)

    def report(total):
        return jax.tree.map(lambda x, a: x.astype(a.dtype), total.high, abstract)

    return Aggregate(name, zero, accumulate, trees.compensated_merge, report, close)


def _sum_rows(x):
    """The sum of the rows of `[L, ...]`, by halves: one by one, a million rows lose four digits."""
    while len(x) > 1:
        rest = x[(len(x) + 1) // 2 :]
        rows = len(x) - len(rest)
        x = x[:rows] + jnp.pad(rest, [(0, rows - len(rest)), *[(0, 0)] * (x.ndim - 1)])
    # In `as_function` all clients are lanes, and there may be none.
    return x[0] if len(x) else jnp.zeros(x.shape[1:], x.dtype)


def sequential(name: str, zero, accumulate, merge, report) -> Aggregate:
    """A reduction by the user's functions, which take the lanes in order; `zero` takes no argument."""

    def accumulate_lanes(accumulator, values, valid):
        def step(carry, lane):
            value, present = lane
            new = accumulate(carry, value)
            return (new if valid is None else trees.where(present, new, carry)), None

        return lax.scan(step, accumulator, (values, valid))[0]

    return Aggregate(name, lambda value: zero(), accumulate_lanes, merge, report)


def reduce_node(operation: Aggregate, node: Node) -> Node:
    """The node at the server that reduces the clients' `node`."""
    return derive(operation, (node,), aggregated(operation, node.abstract), placement=SERVER, all_equal=True)


def aggregated(operation: Aggregate, abstract):
    """The abstract result of a reduction of abstract values."""
    return jax.eval_shape(lambda value: operation.report(operation.empty(value)), abstract)


def lowest(dtype):
    """The smallest value of a dtype (-inf for floats), the neutral element of a maximum."""
    return -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else _limits(dtype)[0]


def highest(dtype):
    """The largest value of a dtype (inf for floats), the neutral element of a minimum."""
    return jnp.inf if jnp.issubdtype(dtype, jnp.floating) else _limits(dtype)[1]


def _limits(dtype):
    return (False, True) if dtype == jnp.bool_ else (jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
