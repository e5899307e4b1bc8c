"""Aggregators: how the clients' updates become one.

  mean        the weighted mean
  sum         the sum
  as_process  any aggregator as an AggregationProcess

An aggregator is `contracts.Aggregator(init, next)`, a NamedTuple of pure functions over placed values;
one wraps another by calling it. This one takes the sign of every entry before `inner` sees it:

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

from fedjax_core.aggregators._mean import mean
from fedjax_core.aggregators._process import as_process
from fedjax_core.aggregators._sum import sum

__all__ = ["as_process", "mean", "sum"]
