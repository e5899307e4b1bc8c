"""A metric for each domain."""

import functools

import jax
import jax.numpy as jnp

from fedjax_core import _checks
from fedjax_core.contracts import Metric
from fedjax_core.metrics import _labels


def per_domain(metric: Metric, num_domains: int, domain: str = "domain") -> Metric:
    """A metric, separately for each domain.

    Args:
      metric: the metric.
      num_domains: `D`.
      domain: the batch's field with the domain of each example, integers `[B]` from 0 to
        `D - 1`. An example of any other domain is not counted.

    Returns:
      A `Metric` whose statistic and value are those of `metric` with a leading axis `D`.

    Raises:
      TypeError: `metric` is not a `Metric`, or `num_domains` is not an integer; when measured, if the domains are not
        integers.
      ValueError: `num_domains` is not positive; when measured, if the domains are not `[B]`.

    Example: the last domain has no example.
      >>> from fedjax_core import metrics
      >>> metric = per_domain(metrics.accuracy(), num_domains=3)
      >>> batch = {"y": jnp.array([1, 1, 0]), "domain": jnp.array([0, 1, 1])}
      >>> scores = jnp.array([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3]])
      >>> print(metric.finalize(metric.measure(scores, batch, jnp.ones(3, bool))))
      [1.  0.5 nan]
    """
    if not isinstance(metric, Metric):
        raise TypeError(f"per_domain(metric, ...) takes a Metric, got {metric!r}; call it: fc.metrics.accuracy()")
    _checks.check_integer("per_domain(num_domains=...)", num_domains, 1, "write num_domains=2")

    @functools.wraps(metric.measure, updated=())  # whose module tells whether padding has to be tried on it
    def measure(predictions, batch, mask):
        domains = batch[domain]
        _labels.check_integers("per_domain", domains, domain, "B")

        def measure_one(number):
            return metric.measure(predictions, batch, mask & (domains == number))

        return jax.vmap(measure_one)(jnp.arange(num_domains))

    return Metric(measure, jax.vmap(metric.finalize))
