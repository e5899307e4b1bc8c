"""Laws that any aggregator, metric or algorithm can be checked against, in a test of one's own.

  check_aggregator            an `Aggregator`
  check_aggregation_process   an `AggregationProcess`, of metrics for example
  check_metric                a `Metric`
  check_learning_process      an algorithm

`debug_client` runs one client of a round step by step and tells where its result is not finite first.

Each raises an `AssertionError` that names every law that is broken, says what it says, and shows what was
expected and what was found; it needs no test framework. The laws are `AGGREGATOR_LAWS`,
`AGGREGATION_PROCESS_LAWS`, `METRIC_LAWS` and `LEARNING_PROCESS_LAWS`, dicts from name to sentence. What breaks a
law by design leaves it out, in sight: `laws=METRIC_LAWS.keys() - {"additive"}`.

The law `devices` needs several, which a CPU shows with
`XLA_FLAGS=--xla_force_host_platform_device_count=2`.

  >>> import fedjax_core as fc
  >>> fc.testing.check_aggregator(fc.aggregators.mean(), "float32", neutral=fc.aggregators.mean())
"""

from fedjax_core._signposts import signpost
from fedjax_core.testing._aggregator import (
    AGGREGATION_PROCESS_LAWS,
    AGGREGATOR_LAWS,
    check_aggregation_process,
    check_aggregator,
)
from fedjax_core.testing._debug import NonFinite, debug_client
from fedjax_core.testing._learning import LEARNING_PROCESS_LAWS, check_learning_process
from fedjax_core.testing._metric import METRIC_LAWS, check_metric

__all__ = [
    "AGGREGATION_PROCESS_LAWS",
    "AGGREGATOR_LAWS",
    "LEARNING_PROCESS_LAWS",
    "METRIC_LAWS",
    "NonFinite",
    "check_aggregation_process",
    "check_aggregator",
    "check_learning_process",
    "check_metric",
    "debug_client",
]

signpost(__name__)
