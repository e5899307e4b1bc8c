"""An aggregator as a process of its own."""

from fedjax_core import types
from fedjax_core.computations import federated_computation
from fedjax_core.contracts import Aggregator
from fedjax_core.templates import AggregationProcess


def as_process(aggregator: Aggregator, value_type, weight_type="float32") -> AggregationProcess:
    """The aggregation process of an aggregator.

    Args:
      aggregator: any aggregator.
      value_type: the type of a client's value, or its notation.
      weight_type: the type of a client's weight, or its notation.

    Returns:
      A weighted process: `next(state, values, weights)`.

    Raises:
      TypeError: `aggregator` is not an `Aggregator`, or does not fit the value and the weight.

    Example:

    >>> import fedjax_core as fc
    >>> process = as_process(fc.aggregators.mean(), "float32[2]")
    >>> str(process.next.type_signature.parameter)
    '<state=<>@SERVER,value={float32[2]}@CLIENTS,weight={float32}@CLIENTS>'
    """
    if not isinstance(aggregator, Aggregator):
        raise TypeError(f"as_process takes an Aggregator, got {aggregator!r}; call it: fc.aggregators.mean()")
    value_type, weight_type = types.to_type(value_type), types.to_type(weight_type)

    @federated_computation()
    def initialize():
        return aggregator.init(value_type)

    @federated_computation(
        initialize.type_signature.result, types.at_clients(value_type), types.at_clients(weight_type)
    )
    def next(state, value, weight):
        return aggregator.next(state, value, weight)

    return AggregationProcess(initialize, next)
