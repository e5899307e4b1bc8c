"""Laws of aggregators."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import types
from fedjax_core.aggregators import as_process
from fedjax_core.contracts import Aggregator
from fedjax_core.engine import Cohort, client_digests
from fedjax_core.templates import AggregationProcess
from fedjax_core.testing._laws import chosen, compare, hold, sentences
from fedjax_core.testing._rounds import SHARED, Cases, Rounds, check_finite

_CLIENTS, _LEFT_OUT = 20, 3
_OVERHEAD = 16  # bytes that the engine takes for a client beside its arguments


class _Given(NamedTuple):
    """What the laws of an aggregator need besides its rounds.

    Attributes:
      value_type: the type of a client's value.
      mean: per round the mean that neutral settings should give, in float64.
      neutral: the aggregator with neutral settings; None if it has none.
      finite: whether it promises finite results.
    """

    value_type: types.Type
    mean: list
    neutral: Aggregator | None
    finite: bool


def _padding(rounds: Rounds):
    """Clients that the round left out, all zeros, with weight zero, change no result."""
    found = rounds.run(rounds.cases.padded)
    compare(_results(rounds.expected), _results(found), rounds.tolerance)


def _empty(rounds: Rounds):
    """A round of nobody leaves a state of finite numbers."""
    (output,) = rounds.run(rounds.cases.nobody)
    check_finite(rounds.expected[0].state, output.state)


def _result_type(rounds: Rounds):
    """The result has the type of a client's value, in its containers."""
    expected = rounds.given.value_type
    found = rounds.process.next.type_signature.result["result"].member
    containers, others = (jax.tree.structure(types.tree_of_types(t)) for t in (expected, found))
    if not expected.is_equivalent_to(found) or containers != others:
        raise AssertionError(f"expected {expected} in {containers}, found {found} in {others}")


def _empty_result(rounds: Rounds):
    """The result over nobody is finite."""
    check_finite(_results(rounds.expected)[:1], _results(rounds.run(rounds.cases.nobody)))


def _neutral(rounds: Rounds):
    """Neutral settings, where there are any, give the mean."""
    if rounds.given.neutral is None:
        return
    process = as_process(rounds.given.neutral, rounds.given.value_type)
    outputs = rounds.run_with(process, rounds.cases.usual, lanes=1, devices=1)
    found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), _results(outputs))
    compare(rounds.given.mean, found, rounds.tolerance)


def _finite_result(rounds: Rounds):
    """The result is finite, where that is promised, although some clients hold NaN and infinities."""
    if rounds.given.finite:
        check_finite(_results(rounds.expected), _results(rounds.run(rounds.cases.non_finite)))


def _results(outputs: list) -> list:
    return [output.result for output in outputs]


_PROCESS_LAWS = {**SHARED, "padding": _padding, "empty": _empty}

_LAWS = {
    **_PROCESS_LAWS,
    "result_type": _result_type,
    "empty_result": _empty_result,
    "neutral": _neutral,
    "finite_result": _finite_result,
}

AGGREGATION_PROCESS_LAWS = sentences(_PROCESS_LAWS)
"""What aggregation processes are held to: each law's name and what it says."""

AGGREGATOR_LAWS = sentences(_LAWS)
"""What aggregators are held to: each law's name and what it says."""


def check_aggregator(
    aggregator: Aggregator,
    value_type: Any = "<b=float32,w=float32[3]>",
    *,
    neutral: Aggregator | None = None,
    weighted: bool = True,
    finite: bool = False,
    laws: Iterable[str] | str = AGGREGATOR_LAWS,
    tolerance: float = 2e-5,
) -> None:
    """Holds an aggregator to the laws that all of them keep.

    Two rounds of 20 clients with values of very different norms run on one lane of one device, and again
    under what must not matter. An aggregator that breaks a law by design leaves it out where it is checked:
    `laws=AGGREGATOR_LAWS.keys() - {"padding"}`. One law alone is `laws="padding"`.

    Args:
      aggregator: what is checked.
      value_type: the type of a client's value, numbers of fixed shapes, or its notation.
      neutral: the same aggregator with settings that make it a mean (a clip at infinity, no noise); None
        if there are none, and then the law `neutral` says nothing.
      weighted: whether clients' weights differ; False gives every client the weight one.
      finite: whether the aggregator promises finite results whatever the clients hold; the law
        `finite_result` says nothing of others.
      laws: the names of the laws, from `AGGREGATOR_LAWS`.
      tolerance: of floats, relative and absolute, where lanes or padding change the order of sums.

    Raises:
      AssertionError: with the name, the sentence and the difference of every law that is broken; a path such
        as `[1].result['w'][0]` begins with the round.
      ValueError: there is no law of such a name, or `value_type` has a dimension `?`.
      TypeError: `aggregator` is no `Aggregator`, or does not fit the value.

    Example: a mean that forgets the weights.

    >>> import fedjax_core as fc
    >>> def uniform():
    ...     def next(state, value, weight):
    ...         nothing = fc.federated_value((), fc.SERVER)
    ...         return fc.templates.MeasuredProcessOutput(state, fc.federated_mean(value), nothing)
    ...     return fc.contracts.Aggregator(lambda value_type: fc.federated_value((), fc.SERVER), next)
    >>> check_aggregator(uniform(), "float32", laws=["order", "padding"])
    Traceback (most recent call last):
    AssertionError: the aggregator breaks 1 of 2 laws
    padding: Clients that the round left out, all zeros, with weight zero, change no result.
      [0]: expected ..., found ...
    """
    names = chosen("check_aggregator", laws, _LAWS)
    value_type = types.to_type(value_type)
    values, weights = _values(value_type), _weights(weighted)
    rounds = _make_rounds(
        lambda: as_process(aggregator, value_type),
        [(value, weights) for value in values],
        tolerance,
        names,
        _Given(value_type, [_mean(value, weights) for value in values], neutral, finite),
    )
    hold("the aggregator", _LAWS, names, rounds)


