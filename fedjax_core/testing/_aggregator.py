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

_CLIENTS = 18  # more than virtual shards, and what is collected needs no padding that the budget would not hold
_LEFT_OUT = 3
_OVERHEAD = 16  # bytes that the engine needs for each client in addition to its arguments


class _Given(NamedTuple):
    """What the laws of an aggregator need in addition to its rounds.

    Attributes:
      value_type: the type of a client's value.
      mean: the mean that neutral settings should give in each round, in float64.
      neutral: the aggregator with neutral settings; None if it has none.
      finite: whether it promises finite results.
    """

    value_type: types.Type
    mean: list
    neutral: Aggregator | None
    finite: bool


def _padding(rounds: Rounds):
    """Clients that the round left out, which are all zeros with weight zero, do not change the result."""
    found = rounds.run(rounds.cases.padded)
    compare(_results(rounds.expected), _results(found), rounds.tolerance)


def _empty(rounds: Rounds):
    """A round without clients leaves a finite state."""
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
    """The result of a round without clients is finite."""
    check_finite(_results(rounds.expected)[:1], _results(rounds.run(rounds.cases.nobody)))


def _neutral(rounds: Rounds):
    """Neutral settings, if there are any, give the mean."""
    if rounds.given.neutral is None:
        return
    process = as_process(rounds.given.neutral, rounds.given.value_type)
    outputs = rounds.run_with(process, rounds.cases.usual, lanes=1, devices=1)
    found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), _results(outputs))
    compare(rounds.given.mean, found, rounds.tolerance)


def _finite_result(rounds: Rounds):
    """The result is finite, if the aggregator promises it, although some clients hold NaN and infinities."""
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
"""The laws of aggregation processes: the name and the sentence of each."""

AGGREGATOR_LAWS = sentences(_LAWS)
"""The laws of aggregators: the name and the sentence of each."""


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
    """Checks that an aggregator keeps the laws of aggregators.

    Two rounds of 18 clients with values of very different norms run on one lane of one device, and again
    under variations that must not matter. If your aggregator breaks a law by design, leave the law out of its check:
    `laws=AGGREGATOR_LAWS.keys() - {"padding"}`. To check one law alone, pass `laws="padding"`.

    Args:
      aggregator: the aggregator.
      value_type: the type of a client's value, numbers of fixed shapes, or its notation.
      neutral: the same aggregator with settings that make it a mean (a clip at infinity, no noise); None
        if there are none, in which case the law `neutral` always holds.
      weighted: whether the clients' weights differ; False gives every client the weight one.
      finite: whether the aggregator promises finite results whatever the clients hold; if not, the law
        `finite_result` always holds.
      laws: the names of the laws, from `AGGREGATOR_LAWS`.
      tolerance: the relative and absolute tolerance of floats where lanes or padding change the order of sums.

    Raises:
      AssertionError: a law is broken. The message has the name, the sentence and the difference of every broken
        law; a path such as `[1].result['w'][0]` begins with the index of the round.
      ValueError: a name in `laws` is not a law, or `value_type` has a dimension `?`.
      TypeError: `aggregator` is not an `Aggregator`, or it does not take the value.

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
    padding: Clients that the round left out, which are all zeros with weight zero, do not change the result.
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
    """Checks that an aggregation process, of values or of metrics, keeps the laws of aggregation processes.

    It is like `check_aggregator`, but for processes that were not made by `aggregators.as_process`.

    Args:
      build: a function that makes the process; it is called twice, and the two processes are compared.
      laws: the names of the laws, from `AGGREGATION_PROCESS_LAWS`.
      tolerance: the relative and absolute tolerance of floats where lanes or padding change the order of sums.

    Raises:
      AssertionError: a law is broken; see `check_aggregator`.
      ValueError: a name in `laws` is not a law, or the process takes values with a dimension `?`.
      TypeError: `build` does not return an `AggregationProcess`.

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
            "check_aggregation_process(build=...) must be a function that returns an AggregationProcess, "
            f"got {build!r}; write `lambda: process`"
        )
    (_, value_type), *weight = process.next.parameters[1:]
    values = _values(types.member_of(value_type))
    arguments = [(value, _weights(True)) if weight else (value,) for value in values]
    hold("the aggregation process", _PROCESS_LAWS, names, _make_rounds(build, arguments, tolerance, names))


def _make_rounds(build: Callable, arguments: list[tuple], tolerance: float, laws: list[str], given=None) -> Rounds:
    """The rounds of a process; `arguments` has for each round the arguments of all clients, `[C, ...]` each."""
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(arguments[0]))
    budget = num_bytes + _CLIENTS * _OVERHEAD
    return Rounds(build(), build, _cases(arguments), memory_budget=budget, tolerance=tolerance, laws=laws, given=given)


def _values(value_type: types.Type) -> list:
    """The clients' values in two rounds."""
    return [_draw(value_type, seed) for seed in (0, 1)]


def _draw(value_type: types.Type, seed: int):
    """The values of all clients, `[C, ...]` each, with norms between about 0.01 and several tens."""
    random = np.random.default_rng(seed)
    norms = np.exp(1.5 * random.normal(size=_CLIENTS))

    def draw(tensor):
        if None in tensor.shape:
            raise ValueError(
                f"the laws are checked on values of fixed shapes, got {value_type}; write numbers instead of `?`"
            )
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
    """For each round the arguments of some clients, as cohorts."""
    ids = tuple(f"client{i}" for i in clients.tolist())
    index, digests = clients.astype(np.int32), client_digests(ids)

    def cohort(value):
        return Cohort(ids, jax.tree.map(lambda x: x[clients], value), index, digests)

    return [tuple(map(cohort, arguments)) for arguments in given]


def _extended(value):
    """The value with some clients of zeros appended."""
    return jax.tree.map(lambda x: np.concatenate([x, np.zeros((_LEFT_OUT, *x.shape[1:]), x.dtype)]), value)


def _spoiled(value):
    """The value in which the floats of three clients are NaN, infinity and minus infinity."""

    def spoil(x):
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        x = x.copy()
        x[3], x[5], x[7] = np.nan, np.inf, -np.inf
        return x

    return jax.tree.map(spoil, value)
