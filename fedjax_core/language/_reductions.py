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
    return jax.eval_shape(lambda value: operation.report(operation.zero(value)), abstract)


def lowest(dtype):
    """The smallest value of a dtype (-inf for floats), the neutral element of a maximum."""
    return -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else _limits(dtype)[0]


def highest(dtype):
    """The largest value of a dtype (inf for floats), the neutral element of a minimum."""
    return jnp.inf if jnp.issubdtype(dtype, jnp.floating) else _limits(dtype)[1]


def _limits(dtype):
    return (False, True) if dtype == jnp.bool_ else (jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
