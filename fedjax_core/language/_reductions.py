"""The reductions behind the aggregating operators."""

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_core import trees
from fedjax_core.language._graph import Aggregate, Node
from fedjax_core.language._placed import derive
from fedjax_core.types import SERVER


def _masked(values, valid, neutral):
    """`values` `[L, ...]` with `neutral` where a lane holds nobody."""
    if valid is None:
        return values
    # A choice, not a product with the mask: what is computed for nobody may be NaN.
    return jax.tree.map(lambda x, n: jnp.where(jnp.expand_dims(valid, range(1, x.ndim)), x, n), values, neutral)


def elementwise(name: str, neutral, combine, reduce) -> Aggregate:
    """A reduction of every entry by itself.

    Args:
      name: the operator.
      neutral: `dtype -> scalar`, what changes nothing.
      combine: `(a, b) -> a`, for example `jnp.add`.
      reduce: `(array, axis=0) -> array`, the same over the lanes.
    """

    def zero(value):
        return jax.tree.map(lambda a: jnp.full(a.shape, neutral(a.dtype), a.dtype), value)

    def accumulate(total, values, valid):
        present = _masked(values, valid, jax.tree.map(lambda x: jnp.asarray(neutral(x.dtype), x.dtype), values))

        def take(t, x):
            # `jnp.sum` widens small integers, and a loop takes no carry of another dtype. In `as_function` all
            # clients are lanes; there may be none, and a minimum of nothing is an error.
            return combine(t, reduce(x, axis=0).astype(t.dtype)) if x.shape[0] else t

        return jax.tree.map(take, total, present)

    def merge(a, b):
        return jax.tree.map(combine, a, b)

    return Aggregate(name, zero, accumulate, merge, lambda total: total)


def sequential(name: str, zero, accumulate, merge, report) -> Aggregate:
    """A reduction by the user's functions, which takes the lanes in order; `zero` takes no argument."""

    def accumulate_lanes(accumulator, values, valid):
        def step(carry, lane):
            value, present = lane
            new = accumulate(carry, value)
            return (new if valid is None else trees.where(present, new, carry)), None

        return lax.scan(step, accumulator, (values, valid))[0]

    return Aggregate(name, lambda value: zero(), accumulate_lanes, merge, report)


def reduce_node(operation: Aggregate, node: Node) -> Node:
    """The node at the server of a reduction of the clients' `node`."""
    return derive(operation, (node,), aggregated(operation, node.abstract), placement=SERVER, all_equal=True)


def aggregated(operation: Aggregate, abstract):
    """The abstract result of a reduction of abstract values."""
    return jax.eval_shape(lambda value: operation.report(operation.zero(value)), abstract)


def lowest(dtype):
    """What is below everything in a dtype; neutral to a maximum."""
    return -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else _limits(dtype)[0]


def highest(dtype):
    """What is above everything in a dtype; neutral to a minimum."""
    return jnp.inf if jnp.issubdtype(dtype, jnp.floating) else _limits(dtype)[1]


def _limits(dtype):
    return (False, True) if dtype == jnp.bool_ else (jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