def check_aggregation_process(
    build: Callable[[], AggregationProcess],
    *,
    laws: Iterable[str] | str = AGGREGATION_PROCESS_LAWS,
    tolerance: float = 2e-5,
) -> None:
    """Holds an aggregation process, of values or of metrics, to the laws that all of them keep.

    As `check_aggregator`, for what was not made by `aggregators.as_process`.

    Args:
      build: makes the process; called twice, so that both can be compared.
      laws: the names of the laws, from `AGGREGATION_PROCESS_LAWS`.
      tolerance: of floats, relative and absolute, where lanes or padding change the order of sums.

    Raises:
      AssertionError: as `check_aggregator`.
      ValueError: there is no law of such a name, or the process takes values with a dimension `?`.
      TypeError: `build` gives no `AggregationProcess`.

    Example: the sums of the clients' statistics of a metric.

    >>> import fedjax_core as fc
    >>> statistics = fc.types.to_type({"accuracy": ("int32", "int32")})
    >>> finalizers = {"accuracy": lambda s: s[0] / s[1]}
    >>> check_aggregation_process(
    ...     lambda: fc.metrics.sum_then_finalize().create(finalizers, statistics), laws=["types", "empty"])
    """
    names = chosen("check_aggregation_process", laws, _PROCESS_LAWS)
    process = build() if callable(build) else None
    if not isinstance(process, AggregationProcess):
        raise TypeError(
            f"check_aggregation_process(build=...) makes an AggregationProcess, got {build!r}; write `lambda: process`"
        )
    (_, value_type), *weight = process.next.parameters[1:]
    values = _values(types.member_of(value_type))
    arguments = [(value, _weights(True)) if weight else (value,) for value in values]
    hold("the aggregation process", _PROCESS_LAWS, names, _make_rounds(build, arguments, tolerance, names))


def _make_rounds(build: Callable, arguments: list[tuple], tolerance: float, laws: list[str], given=None) -> Rounds:
    """The rounds of a process, for per round the arguments of all clients, `[C, ...]` each."""
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(arguments[0]))
    budget = num_bytes + _CLIENTS * _OVERHEAD
    return Rounds(build(), build, _cases(arguments), memory_budget=budget, tolerance=tolerance, laws=laws, given=given)


def _values(value_type: types.Type) -> list:
    """The clients' values in two rounds."""
    return [_draw(value_type, seed) for seed in (0, 1)]


def _draw(value_type: types.Type, seed: int):
    """The values of all clients, `[C, ...]` each, of norms from some hundredths to some tens."""
    random = np.random.default_rng(seed)
    norms = np.exp(1.5 * random.normal(size=_CLIENTS))

    def draw(tensor):
        if None in tensor.shape:
            raise ValueError(f"the laws are checked on values of fixed shapes, got {value_type}; put numbers for `?`")
        shape = (_CLIENTS, *tensor.shape)
        if jnp.issubdtype(tensor.dtype, jnp.inexact):
            each = norms.reshape(-1, *(1 for _ in tensor.shape))
            return (each * random.normal(size=shape)).astype(tensor.dtype)
        return random.integers(0, 10, shape).astype(tensor.dtype)

    return jax.tree.map(draw, types.tree_of_types(value_type))


def _weights(weighted: bool) -> np.ndarray:
    if not weighted:
        return np.ones(_CLIENTS, np.float32)
    return np.random.default_rng(2).integers(1, 10, _CLIENTS).astype(np.float32)


def _mean(values, weights: np.ndarray):
    wide = weights.astype(np.float64)
    return jax.tree.map(lambda v: np.tensordot(wide, v.astype(np.float64), 1) / wide.sum(), values)


def _cases(arguments: list[tuple]) -> Cases:
    everyone = np.arange(_CLIENTS)
    return Cases(
        usual=_rounds(arguments, everyone),
        reordered=_rounds(arguments, np.random.default_rng(3).permutation(_CLIENTS)),
        padded=_rounds([_extended(a) for a in arguments], np.arange(_CLIENTS + _LEFT_OUT)),
        nobody=_rounds(arguments[:1], everyone[:0]),
        non_finite=_rounds([(_spoiled(arguments[0][0]), *arguments[0][1:]), *arguments[1:]], everyone),
    )


def _rounds(given: list[tuple], clients: np.ndarray) -> list[tuple]:
    """Per round the arguments of some clients as cohorts."""
    ids = tuple(f"client{i}" for i in clients.tolist())
    index, digests = clients.astype(np.int32), client_digests(ids)

    def cohort(value):
        return Cohort(ids, jax.tree.map(lambda x: x[clients], value), index, digests)

    return [tuple(map(cohort, arguments)) for arguments in given]


def _extended(value):
    """The value with some clients of zeros behind the others."""
    return jax.tree.map(lambda x: np.concatenate([x, np.zeros((_LEFT_OUT, *x.shape[1:]), x.dtype)]), value)


def _spoiled(value):
    """The value with three clients of NaN, infinity and minus infinity, where it has floats."""

    def spoil(x):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        x = x.copy()
        x[3], x[5], x[7] = np.nan, np.inf, -np.inf
        return x

    return jax.tree.map(spoil, value)
