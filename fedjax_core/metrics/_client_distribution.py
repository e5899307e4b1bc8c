"""The distribution of metrics over the clients."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core import _checks, trees, types
from fedjax_core.computations import federated_computation
from fedjax_core.contracts import MetricsAggregation
from fedjax_core.language import Placed, federated_aggregate, federated_map, federated_value
from fedjax_core.language.sums import count_sum
from fedjax_core.metrics._arguments import check_names, check_range, is_real_number
from fedjax_core.metrics._finalizers import finalizer_of
from fedjax_core.templates import AggregationProcess, MeasuredProcessOutput
from fedjax_core.types import SERVER


def client_distribution(
    ranges: Mapping[str, tuple[float, float]] | None = None,
    quantiles: Iterable[float] = (0.25, 0.5, 0.75),
    num_bins: int = 1000,
) -> MetricsAggregation:
    r"""Mean, standard deviation and quantiles, over the clients, of the value that each client finalizes.

    Every client counts alike, whatever its number of examples. A value that is not finite (such as the
    accuracy of a client without examples) is left out and counted, entry by entry if a metric has
    several.

    Mean and standard deviation result from merging `(count, mean, sum of squared distances from the mean)`,
    which does not cancel as sums of squares do. Quantiles result from counting the clients in bins of equal
    width: the quantile at `q` is less than a bin's width from the smallest value that at least a fraction `q`
    of the clients do not exceed. A client outside the range is counted in the first or the last bin.

    Args:
      ranges: by metric name, the range in which quantiles are resolved; a metric without a range has no
        quantiles.
      quantiles: numbers from 0 to 1.
      num_bins: the number of bins in a range.

    Returns:
      A `MetricsAggregation` without state. The result of its process is, by metric name, a dict of

      * `mean`, float32, NaN without clients;
      * `stddev`, float32, the root of the unbiased variance (`n - 1`), NaN with fewer than two clients;
      * `num_clients`, int32, the number of clients that count;
      * for a metric with a range, `quantiles`, float32 with a leading axis over `quantiles`, NaN without clients;

      each with the shape of the metric's value. Measurements, by metric name: `num_non_finite`, the number of
      clients with an entry that is not finite, and, for a metric with a range, `num_outside`, the number with an
      entry outside it.

    Raises:
      TypeError, ValueError: an argument is of the wrong kind or out of range. From `create`: the finalizers are
        not those of the metrics, a range belongs to no metric, or a value is not real.

    Example: in an evaluation, use it as `fed_eval(model, client_distribution({"accuracy": (0.0, 1.0)}))`.

    >>> import fedjax_core as fc
    >>> statistics = fc.types.to_type({"accuracy": ("float32", "float32")})
    >>> aggregation = client_distribution({"accuracy": (0.0, 1.0)}, quantiles=(0.5,), num_bins=10)
    >>> process = aggregation.create({"accuracy": lambda s: s[0] / s[1]}, statistics)
    >>> clients = [{"accuracy": pair} for pair in ((1.0, 4.0), (1.0, 2.0), (3.0, 4.0), (0.0, 0.0))]
    >>> _, result, measurements = process.next(process.initialize(), clients)
    >>> for name, value in result["accuracy"].items():
    ...     print(name, value)
    mean 0.5
    num_clients 3
    quantiles [0.55]
    stddev 0.25
    >>> print(measurements["num_non_finite"]["accuracy"])
    1

    References:
      Chan, Golub and LeVeque 1983, Algorithms for Computing the Sample Variance: Analysis and
      Recommendations (the pairwise update).
    """
    ranges, quantiles = _checked(ranges, quantiles, num_bins)

    def create(metric_finalizers, local_unfinalized_metrics_type):
        statistics = types.to_type(local_unfinalized_metrics_type)
        finalize = finalizer_of(metric_finalizers, statistics)

        @federated_computation()
        def initialize():
            return federated_value((), SERVER)

        @federated_computation(initialize.type_signature.result, types.at_clients(statistics))
        def next(state, unfinalized):
            values = federated_map(lambda unfinalized: _real(finalize(unfinalized)), unfinalized)
            _check_by_name(values, ranges)
            counts = count_sum(federated_map(lambda v: _count(v, ranges, num_bins), values))
            result = federated_map(lambda m, c: _describe(m, c, ranges, quantiles), _moments(values), counts)
            return MeasuredProcessOutput(state, result, federated_map(_measure, counts))

        return AggregationProcess(initialize, next)

    return MetricsAggregation(create)


class _Counts(NamedTuple):
    """The counts of a client, by metric name.

    Attributes:
      num_non_finite: int32 `[]`, 1 if an entry is not finite.
      num_outside: int32 `[]`, 1 if an entry is outside the range, for the metrics with one.
      bins: a tree like the value, int32 `[..., num_bins]`, for the metrics with a range.
    """

    num_non_finite: dict
    num_outside: dict
    bins: dict


class _Moments(NamedTuple):
    """Moments of a metric's entry over some clients; arrays hold those of many entries.

    Attributes:
      count: int32, the number of clients that count.
      mean: float32.
      spread: float32, the sum of the squared distances from the mean.
    """

    count: jax.Array
    mean: jax.Array
    spread: jax.Array


def _check_by_name(values: Placed, ranges: dict):
    member = types.member_of(values.fedjax_type)
    if not isinstance(member, types.StructType) or not isinstance(types.tree_of_types(member), dict):
        raise TypeError(
            f"client_distribution takes metrics by name, got a finalizer of all metrics that returns {member}"
        )
    check_names("client_distribution(ranges=...)", ranges, member.names)


def _real(values: Any) -> Any:
    """The metrics in float32."""

    def leaf(x):
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jnp.complexfloating):
            raise TypeError(f"client_distribution takes real metrics, got {x.dtype}; finalize to jnp.abs(value)")
        return x.astype(jnp.float32)

    return jax.tree.map(leaf, values)


def _moments(values: Placed) -> Placed:
    """The tree of `_Moments` over the clients of a tree of values."""
    of_one = federated_map(lambda tree: jax.tree.map(_of_one, tree), values)
    shapes = types.tree_of_types(types.member_of(of_one.fedjax_type))
    zero = trees.zeros_like(jax.tree.map(lambda t: jax.ShapeDtypeStruct(t.shape, t.dtype), shapes))

    def merge(a, b):
        return jax.tree.map(_merge, a, b, is_leaf=lambda node: isinstance(node, _Moments))

    return federated_aggregate(of_one, zero, merge, merge, lambda moments: moments)


def _of_one(x) -> _Moments:
    finite = jnp.isfinite(x)
    return _Moments(finite.astype(jnp.int32), jnp.where(finite, x, 0.0), jnp.zeros_like(x))


def _merge(a: _Moments, b: _Moments) -> _Moments:
    count = a.count + b.count
    share = b.count.astype(jnp.float32) / jnp.maximum(count, 1).astype(jnp.float32)
    distance = b.mean - a.mean
    spread = a.spread + b.spread + distance**2 * a.count.astype(jnp.float32) * share
    return _Moments(count, a.mean + distance * share, spread)


def _count(values: dict, ranges: dict[str, tuple[float, float]], num_bins: int) -> _Counts:
    return _Counts(
        {name: (~trees.is_finite(value)).astype(jnp.int32) for name, value in values.items()},
        {name: _is_outside(values[name], *ends) for name, ends in ranges.items()},
        {name: _bins(values[name], *ends, num_bins) for name, ends in ranges.items()},
    )


def _is_outside(value, lower: float, upper: float):
    outside = [jnp.any(jnp.isfinite(x) & ((x < lower) | (x > upper))) for x in jax.tree.leaves(value)]
    return jnp.any(jnp.array(outside, bool)).astype(jnp.int32)


def _bins(value, lower: float, upper: float, num_bins: int):
    """The bin of every entry, one-hot, int32 `[..., num_bins]`; all zeros where the entry is not finite."""

    def leaf(x):
        finite = jnp.isfinite(x)
        place = (jnp.clip(jnp.where(finite, x, lower), lower, upper) - lower) * (num_bins / (upper - lower))
        index = jnp.minimum(place.astype(jnp.int32), num_bins - 1)
        return jax.nn.one_hot(index, num_bins, dtype=jnp.int32) * finite[..., None].astype(jnp.int32)

    return jax.tree.map(leaf, value)


def _describe(moments: dict, counts: _Counts, ranges: dict, quantiles: tuple[float, ...]) -> dict:
    def of_metric(name):
        described = _columns(moments[name])
        if name in ranges:
            lower, upper = ranges[name]
            described["quantiles"] = jax.tree.map(lambda b: _quantiles(b, lower, upper, quantiles), counts.bins[name])
        return described

    return {name: of_metric(name) for name in moments}


def _columns(moments) -> dict:
    def each(fn):
        return jax.tree.map(fn, moments, is_leaf=lambda node: isinstance(node, _Moments))

    def stddev(m: _Moments):
        several = m.count > 1
        variance = m.spread / jnp.where(several, m.count - 1, 1).astype(jnp.float32)
        return jnp.where(several, jnp.sqrt(variance), jnp.nan)

    return {
        "mean": each(lambda m: jnp.where(m.count > 0, m.mean, jnp.nan)),
        "stddev": each(stddev),
        "num_clients": each(lambda m: m.count),
    }


def _quantiles(bins, lower: float, upper: float, quantiles: tuple[float, ...]):
    """The quantiles `[Q, ...]` of the clients counted in bins `[..., num_bins]`."""
    up_to = jnp.cumsum(bins, axis=-1)
    count = up_to[..., -1].astype(jnp.float32)
    width = (upper - lower) / bins.shape[-1]

    def quantile(q):
        # Slightly less, since rounding could lift a whole rank to the next one.
        rank = jnp.maximum(jnp.ceil(q * count * (1 - 3e-7)), 1.0)
        index = jnp.sum(up_to.astype(jnp.float32) < rank[..., None], axis=-1)
        index = jnp.minimum(index, bins.shape[-1] - 1)[..., None]
        last, inside = (jnp.take_along_axis(x, index, axis=-1)[..., 0] for x in (up_to, bins))
        # The clients of a bin are assumed to lie evenly in it.
        part = (rank - (last - inside).astype(jnp.float32) - 0.5) / inside.astype(jnp.float32)
        return jnp.where(count > 0, lower + width * (index[..., 0].astype(jnp.float32) + part), jnp.nan)

    return jnp.stack([quantile(q) for q in quantiles])


def _measure(counts: _Counts) -> dict:
    return {"num_non_finite": counts.num_non_finite, "num_outside": counts.num_outside}


def _checked(ranges, quantiles, num_bins) -> tuple[dict, tuple[float, ...]]:
    if ranges is not None and not isinstance(ranges, Mapping):
        rule, repair = "a dict from metric name to range", "write ranges={'accuracy': (0.0, 1.0)}"
        raise TypeError(_checks.message("client_distribution(ranges=...)", rule, ranges, repair))
    for name, range in (ranges or {}).items():
        check_range(f"client_distribution(ranges={{{name!r}: ...}})", range)
    quantiles = tuple(quantiles) if isinstance(quantiles, Iterable) else (quantiles,)
    rule = f"client_distribution(quantiles=...) must be numbers from 0 to 1, such as (0.5,), got {quantiles!r}"
    if not quantiles or not all(map(is_real_number, quantiles)):
        raise TypeError(rule)
    if not all(0 <= q <= 1 for q in quantiles):
        raise ValueError(rule)
    _checks.check_integer("client_distribution(num_bins=...)", num_bins, 1, "write num_bins=1000")
    return dict(ranges or {}), quantiles
