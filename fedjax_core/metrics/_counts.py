"""Metrics that count."""

import jax.numpy as jnp

from fedjax_core.contracts import Metric


def num_batches() -> Metric:
    """The number of batches with at least one example.

    Returns:
      A `Metric` whose statistic and value are the count, int32 `[]`; 2**31 - 1 stands for all larger totals.

    Example:
      >>> metric = num_batches()
      >>> metric.finalize(metric.measure(None, {}, jnp.array([True, True, False])))
      Array(1, dtype=int32)
    """

    def measure(predictions, batch, mask):
        return jnp.any(mask).astype(jnp.int32)

    return Metric(measure, lambda statistic: statistic)
