"""The weighted mean by sums that secure aggregation can compute: those of bounded integers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import _checks, trees, types
from fedjax_core.aggregators._arguments import check_entries, check_one_weight
from fedjax_core.aggregators._bounds import as_bound
from fedjax_core.aggregators._entries import largest_entry
from fedjax_core.aggregators._quantile import quantile_estimate
from fedjax_core.computations import federated_computation
from fedjax_core.contracts import Aggregator
from fedjax_core.language import (
    federated_broadcast,
    federated_map,
    federated_secure_sum,
    federated_secure_sum_bitwidth,
    sums,
)
from fedjax_core.templates import EstimationProcess, MeasuredProcessOutput

_LARGEST = float(np.finfo(np.float32).max)


def secure_mean(bound: float | EstimationProcess | None = None, *, max_weight: float = 2.0**20 - 1) -> Aggregator:
    r"""The weighted mean :math:`\sum_k w_k v_k / \sum_k w_k`, of which the server sees only sums of bounded integers.

    Every entry of :math:`w_k v_k` is clipped to the range from :math:`-b` to :math:`b`, rounded to a multiple of
    :math:`2^{e-31}` with :math:`b < 2^e \le 2 b`, and sent as four digits of eight bits. The weight is clipped and
    rounded alike before it is applied, so that the result is the mean with the rounded weights. Everything is added
    by `federated_secure_sum_bitwidth` and `federated_secure_sum`, exactly, for up to :math:`2^{23}` clients. What
    crosses is thus what a protocol of secure aggregation would add up; the simulation itself encrypts nothing.

    A client with a NaN or infinity in its value or its weight contributes zero with weight zero and is counted. A total
    weight of zero gives a zero result, as in `mean()`. Rounding has no gradient. `robust(secure_mean())` is the stack
    that TFF recommends.

    Args:
      bound: the bound :math:`b` on the absolute entries of a value times its weight. Or an `EstimationProcess` that
        reports it: it receives the largest absolute entry of each client's weighted value, and NaN for clients whose
        weight is zero. None is twice the .95 quantile of these entries, which starts at 50 and moves by a factor of
        up to e per round, as in TFF.
      max_weight: the largest weight; a larger one counts as this one, and a negative one as zero. Weights are rounded
        to multiples of :math:`2^{-31}` times the next power of two, so write `max_weight=1.0` for fractions.

    Returns:
      An `Aggregator` of trees of floats. Its state is that of the bound's process. Measurements: `bound`, float32, the
      bound of this round; `num_clipped`, int32, the number of clients of which an entry or the weight was clipped;
      `num_non_finite`, int32; `mean_value.norm`, `mean_weight.total` and `mean_weight.num_zero` as in `mean()`; and
      `mean_value.rounding`, float32, the most by which an entry may differ from the mean because it was rounded.

    Raises:
      TypeError: an argument is of the wrong kind; when built for a value that does not consist of floats.
      ValueError: a number is not positive, or `max_weight` is not from 1e-6 to 2**30.

    Example: the mean of 500 and 700. The first bound clips both, the third one only the second.

    >>> import fedjax_core as fc
    >>> process = fc.aggregators.as_process(secure_mean(), "float32")
    >>> state = process.initialize()
    >>> for _ in range(4):
    ...     output = process.next(state, [500.0, 700.0], [1.0, 1.0])
    ...     state = output.state
    ...     print(f"{output.measurements['bound']:.1f} {output.measurements['num_clipped']} {output.result:.1f}")
    100.0 2 100.0
    258.6 2 258.6
    668.6 1 584.3
    1728.8 0 600.0

    References:
      Bonawitz et al. 2017, Practical Secure Aggregation for Privacy-Preserving Machine Learning (CCS).
      TensorFlow Federated, `tff.learning.secure_aggregator`, for the settings of the estimate.
    """
    repair = "write secure_mean(100.0), or secure_mean() for a bound that adapts"
    process = _adaptive() if bound is None else as_bound("secure_mean(bound=...)", bound, repair)
    rule = _checks.Rule("a number from 1e-6 to 2**30", lambda weight: 1e-6 <= weight <= 2**30)
    weight_bound = np.float32(
        _checks.checked_number("secure_mean(max_weight=...)", max_weight, rule, "write max_weight=1.0")
    )

    def init(value_type):
        check_entries("secure_mean", value_type, "floats", (jnp.floating,))
        return process.initialize()

    def next(state, value, weight):
        check_one_weight("secure_mean", weight)
        reported = process.report(state)
        limited = federated_map(_finite, reported)
        sent = federated_map(functools.partial(_encode, weight_bound), value, weight, federated_broadcast(limited))
        totals = federated_secure_sum_bitwidth(sent["digits"], 8)
        counts = federated_secure_sum(sent["counts"], 1)
        dtypes = jax.tree.map(lambda tensor: tensor.dtype, types.tree_of_types(types.member_of(value.fedjax_type)))
        decode = functools.partial(_decode, dtypes, weight_bound)
        result, measured = federated_map(decode, totals, counts, limited)
        measurements = federated_map(lambda bound, measured: {"bound": bound, **measured}, reported, measured)
        return MeasuredProcessOutput(process.next(state, sent["size"]), result, measurements)

    return Aggregator(init, next)


def _adaptive() -> EstimationProcess:
    estimate = quantile_estimate(initial=50.0, target_quantile=0.95, learning_rate=1.0, secure_estimation=True)

    @federated_computation(types.at_server("float32"))
    def twice(estimate):
        return federated_map(lambda estimate: 2 * estimate, estimate)

    return estimate.map(twice)


def _finite(bound):
    """The bound, with the largest number in place of infinity: a product of value and weight may overflow."""
    return jnp.minimum(bound, _LARGEST)


def _step(bound):
    """A power of two, normal in float32, for which the range from `-bound` to `bound` has fewer than 2**32 steps."""
    _, exponent = jnp.frexp(jnp.maximum(bound, 2.0**-95))
    return jnp.where(jnp.isnan(bound), jnp.nan, jnp.ldexp(jnp.float32(1), exponent - 31))


def _encode(max_weight, value, weight, bound) -> dict:
    """What a client sends: the digits of its weighted value and of its weight, and ones to count it by."""
    finite = trees.is_finite((value, weight))
    value, weight = trees.where(finite, (value, weight), trees.zeros_like((value, weight)))
    within = jnp.clip(weight.astype(jnp.float32), 0, max_weight)
    weight_steps = jnp.round(within / _step(max_weight))
    rounded = weight_steps * _step(max_weight)
    weighted = jax.tree.map(lambda v: v.astype(jnp.float32) * rounded, value)
    size = largest_entry(weighted)
    steps = jax.tree.map(lambda v: jnp.round(jnp.clip(v, -bound, bound) / _step(bound)), weighted)
    flags = {"num_clients": True, "num_clipped": ~(size <= bound) | (weight != within), "num_non_finite": ~finite}
    return {
        "digits": {"value": jax.tree.map(_digits, steps), "weight": _digits(weight_steps)},
        "counts": jax.tree.map(lambda flag: jnp.asarray(flag, jnp.int32), flags),
        "size": jnp.where(rounded > 0, size, jnp.nan),
    }


def _decode(dtypes, max_weight, totals: dict, counts: dict, bound) -> tuple:
    """The mean and its measurements, from the sums of what the clients sent."""
    weight = _sum_of(totals["weight"], counts["num_clients"])
    divisor = jnp.where(weight == 0, 1, weight)

    def mean_of(digits, dtype):
        # In this order no intermediate result overflows where the mean does not.
        return (_sum_of(digits, counts["num_clients"]) / divisor * _step(bound) / _step(max_weight)).astype(dtype)

    result = jax.tree.map(mean_of, totals["value"], dtypes)
    half_steps = jnp.where(weight == 0, 0.0, counts["num_clients"].astype(jnp.float32) / 2)
    measured_value = {"norm": trees.norm(result), "rounding": half_steps / divisor * _step(bound) / _step(max_weight)}
    measured_weight = {"total": weight * _step(max_weight), "num_zero": (weight == 0).astype(jnp.int32)}
    counted = {name: counts[name] for name in ("num_clipped", "num_non_finite")}
    return result, {**counted, "mean_value": measured_value, "mean_weight": measured_weight}


_ORIGIN = np.uint32(2**31)
"""What is added to a number of steps, from -(2**31) to 2**31 - 1, so that it is not negative."""


def _digits(steps):
    return sums.digits(jax.lax.bitcast_convert_type(steps.astype(jnp.int32), jnp.uint32) + _ORIGIN)


def _sum_of(digits, num_clients):
    """The clients' total number of steps, in float32, from the sums of their digits."""
    shift = num_clients.astype(jnp.uint32) * sums.digits(jnp.full(digits.shape[:-1], _ORIGIN))
    return sums.as_float(sums.from_digits(jax.lax.bitcast_convert_type(digits - shift, jnp.int32)))
