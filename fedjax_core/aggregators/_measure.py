"""Measurements of the updates, for finding out why a run goes wrong."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import trees
from fedjax_core.aggregators._arguments import check_one_weight, inner_or_mean
from fedjax_core.aggregators._entries import largest_entry, smallest_entry
from fedjax_core.contracts import Aggregator
from fedjax_core.language import federated_aggregate, federated_map, federated_zip
from fedjax_core.templates import MeasuredProcessOutput


def measure(inner: Aggregator | None = None) -> Aggregator:
    r"""Adds measurements for debugging to `inner`, whose result and state stay the same bit for bit.

    Over the clients `k` with a positive weight :math:`w_k`, it measures the L2 norm :math:`x_k` of the update:

    .. math:: \bar x = \frac{\sum_k w_k x_k}{\sum_k w_k}, \qquad
        s^2 = \frac{\sum_k w_k (x_k - \bar x)^2}{\sum_k w_k - \sum_k w_k^2 / \sum_k w_k}

    the mean, and the standard deviation from the unbiased variance. With equal weights these are the
    ordinary ones, with `n - 1`. Both are weighted like the mean of the updates, as in TFF.

    Args:
      inner: the aggregator to measure; None is `mean()`.

    Returns:
      An `Aggregator` with the state of `inner`. Measurements, float32 except for the count:

      * `client_norm.mean`, NaN without clients, and `client_norm.stddev`, NaN with fewer than two;
      * `client_norm.num_non_finite`, int32, the number of clients with a NaN or infinity, which are left out;
      * `server_update.norm`, L2, `server_update.largest` and `server_update.smallest`, the largest and
        the smallest absolute entry of the result;
      * `inner`.

    Raises:
      TypeError: `inner` is not an `Aggregator`.

    Example:

    >>> import fedjax_core as fc
    >>> process = fc.aggregators.as_process(measure(), "float32[2]")
    >>> output = process.next(process.initialize(), [[3.0, 4.0], [0.0, -1.0]], [1.0, 1.0])
    >>> for name, value in output.measurements["client_norm"].items():
    ...     print(f"{name} {value:.4g}")
    mean 3
    num_non_finite 0
    stddev 2.828
    >>> print(output.result, output.measurements["server_update"]["largest"])
    [1.5 1.5] 1.5

    References:
      Chan, Golub, LeVeque 1979, Updating Formulae and a Pairwise Algorithm for Computing Sample
      Variances, for the merge of two groups of clients.
    """
    inner = inner_or_mean("measure", inner)

    def next(state, value, weight):
        check_one_weight("measure", weight)
        output = inner.next(state, value, weight)
        norms = federated_map(_of_client, value, weight)
        measurements = {
            "client_norm": federated_aggregate(norms, _NOBODY, _merge, _merge, _finalize),
            "server_update": federated_map(_of_server, output.result),
            "inner": output.measurements,
        }
        return MeasuredProcessOutput(output.state, output.result, federated_zip(measurements))

    return inner._replace(next=next)


class _Moments(NamedTuple):
    """Moments of the norms of some clients, all `[]`.

    Attributes:
      number: int32, the number of clients with a positive weight.
      num_non_finite: int32, the number of clients that were left out.
      weight: the sum of their weights.
      pairs: the sum of the products of weights over all pairs of clients. It is half the difference
        between the square of the sum and the sum of squares, which would cancel.
      mean: the weighted mean of their norms.
      spread: the weighted sum of the squared distances from the mean.
    """

    number: jax.Array | np.int32
    num_non_finite: jax.Array | np.int32
    weight: jax.Array | np.float32
    pairs: jax.Array | np.float32
    mean: jax.Array | np.float32
    spread: jax.Array | np.float32


_NOBODY = _Moments(np.int32(0), np.int32(0), *[np.float32(0)] * 4)  # x64 would widen Python numbers


def _of_client(value, weight) -> _Moments:
    norm = trees.norm(value)
    finite = jnp.isfinite(norm) & jnp.isfinite(weight)
    counts = finite & (weight > 0)
    number, num_non_finite = counts.astype(jnp.int32), (~finite).astype(jnp.int32)
    weight, mean = jnp.where(counts, weight, 0.0), jnp.where(counts, norm, 0.0)
    return _Moments(number, num_non_finite, weight, jnp.float32(0), mean, jnp.float32(0))


def _merge(a: _Moments, b: _Moments) -> _Moments:
    """The moments of both groups, from the distance between their means: sums of squares would cancel."""
    weight = a.weight + b.weight
    share = b.weight / jnp.where(weight == 0, 1.0, weight)
    distance = b.mean - a.mean
    return _Moments(
        number=a.number + b.number,
        num_non_finite=a.num_non_finite + b.num_non_finite,
        weight=weight,
        pairs=a.pairs + b.pairs + a.weight * b.weight,
        mean=a.mean + distance * share,
        spread=a.spread + b.spread + distance**2 * a.weight * share,
    )


def _finalize(moments: _Moments) -> dict:
    several = moments.number > 1
    freedom = 2 * moments.pairs / jnp.where(several, moments.weight, 1.0)
    variance = moments.spread / jnp.where(several, freedom, 1.0)
    return {
        "mean": jnp.where(moments.number > 0, moments.mean, jnp.nan),
        "stddev": jnp.where(several, jnp.sqrt(variance), jnp.nan),
        "num_non_finite": moments.num_non_finite,
    }


def _of_server(update) -> dict:
    return {"norm": trees.norm(update), "largest": largest_entry(update), "smallest": smallest_entry(update)}
