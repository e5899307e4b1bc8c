"""Metrics: `Metric(measure, finalize)` with statistics that add up over batches and clients.

  loss                                  the mean of a per-example loss
  accuracy, top_k_accuracy              of class scores `[B, C]`
  token_accuracy, perplexity            of token scores `[B, T, V]`
  num_examples, num_batches             counts

and how the clients' statistics are combined:

  finalize_sum                          of one round, stateless
  sum_then_finalize                     of this round, and of all rounds so far
  finalize_then_sample                  of single clients, a sample of them

One of your own is a function that measures a batch and one that finalizes the total:

  >>> import jax
  >>> import jax.numpy as jnp
  >>> from fedjax_core.contracts import Metric
  >>> def mean_absolute_error(label="y"):
  ...     def measure(predictions, batch, mask):
  ...         errors = jnp.abs(predictions - batch[label])
  ...         return jnp.sum(jnp.where(mask, errors, 0.0)), jnp.sum(mask, dtype=jnp.int32)
  ...
  ...     def finalize(statistic):
  ...         total, count = statistic
  ...         return total / count
  ...
  ...     return Metric(measure, finalize)
  >>> metric = mean_absolute_error()
  >>> mask = jnp.array([True, True, False])
  >>> first = metric.measure(jnp.array([1.0, 2.0, 9.0]), {"y": jnp.array([1.5, 2.0, 0.0])}, mask)
  >>> second = metric.measure(jnp.array([0.0, 0.0, 0.0]), {"y": jnp.array([1.0, 0.5, 0.0])}, mask)
  >>> metric.finalize(jax.tree.map(jnp.add, first, second))
  Array(0.5, dtype=float32)
"""

from fedjax_core.contracts import mean_loss as loss
from fedjax_core.contracts import num_examples
from fedjax_core.metrics._classification import accuracy, top_k_accuracy
from fedjax_core.metrics._counts import num_batches
from fedjax_core.metrics._finalize_then_sample import finalize_then_sample
from fedjax_core.metrics._finalizers import MetricFinalizersMismatchError
from fedjax_core.metrics._language import perplexity, token_accuracy
from fedjax_core.metrics._sum_then_finalize import finalize_sum, sum_then_finalize

__all__ = [
    "MetricFinalizersMismatchError",
    "accuracy",
    "finalize_sum",
    "finalize_then_sample",
    "loss",
    "num_batches",
    "num_examples",
    "perplexity",
    "sum_then_finalize",
    "token_accuracy",
    "top_k_accuracy",
]
