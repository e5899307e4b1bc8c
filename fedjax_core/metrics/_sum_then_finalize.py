"""Metrics summed over the clients, then finalized at the server."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from fedjax_core import trees, types
from fedjax_core.computation import federated_computation
from fedjax_core.contracts import MetricsAggregation
from fedjax_core.language import Placed, federated_map, federated_sum, federated_value, federated_zip
from fedjax_core.templates import AggregationProcess, MeasuredProcessOutput
from fedjax_core.types import SERVER


def finalize_sum(finalizers: Mapping[str, Callable], unfinalized: Placed) -> tuple[Placed, Placed]:
    """Adds the clients' statistics and finalizes the totals, inside a federated computation.

    A client with a NaN or infinity among its statistics is counted and left out.

    Args:
      finalizers: `Metric.finalize` by name.
      unfinalized: at CLIENTS, a dict of statistics by the same names.

    Returns:
      At SERVER: the dict of the metrics, and `<num_non_finite=int32>`. Metrics over nobody are NaN.

    Raises:
      TypeError: the finalizers are no dict of callables.
      ValueError: their names are not those of the metrics.

    Example: in an aggregation of one's own.

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients({"loss": ("float32", "int32")}))
    ... def aggregate(statistics):
    ...     metrics, _ = finalize_sum({"loss": lambda s: s[0] / s[1]}, statistics)
    ...     return {"mean": metrics, "worst": fc.federated_max(statistics["loss"][0])}
    >>> result = aggregate([{"loss": (3.0, 2)}, {"loss": (1.0, 2)}])
    >>> print(result["mean"]["loss"], result["worst"])
    1.0 3.0
    """
    total, measurements = _sum_finite(finalizers, unfinalized)
    return federated_map(lambda total: _finalize(finalizers, total), total), measurements


def sum_then_finalize() -> MetricsAggregation:
    """Metrics of this round and of all rounds so far, from statistics summed over the clients.

    As TFF's `SumThenFinalizeFactory`.

    Returns:
      A `MetricsAggregation`. The state of its process holds the totals of all rounds; its result is
      `(current round, all rounds)`, each a dict of metrics.

    Example:

    >>> import fedjax_core as fc
    >>> statistics = fc.to_type({"accuracy": ("int32", "int32")})
    >>> process = sum_then_finalize().create({"accuracy": lambda s: s[0] / s[1]}, statistics)
    >>> clients = [{"accuracy": (3, 4)}, {"accuracy": (0, 1)}]
    >>> state, (current, total), _ = process.next(process.initialize(), clients)
    >>> state, (current, total), _ = process.next(state, [{"accuracy": (5, 5)}])
    >>> print(current["accuracy"], total["accuracy"])
    1.0 0.8
    """

    def create(metric_finalizers, local_unfinalized_metrics_type):
        zeros = trees.zeros_like(_abstract(local_unfinalized_metrics_type))

        @federated_computation()
        def initialize():
            return federated_value(zeros, SERVER)

        @federated_computation(initialize.type_signature.result, types.at_clients(local_unfinalized_metrics_type))
        def next(totals, unfinalized):
            current, measurements = _sum_finite(metric_finalizers, unfinalized)
            totals = federated_map(trees.add, totals, current)
            both = [federated_map(lambda t: _finalize(metric_finalizers, t), t) for t in (current, totals)]
            return MeasuredProcessOutput(totals, federated_zip(tuple(both)), measurements)

        return AggregationProcess(initialize, next)

    return MetricsAggregation(create)


def _abstract(type_: types.Type):
    return jax.tree.map(lambda t: jax.ShapeDtypeStruct(t.shape, t.dtype), types.tree_of_types(type_))


def _sum_finite(finalizers, unfinalized: Placed) -> tuple[Placed, Placed]:
    _check_finalizers(finalizers, unfinalized)

    def keep_finite(statistics):
        finite = trees.is_finite(statistics)
        return trees.where(finite, statistics, trees.zeros_like(statistics)), (~finite).astype(jnp.int32)

    total, num_non_finite = federated_sum(federated_map(keep_finite, unfinalized))
    return total, federated_zip({"num_non_finite": num_non_finite})


def _finalize(finalizers, total):
    return {name: finalize(total[name]) for name, finalize in finalizers.items()}


def _check_finalizers(finalizers, unfinalized: Placed):
    if not isinstance(finalizers, Mapping) or not all(map(callable, finalizers.values())):
        raise TypeError(
            f"the finalizers are a dict of functions by metric name, got {finalizers!r}; write "
            "{name: metric.finalize for name, metric in metrics.items()}"
        )
    member = unfinalized.fedjax_type.member
    names = member.names if isinstance(member, types.StructType) else member
    if not isinstance(names, tuple) or set(names) != set(finalizers):
        raise ValueError(
            f"the finalizers {sorted(finalizers)} do not have the names of the metrics, {member}; give one per metric"
        )
