"""The laws of every `federated_aggregate` inside a computation."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from fedjax_core.computations import Computation, federated_computation
from fedjax_core.engine import EngineConfig
from fedjax_core.language import federated_collect, federated_map
from fedjax_core.language.graph import Aggregate, Node, Placed, ancestors, is_made_by, is_placed, node_of
from fedjax_core.testing._laws import chosen, compare, hold, sentences


class Merges(NamedTuple):
    """What a `federated_aggregate` reports of accumulators `a`, `b`, `c`, ... of one client each.

    Attributes:
      where: its `merge`, and where that was written.
      alone: of `a`, for every client; `[C, ...]` as the two below.
      zero_first: of `merge(zero, a)`.
      zero_last: of `merge(a, zero)`.
      from_left: of `merge(merge(a, b), c)`, for every client and the two after it, and at last of all clients.
      from_right: of `merge(a, merge(b, c))`, likewise.
    """

    where: str
    alone: Any
    zero_first: Any
    zero_last: Any
    from_left: tuple
    from_right: tuple


class Merged(Protocol):
    """What the laws take."""

    @property
    def merges(self) -> list[Merges]:
        """The merges of every `federated_aggregate`."""
        ...

    tolerance: float


def merges_of(computation: Computation, arguments: list[tuple]) -> list[Merges]:
    """The merges of every `federated_aggregate` inside a computation, on the clients of each of some calls."""
    operations: list[Aggregate] = []

    def accumulators(*args):
        leaves = jax.tree.leaves(computation(*args), is_leaf=is_placed)
        nodes = [n for n in ancestors(map(node_of, filter(is_placed, leaves))) if is_made_by(n, Aggregate)]
        nodes = [n for n in nodes if n.operation.name == "federated_aggregate"]
        operations.extend(n.operation for n in nodes)
        return [federated_collect(federated_map(_of_one_client(n), Placed(n.inputs[0]))) for n in nodes]

    collected = federated_computation(accumulators, *(type_ for _, type_ in computation.parameters))
    if not operations:
        return []
    collected = collected.with_config(EngineConfig(lanes=1, devices=1))
    merged = [jax.jit(functools.partial(_merged, operation)) for operation in operations]
    rows = [call for args in arguments for call in zip(operations, merged, collected(*args), strict=True)]
    return [Merges(_written(op.merge), *merge(a)) for op, merge, a in rows if len(jax.tree.leaves(a)[0])]


def _of_one_client(node: Node[Aggregate]) -> Callable:
    operation = node.operation

    def accumulate(value):
        lane = jax.tree.map(lambda x: x[None], value)
        return operation.close(operation.accumulate(operation.zero(value), lane, None))

    return accumulate


def _merged(operation: Aggregate, accumulators) -> tuple:
    """What `Merges` has, besides `where`."""
    merge, report = operation.merge, operation.report
    zero = operation.empty(None)

    # Row by row, not vmapped: the engine calls these functions for one accumulator at a time.
    def of_one(a):
        return report(a), report(merge(zero, a)), report(merge(a, zero))

    def of_three(accumulators):
        a, b, c = accumulators
        return report(merge(merge(a, b), c)), report(merge(a, merge(b, c)))

    after = [jax.tree.map(lambda x, n=n: jnp.roll(x, -n, 0), accumulators) for n in (1, 2)]
    left, right = lax.map(of_three, (accumulators, *after))
    first, last = (jax.tree.map(lambda x, i=i: x[i], accumulators) for i in (0, -1))
    but_first, but_last = (jax.tree.map(lambda x, s=s: x[s], accumulators) for s in (slice(1, None), slice(-1)))
    all_left = lax.scan(lambda total, a: (merge(total, a), None), first, but_first)[0]
    all_right = lax.scan(lambda total, a: (merge(a, total), None), last, but_last, reverse=True)[0]
    return *lax.map(of_one, accumulators), (left, report(all_left)), (right, report(all_right))


def _written(fn: Callable) -> str:
    """A function's name, and the file and line where it was written."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    fn = inspect.unwrap(fn)
    code = getattr(fn, "__code__", None)
    return f"{fn.__name__} ({code.co_filename}:{code.co_firstlineno})" if code else getattr(fn, "__name__", repr(fn))


