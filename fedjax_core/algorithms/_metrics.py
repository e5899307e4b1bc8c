"""The aggregation of the clients' metrics, as an aggregation process."""

from collections.abc import Callable
from typing import Any

import jax

from fedjax_core import types
from fedjax_core.algorithms._checks import placed
from fedjax_core.clients import abstract_statistics
from fedjax_core.computations import Computation, PolymorphicComputation, federated_computation
from fedjax_core.contracts import MetricsAggregation, Model
from fedjax_core.language import Placed, federated_value
from fedjax_core.metrics import finalize_sum
from fedjax_core.model_calls import model_metrics
from fedjax_core.templates import AggregationProcess, MeasuredProcessOutput
from fedjax_core.types import SERVER


def metrics_process(model: Model, metrics_aggregation: Any = None) -> AggregationProcess:
    """Makes the process that combines the clients' statistics of a model's metrics.

    Args:
      model: the model.
      metrics_aggregation: None to finalize the summed statistics; a federated computation from the statistics at
        CLIENTS to metrics at SERVER; a `MetricsAggregation` such as `metrics.sum_then_finalize()` or
        `metrics.finalize_then_sample(key=key)`; or an `AggregationProcess`.

    Returns:
      An `AggregationProcess` without a weight.

    Raises:
      TypeError: `metrics_aggregation` is none of these, or it does not take the model's statistics.

    Example:

    >>> import fedjax_core as fc
    >>> process = metrics_process(fc.models.logistic_regression(2, 3))
    >>> str(process.next.type_signature.result["result"])
    '<loss=float32,num_examples=int32>@SERVER'
    """
    finalizers = {name: metric.finalize for name, metric in model_metrics(model).items()}
    statistics = types.type_of(abstract_statistics(model))
    match metrics_aggregation:
        case AggregationProcess():
            _check_takes(metrics_aggregation, statistics)
            return metrics_aggregation
        case MetricsAggregation():
            return metrics_aggregation.create(finalizers, statistics)
        case Computation() | PolymorphicComputation():
            return _stateless(statistics, lambda unfinalized: (metrics_aggregation(unfinalized), ()))
        case None:
            return _stateless(statistics, lambda unfinalized: finalize_sum(finalizers, unfinalized))
    raise TypeError(
        "metrics_aggregation must be a federated computation of the clients' metrics, a MetricsAggregation, an "
        f"AggregationProcess or None, got {metrics_aggregation!r}; decorate a function with @fc.federated_computation"
    )


def _check_takes(process: AggregationProcess, statistics: types.Type):
    taken = [type_ for _, type_ in process.next.parameters[1:]]
    if len(taken) > 1 or not taken[0].is_assignable_from(types.at_clients(statistics)):
        raise TypeError(
            f"metrics_aggregation must take the statistics of the model's metrics, {types.at_clients(statistics)}, "
            f"without a weight, got an AggregationProcess of {', '.join(map(str, taken))}; declare its value as "
            f"fc.at_clients({str(statistics)!r})"
        )


def _stateless(statistics: types.Type, aggregate) -> AggregationProcess:
    @federated_computation()
    def initialize():
        return federated_value((), SERVER)

    @federated_computation(initialize.type_signature.result, types.at_clients(statistics))
    def next(state, unfinalized):
        result, measurements = (placed(part) for part in aggregate(unfinalized))
        return MeasuredProcessOutput(state, result, measurements)

    return AggregationProcess(initialize, next)


def report(by: Callable, result: Placed, measurements: Placed, **counts: Placed) -> Placed:
    """The metrics at SERVER by `by_rounds` or `by_name`, with the measurements of the aggregation and `counts`.

    Measurements in a dict are reported field by field. If the metrics are a pair of current and total ones, and the
    measurements have one number for each current metric, then these are counts of clients and are reported as
    `num_non_finite`. Metrics may be trimmed rows, with which nothing can be computed, so they are only taken apart and
    put together.
    """
    metrics, measured = parts(result), parts(measurements)
    if _is_pair(metrics) and _same_structure(metrics[0], measurements):
        measured = {"num_non_finite": measurements}
    named, added = by(metrics), (measured if isinstance(measured, dict) else {}) | counts
    if repeated := sorted(named.keys() & added.keys()):
        raise ValueError(
            f"a metric may not be named {repeated[0]!r}, which counts the clients of the round; give it another name: "
            f"metrics={{'own_{repeated[0]}': ...}}"
        )
    return placed({**named, **added})


def parts(value: Placed) -> Any:
    """A placed struct as a struct of placed values; any other placed value unchanged."""
    member = types.member_of(value.fedjax_type)
    return member.pack(value) if isinstance(member, types.StructType) else value


def _same_structure(a: Placed, b: Placed) -> bool:
    first, second = (jax.tree.structure(types.tree_of_types(types.member_of(x.fedjax_type))) for x in (a, b))
    return first == second and first.num_leaves > 0


def by_rounds(result: Any) -> dict:
    """The result of a metrics aggregation as a dict by the rounds that it covers.

    Args:
      result: a pair of the metrics of this round and those of all rounds so far; anything else is the metrics of
        this round.

    Example:

    >>> by_rounds(({"loss": 1.0}, {"loss": 2.0}))
    {'current_round_metrics': {'loss': 1.0}, 'total_rounds_metrics': {'loss': 2.0}}
    """
    return dict(zip(("current_round_metrics", "total_rounds_metrics"), result if _is_pair(result) else (result,)))


def by_name(result: Any) -> dict:
    """The result of a metrics aggregation by name: a dict unchanged, a pair by rounds, anything else as `metrics`.

    Example:

    >>> by_name({"loss": 1.0}), by_name(3)
    ({'loss': 1.0}, {'metrics': 3})
    """
    if isinstance(result, dict):
        return result
    return by_rounds(result) if _is_pair(result) else {"metrics": result}


def _is_pair(result: Any) -> bool:
    return isinstance(result, tuple) and len(result) == 2
