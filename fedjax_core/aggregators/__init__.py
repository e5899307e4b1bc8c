"""Aggregators: how the clients' updates become one.

  mean, sum                   the weighted mean; the sum
  each                        one aggregator for each field of the updates
  clip_by_norm                scales down updates longer than a bound, which is fixed or estimated
  zero_large                  replaces updates that are far too large by zero
  quantile_estimate           estimates a bound from round to round
  robust                      zeroing and clipping with recommended settings
  measure                     measurements for debugging
  median, trimmed_mean        the middle of each coordinate, without the extremes
  private_mean, AdaptiveNorm  the mean with differential privacy for every client; see the room `privacy`
  secure_mean, secure_modular_sum
                              the mean and the sum as secure aggregation computes them, from bounded integers
  quantize                    rounds what the clients send to a few levels, without bias
  compress                    sends the updates through any compressor
  reservoir_sample            a uniform sample of the clients' values, from this round and from all rounds
  as_process                  any aggregator as an AggregationProcess

An aggregator is `contracts.Aggregator(init, next)`, a NamedTuple of pure functions over placed values.
One wraps another by calling it. This one takes the sign of every entry before `inner` sees it:

  >>> import jax
  >>> import jax.numpy as jnp
  >>> import fedjax_core as fc
  >>> def sign(inner):
  ...     def next(state, value, weight):
  ...         signs = fc.federated_map(lambda v: jax.tree.map(jnp.sign, v), value)
  ...         return inner.next(state, signs, weight)
  ...     return inner._replace(next=next)
  >>> process = as_process(sign(mean()), "float32")
  >>> process.next(process.initialize(), [5.0, -1.0, 2.0], [1.0, 1.0, 2.0]).result
  Array(0.5, dtype=float32)
"""

from fedjax_core._signposts import signpost
from fedjax_core.aggregators._clipping import clip_by_norm
from fedjax_core.aggregators._each import each
from fedjax_core.aggregators._mean import mean
from fedjax_core.aggregators._measure import measure
from fedjax_core.aggregators._median import median, trimmed_mean
from fedjax_core.aggregators._modular_sum import secure_modular_sum
from fedjax_core.aggregators._private_mean import AdaptiveNorm, private_mean
from fedjax_core.aggregators._process import as_process
from fedjax_core.aggregators._quantile import quantile_estimate
from fedjax_core.aggregators._quantize import compress, quantize
from fedjax_core.aggregators._reservoir import reservoir_sample
from fedjax_core.aggregators._robust import robust
from fedjax_core.aggregators._secure_mean import secure_mean
from fedjax_core.aggregators._sum import sum
from fedjax_core.aggregators._zeroing import zero_large

__all__ = [
    "AdaptiveNorm",
    "as_process",
    "clip_by_norm",
    "compress",
    "each",
    "mean",
    "measure",
    "median",
    "private_mean",
    "quantile_estimate",
    "quantize",
    "reservoir_sample",
    "robust",
    "secure_mean",
    "secure_modular_sum",
    "sum",
    "trimmed_mean",
    "zero_large",
]

signpost(__name__)