def _zero(subject: Merged):
    """The `zero` of every `federated_aggregate` changes nothing: merge(zero, a) and merge(a, zero) are a."""
    repaired = "start from a zero that changes nothing, such as 0.0 for a sum and -inf for a maximum"
    for merges in subject.merges:
        _compare("merge(zero, a)", merges, merges.alone, merges.zero_first, subject.tolerance, repaired)
        _compare("merge(a, zero)", merges, merges.alone, merges.zero_last, subject.tolerance, repaired)


def _associative(subject: Merged):
    """The `merge` of every `federated_aggregate` is associative: merge(merge(a, b), c) is merge(a, merge(b, c))."""
    repaired = "merge what can be grouped in any way, such as (sum, number) for a mean, and divide in `report`"
    for merges in subject.merges:
        left, right = merges.from_left, merges.from_right
        _compare("merge(a, merge(b, c))", merges, left[0], right[0], subject.tolerance, repaired)
        _compare(
            "merges of all clients from the last to the first", merges, left[1], right[1], subject.tolerance, repaired
        )


def _compare(what: str, merges: Merges, expected: Any, found: Any, tolerance: float, repaired: str):
    try:
        compare(expected, found, tolerance)
    except AssertionError as error:
        raise AssertionError(f"report of {what} by {merges.where}: {error}; {repaired}") from None


AGGREGATE_LAW_FUNCTIONS = {"zero": _zero, "associative": _associative}
"""The laws, as functions."""

AGGREGATE_LAWS = sentences(AGGREGATE_LAW_FUNCTIONS)
"""The laws of every `federated_aggregate`: the name and the sentence of each."""


class _OneCall(NamedTuple):
    merges: list[Merges]
    tolerance: float


def check_aggregates(
    computation: Computation,
    *arguments: Any,
    laws: Iterable[str] | str = AGGREGATE_LAWS,
    tolerance: float = 2e-5,
) -> None:
    """Checks that every `federated_aggregate` inside a computation has an identity and an associative merge.

    The engine merges clients in groups, along a tree that depends on how many there are. Results are right only if
    `merge(zero, a)` and `merge(a, zero)` are `a` and `merge(merge(a, b), c)` is `merge(a, merge(b, c))`, floats up to
    rounding. The laws are checked on the accumulators of the clients of one call, by what `report` makes of them.
    `check_aggregator`, `check_aggregation_process` and `check_learning_process` check them, too.

    Args:
      computation: a federated computation.
      *arguments: its arguments as in a call, with at least three clients.
      laws: the names of the laws, from `AGGREGATE_LAWS`.
      tolerance: the relative and absolute tolerance of floats.

    Raises:
      AssertionError: a law is broken. The message has the name, the sentence and the difference of every broken law,
        and says where the `merge` was written.
      ValueError: a name in `laws` is not a law, or there is no `federated_aggregate` in the computation, or no client
        in the call.

    Example: half of a sum is no average, and depends on how the clients are grouped.

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("float32"))
    ... def mean(values):
    ...     halve = lambda a, b: (a + b) / 2
    ...     return fc.federated_aggregate(values, 0.0, lambda a, v: a + v, halve, lambda a: a)
    >>> check_aggregates(mean, [1.0, 2.0, 4.0], laws="associative")
    Traceback (most recent call last):
    AssertionError: the computation breaks 1 of 1 laws
    associative: The `merge` of every ... is associative: merge(merge(a, b), c) is merge(a, merge(b, c)).
      report of merge(a, merge(b, c)) by <lambda> (...): [0]: expected 2.75, found 2.0, and 2 more of 3 entries; ...
    """
    names = chosen("check_aggregates", laws, AGGREGATE_LAW_FUNCTIONS)
    merges = merges_of(computation, [arguments])
    if not merges:
        raise ValueError(
            "check_aggregates takes a computation with a `federated_aggregate` and a call with at least one client, "
            f"got {computation.name} and none; leave the check out"
        )
    hold("the computation", AGGREGATE_LAW_FUNCTIONS, names, _OneCall(merges, tolerance))
