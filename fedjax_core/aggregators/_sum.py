"""The sum."""

from fedjax_core.contracts import Aggregator
from fedjax_core.language import federated_sum, federated_value
from fedjax_core.templates import MeasuredProcessOutput
from fedjax_core.types import SERVER


def sum() -> Aggregator:
    r"""The sum :math:`\sum_k v_k` over the clients `k`; their weights are not used.

    It is a `federated_sum`, so a call raises ValueError if a sum of integers does not fit.

    Returns:
      An `Aggregator` without state or measurements.

    Example:

    >>> import fedjax_core as fc
    >>> process = fc.aggregators.as_process(fc.aggregators.sum(), "float32")
    >>> process.next(process.initialize(), [1.0, 4.0], [1.0, 2.0]).result
    Array(5., dtype=float32)
    """

    def next(state, value, weight):
        return MeasuredProcessOutput(state, federated_sum(value), federated_value((), SERVER))

    return Aggregator(lambda value_type: federated_value((), SERVER), next)
