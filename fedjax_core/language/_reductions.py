"""The reductions behind the aggregating operators."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_core import trees
from fedjax_core.language import _words
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


@dataclasses.dataclass(frozen=True)
class LeafSum:
    """How one leaf of a value is summed over the clients, entry by entry.

    Attributes:
      zero: `leaf -> running`, the empty total of a leaf of this shape and dtype (it reads no entry).
      add: `(running, lanes [L, ...]) -> running`, where empty lanes are zero, and `L` may be zero.
      merge: `(total, total) -> total`, associative, with `close(zero(leaf))` as its identity.
      report: `total -> sum`.
      close: `running -> total`, after a few clients.
    """

    zero: Callable
    add: Callable
    merge: Callable
    report: Callable = lambda total: total
    close: Callable = lambda running: running


# A few clients are added up in one float: to read and write both words for every client would cost a small model
# several percent of a round.
IN_TWO_FLOATS = LeafSum(
    zero=lambda leaf: trees.compensated_zero(leaf).high,
    add=lambda few, lanes: few + _sum_rows(lanes.astype(few.dtype)),
    merge=trees.compensated_merge,
    report=lambda total: total.high,
    close=lambda few: trees.compensated_zero(few)._replace(high=few),
)
"""The sum of floats: the total is a `trees.CompensatedSum`. Integers are added in at least 32 bits and wrap around."""

IN_WORDS = LeafSum(
    zero=lambda leaf: _words.zero_words(leaf.shape, leaf.dtype),
    add=lambda total, lanes: _words.added(total, _words.summed(_words.widened(lanes))),
    merge=_words.added,
)
"""The exact sum of integers: total and sum are `Words`."""


class Summands:
    """The leaves of a value by groups that are summed as one array each.

    Each array that is accumulated, merged and reported takes kernels of its own, which XLA compiles for far longer than
    the sums take. So small leaves that are summed in the same way are joined (see `trees.is_small`).

    Attributes:
      kinds: the `LeafSum` of each group.
    """

    def __init__(self, kinds: list[LeafSum], abstract: list):
        self._abstract = abstract
        groups: dict[Any, list[int]] = {}
        for i, (kind, leaf) in enumerate(zip(kinds, abstract)):
            groups.setdefault((kind, leaf.dtype) if trees.is_small(leaf) else i, []).append(i)
        self._groups = [part for group in groups.values() for part in self._worth_it(group)]
        self.kinds = [kinds[group[0]] for group in self._groups]

    def _worth_it(self, group: list[int]) -> list[list[int]]:
        """The leaves that are joined: all if there are many, otherwise only the scalars (see `trees.are_many`)."""
        arrays = [i for i in group if self._abstract[i].shape]
        if trees.are_many(arrays) or not arrays:
            return [group]
        numbers = [i for i in group if not self._abstract[i].shape]
        return [*([i] for i in arrays), *([numbers] if numbers else [])]

    def abstract(self, leaves: list) -> list:
        """The shape and dtype of each group, for leaves of these shapes."""
        return [jax.eval_shape(self._joined, [leaves[i] for i in group]) for group in self._groups]

    def join(self, leaves: list) -> list:
        """The leaves `[L, ...]` as an array `[L, ...]` for each group."""
        return [jax.vmap(self._joined)([leaves[i] for i in group]) for group in self._groups]

    def _joined(self, leaves: list):
        return leaves[0] if len(leaves) == 1 else jnp.concatenate([leaf.reshape(-1) for leaf in leaves])

    def split(self, sums: list) -> list:
        """The sum of each leaf from those of the groups."""
        leaves = {}
        for group, total in zip(self._groups, sums):
            leaves |= zip(group, [total] if len(group) == 1 else self._parts(group, total))
        return [leaves[i] for i in range(len(leaves))]

    def _parts(self, group: list[int], total) -> list:
        shapes = [self._abstract[i].shape for i in group]
        ends = itertools.accumulate(map(math.prod, shapes), initial=0)
        return [_part(total, start, shape) for start, shape in zip(ends, shapes)]


def _part(total, start: int, shape: tuple):
    return jax.tree.map(lambda x: x[start : start + math.prod(shape)].reshape(shape), total)


def leaf_sums(name: str, kinds, abstract, report: Callable = lambda sums: sums) -> Aggregate:
    """A sum of every leaf in its own way.

    Args:
      name: the operator.
      kinds: the `LeafSum` of each leaf, in a tree like the value.
      abstract: the clients' abstract values.
      report: from the tree of sums to the result.
    """
    structure = jax.tree.structure(abstract)
    summands = Summands(structure.flatten_up_to(kinds), jax.tree.leaves(abstract))

    def each(fn_of: Callable) -> Callable:
        return lambda *totals: [fn_of(kind)(*args) for kind, *args in zip(summands.kinds, *totals)]

    def zero(value):
        return each(lambda kind: kind.zero)(summands.abstract(jax.tree.leaves(value)))

    def accumulate(running, values, valid):
        lanes = summands.join(jax.tree.leaves(values))
        return each(lambda kind: kind.add)(running, _masked(lanes, valid, [jnp.zeros((), x.dtype) for x in lanes]))

    def report_all(totals):
        return report(structure.unflatten(summands.split(each(lambda kind: kind.report)(totals))))

    operation = Aggregate(name, zero, accumulate, each(lambda k: k.merge), report_all, each(lambda k: k.close))
    return dataclasses.replace(operation, sums=(kinds, abstract, report))


def joint_sums(operations: tuple[Aggregate, ...]) -> Aggregate:
    """One reduction of the tuple of the values that `operations`, all from `leaf_sums`, reduce."""
    kinds, abstract, reports = zip(*(operation.sums for operation in operations))
    return leaf_sums("sums", kinds, abstract, lambda sums: tuple(f(s) for f, s in zip(reports, sums)))


def summed(name: str, abstract, integers: LeafSum = IN_TWO_FLOATS) -> Aggregate:
    """The sum of numbers, in the dtypes of the value where it is not `Words`."""

    def report(totals):
        def leaf(a, total):
            return total if isinstance(total, _words.Words) else total.astype(a.dtype)

        return jax.tree.map(leaf, abstract, totals)

    return leaf_sums(name, kinds(abstract, integers), abstract, report)


def kinds(abstract, integers: LeafSum):
    """The `LeafSum` of each leaf, with `integers` for those that are not floats."""
    return jax.tree.map(lambda a: integers if jnp.issubdtype(a.dtype, jnp.integer) else IN_TWO_FLOATS, abstract)


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
