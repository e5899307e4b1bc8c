"""Metrics: `Metric(measure, finalize)` with statistics that add up over batches and clients.

  loss                                  the mean of a per-example loss
  accuracy, top_k_accuracy              for class scores `[B, C]`
  precision, recall, f1                 for class scores `[B, C]`, or for scores `[B]` and a threshold; also for
                                        examples of several classes (`multilabel`)
  confusion_matrix                      for class scores `[B, C]`
  roc_auc                               for scores `[B]`
  mean_absolute_error, mean_squared_error, r_squared
                                        for numbers `[B, ...]`
  token_accuracy, perplexity            for token scores `[B, T, V]`
  out_of_vocabulary_rate, truncation_rate, sequence_length, num_tokens, num_sequences
                                        for tokens `[B, T]`
  num_examples, num_batches             counts
  per_domain                            any of them, separately for each value of a field of the batch
  from_mergeable                        a metric of another library, with `empty`, `merge` and `compute`

and how the clients' statistics are combined:

  finalize_sum                          totals of one round, stateless
  sum_then_finalize                     totals of this round, and of all rounds so far
  secure_sum_then_finalize              the same, by secure sums of clipped integers
  client_distribution                   mean, standard deviation and quantiles over the clients
  finalize_then_sample                  the metrics of single clients, for a sample of them

A metric of your own is a function that measures a batch and one that finalizes the total:

  >>> import jax
  >>> import jax.numpy as jnp
  >>> from fedjax_core.contracts import Metric
  >>> def bias(label="y"):
  ...     def measure(predictions, batch, mask):
  ...         errors = predictions - batch[label]
  ...         return jnp.sum(jnp.where(mask, errors, 0.0)), jnp.sum(mask, dtype=jnp.int32)
  ...
  ...     def finalize(statistic):
  ...         total, count = statistic
  ...         return total / count
  ...
  ...     return Metric(measure, finalize)
  >>> metric = bias()
  >>> mask = jnp.array([True, True, False])
  >>> first = metric.measure(jnp.array([1.0, 2.0, 9.0]), {"y": jnp.array([1.5, 2.0, 0.0])}, mask)
  >>> second = metric.measure(jnp.array([0.0, 0.0, 0.0]), {"y": jnp.array([1.0, 0.5, 0.0])}, mask)
  >>> metric.finalize(jax.tree.map(jnp.add, first, second))
  Array(-0.5, dtype=float32)
"""

from fedjax_core._signposts import signpost
from fedjax_core.metrics._adapting import from_mergeable
from fedjax_core.metrics._classification import accuracy, confusion_matrix, top_k_accuracy
from fedjax_core.metrics._client_distribution import client_distribution
from fedjax_core.metrics._counts import num_batches
from fedjax_core.metrics._domains import per_domain
from fedjax_core.metrics._finalize_then_sample import finalize_then_sample
from fedjax_core.metrics._finalizers import MetricFinalizersMismatchError
from fedjax_core.metrics._language import out_of_vocabulary_rate, perplexity, token_accuracy
from fedjax_core.metrics._precision_recall import f1, precision, recall
from fedjax_core.metrics._regression import mean_absolute_error, mean_squared_error, r_squared
from fedjax_core.metrics._roc_auc import roc_auc
from fedjax_core.metrics._sequences import num_sequences, num_tokens, sequence_length, truncation_rate
from fedjax_core.metrics._sum_then_finalize import finalize_sum, secure_sum_then_finalize, sum_then_finalize
from fedjax_core.model_calls import mean_loss as loss
from fedjax_core.model_calls import num_examples

__all__ = [
    "MetricFinalizersMismatchError",
    "accuracy",
    "client_distribution",
    "confusion_matrix",
    "f1",
    "finalize_sum",
    "finalize_then_sample",
    "from_mergeable",
    "loss",
    "mean_absolute_error",
    "mean_squared_error",
    "num_batches",
    "num_examples",
    "num_sequences",
    "num_tokens",
    "out_of_vocabulary_rate",
    "per_domain",
    "perplexity",
    "precision",
    "r_squared",
    "recall",
    "roc_auc",
    "secure_sum_then_finalize",
    "sequence_length",
    "sum_then_finalize",
    "token_accuracy",
    "top_k_accuracy",
    "truncation_rate",
]

signpost(__name__)
