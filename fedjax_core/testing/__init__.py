"""Laws that your own aggregator, metric or algorithm can be checked against in your tests.

  check_aggregator            an `Aggregator`
  check_aggregation_process   an `AggregationProcess`, of metrics for example
  check_metric                a `Metric`
  check_learning_process      an algorithm
  check_aggregates            every `federated_aggregate` in a computation

`debug_client` runs one client of a round step by step and says where its result first stops being finite.

Each check raises an `AssertionError` with the name and the sentence of every broken law, the expected and the
found value; it needs no test framework. The laws are `AGGREGATOR_LAWS`, `AGGREGATION_PROCESS_LAWS`,
`METRIC_LAWS`, `LEARNING_PROCESS_LAWS` and `AGGREGATE_LAWS`, dicts from name to sentence. If yours breaks a law by
design, leave the law out explicitly: `laws=METRIC_LAWS.keys() - {"additive"}`.

The law `devices` needs several devices, which a CPU provides with
`XLA_FLAGS=--xla_force_host_platform_device_count=2`.

  >>> import fedjax_core as fc
  >>> fc.testing.check_aggregator(fc.aggregators.mean(), "float32", neutral=fc.aggregators.mean())
"""

from fedjax_core._signposts import signpost
from fedjax_core.testing._aggregates import AGGREGATE_LAWS, check_aggregates
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
    "AGGREGATE_LAWS",
    "AGGREGATION_PROCESS_LAWS",
    "AGGREGATOR_LAWS",
    "LEARNING_PROCESS_LAWS",
    "METRIC_LAWS",
    "NonFinite",
    "check_aggregates",
    "check_aggregation_process",
    "check_aggregator",
    "check_learning_process",
    "check_metric",
    "debug_client",
]

signpost(__name__)
