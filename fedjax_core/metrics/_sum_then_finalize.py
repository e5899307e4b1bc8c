"""Metrics whose statistics are summed over the clients, then finalized at the server."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from fedjax_core import trees, types
from fedjax_core.computations import federated_computation
from fedjax_core.contracts import MetricsAggregation
from fedjax_core.language import Placed, federated_map, federated_value, federated_zip
from fedjax_core.language.sums import count_sum, word_sum
from fedjax_core.metrics._finalizers import finalizer_of
from fedjax_core.metrics._secure_sum import secure_sum
from fedjax_core.metrics._totals import add_round, finalize_totals, zero_totals
from fedjax_core.templates import AggregationProcess, MeasuredProcessOutput
from fedjax_core.types import SERVER


def finalize_sum(finalizers: Mapping[str, Callable] | Callable, unfinalized: Placed) -> tuple[Placed, Placed]:
    """Adds the clients' statistics and finalizes the totals, inside a federated computation.

    A client with a NaN or infinity among its statistics is counted and left out. `Metric.finalize` says what becomes
    of counts whose total does not fit their dtype.

    Args:
      finalizers: `Metric.finalize` by name, or one function of all statistics.
      unfinalized: at CLIENTS, a dict of statistics by the same names.

    Returns:
      At SERVER: the dict of the metrics, and `<num_non_finite=int32>`. Without clients the metrics are those of zero
      statistics, usually NaN.

    Raises:
      TypeError: the finalizers or the statistics are of the wrong kind.
      MetricFinalizersMismatchError: their names differ.

    Example: in an aggregation of your own.

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients({"loss": ("float32", "int32")}))
    ... def aggregate(statistics):
    ...     metrics, _ = finalize_sum({"loss": lambda s: s[0] / s[1]}, statistics)
    ...     return {"mean": metrics, "worst": fc.federated_max(statistics["loss"][0])}
    >>> result = aggregate([{"loss": (3.0, 2)}, {"loss": (1.0, 2)}])
    >>> print(result["mean"]["loss"], result["worst"])
    1.0 3.0
    """
    statistics = types.member_of(unfinalized.fedjax_type)
    finalize = functools.partial(finalize_totals, finalizer_of(finalizers, statistics), types.tree_of_types(statistics))
    total, measurements = _sum(*federated_map(_keep_finite, unfinalized))
    return federated_map(finalize, total), measurements


def sum_then_finalize() -> MetricsAggregation:
    """Metrics of this round and of all rounds so far, from statistics summed over the clients.

    A client with a NaN or infinity among its statistics is counted and left out. It is TFF's
    `SumThenFinalizeFactory`.

    Returns:
      A `MetricsAggregation`. The state of its process holds the totals of all rounds, each number in two words, so
      that counts are exact to 2**63 and sums of floats do not drift. Its result is `(current round, all rounds)`,
      each a dict of metrics; it measures `num_non_finite`, int32.

    Example:

    >>> import fedjax_core as fc
    >>> statistics = fc.types.to_type({"accuracy": ("int32", "int32")})
    >>> process = sum_then_finalize().create({"accuracy": lambda s: s[0] / s[1]}, statistics)
    >>> clients = [{"accuracy": (3, 4)}, {"accuracy": (0, 1)}]
    >>> state, (current, total), _ = process.next(process.initialize(), clients)
    >>> state, (current, total), _ = process.next(state, [{"accuracy": (5, 5)}])
    >>> print(current["accuracy"], total["accuracy"])
    1.0 0.8
    """
    return _aggregation(_sum)


def secure_sum_then_finalize(ranges: Mapping[str, Any] | None = None) -> MetricsAggregation:
    """`sum_then_finalize` by secure aggregation: the server learns only sums of bounded integers.

    Every number of a client's statistics is clipped to a range; then `federated_secure_sum` and
    `federated_secure_sum_bitwidth` sum integers. The sum of integers is exact. A floating point number is rounded
    to a multiple of a step, a power of two that is at most 2**-30 of the range's larger end, which changes the
    sum by at most half a step per client. It takes fewer than 2**23 clients. It is TFF's `secure_sum_then_finalize`.

    Args:
      ranges: by metric name, the least and the greatest value of a client's statistic: a pair for all numbers of
        the statistic, or a tree of pairs in its form, or in the form of its top levels. A name that is left
        out, or None, takes the default: `(0, 2**20 - 1)` for integers, `(-(2**20 - 1), 2**20 - 1)` for
        floating point numbers, with a step of 2**-11. A range must contain zero, the statistic of a client without
        examples.

    Returns:
      A `MetricsAggregation` with the state and the result of `sum_then_finalize`. It measures, in int32,
      `num_non_finite` and, by metric name, `num_clipped`: the number of clients with a number outside its range.

    Raises:
      TypeError: `ranges` is not a dict. From `create`: a range is not a pair or does not fit the statistic's form.
      ValueError: from `create`: a range belongs to no metric, lacks zero, is not finite, or is too wide.

    Example: the second client's loss counts as 10.

    >>> import fedjax_core as fc
    >>> statistics = fc.types.to_type({"loss": ("float32", "int32")})
    >>> aggregation = secure_sum_then_finalize({"loss": ((0.0, 10.0), (0, 100))})
    >>> process = aggregation.create({"loss": lambda s: s[0] / s[1]}, statistics)
    >>> clients = [{"loss": (2.0, 4)}, {"loss": (500.0, 4)}]
    >>> _, (current, total), measurements = process.next(process.initialize(), clients)
    >>> print(current["loss"], measurements["num_clipped"]["loss"])
    1.5 1

    References:
      Bonawitz et al. 2017, Practical Secure Aggregation for Privacy-Preserving Machine Learning.
    """
    if ranges is not None and not isinstance(ranges, Mapping):
        raise TypeError(
            "secure_sum_then_finalize(ranges=...) must be a dict from metric name to range, such as "
            f"{{'loss': (0.0, 100.0)}}, got {ranges!r}"
        )
    return _aggregation(functools.partial(secure_sum, dict(ranges or {})))


def _aggregation(add: Callable) -> MetricsAggregation:
    """The aggregation from `add`, `(statistics, num_non_finite) -> (total, measurements)`, clients to server."""

    def create(metric_finalizers, local_unfinalized_metrics_type):
        statistics = types.to_type(local_unfinalized_metrics_type)
        tensors = types.tree_of_types(statistics)
        finalize = functools.partial(finalize_totals, finalizer_of(metric_finalizers, statistics), tensors)

        @federated_computation()
        def initialize():
            return federated_value(zero_totals(tensors), SERVER)

        @federated_computation(initialize.type_signature.result, types.at_clients(statistics))
        def next(totals, unfinalized):
            current, measurements = add(*federated_map(_keep_finite, unfinalized))
            totals = federated_map(add_round, totals, current)
            both = [federated_map(finalize, t) for t in (current, totals)]
            return MeasuredProcessOutput(totals, federated_zip(tuple(both)), measurements)

        return AggregationProcess(initialize, next)

    return MetricsAggregation(create)


def _keep_finite(statistics):
    """The statistics, or zeros if one is not finite; and 1 if they were left out, otherwise 0."""
    finite = trees.is_finite(statistics)
    return trees.where(finite, statistics, trees.zeros_like(statistics)), (~finite).astype(jnp.int32)


def _sum(statistics: Placed, num_non_finite: Placed) -> tuple[Placed, Placed]:
    # `federated_sum` would make every round wait, to raise an error where a count does not fit its dtype.
    return word_sum(statistics), federated_zip({"num_non_finite": count_sum(num_non_finite)})
