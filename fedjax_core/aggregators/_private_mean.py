"""The mean with differential privacy for every client."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import _checks, trees, types
from fedjax_core.aggregators._arguments import check_entries, check_one_weight
from fedjax_core.aggregators._bounds import at_least_zero, finite_slope
from fedjax_core.aggregators._clipping import norm_without_overflow, scale_to
from fedjax_core.aggregators._quantile import quantile_estimate
from fedjax_core.contracts import Aggregator
from fedjax_core.language import federated_broadcast, federated_map, federated_sum, federated_value, federated_zip
from fedjax_core.templates import EstimationProcess, MeasuredProcessOutput
from fedjax_core.types import SERVER

_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


class AdaptiveNorm(NamedTuple):
    r"""A clipping norm that follows a quantile of the clients' norms, for `private_mean`.

    Attributes:
      initial: the norm of the first round.
      target_quantile: the fraction of clients that should not be clipped.
      learning_rate: the learning rate of the estimate, see `quantile_estimate`.
      noise_stddev: the standard deviation of the noise on the number of clients below the norm, in
        clients; None for a twentieth of the cohort. It must exceed half of the noise multiplier.
      geometric_update: whether the norm moves by factors; False for steps in the unit of the norms.

    Example: clipping at the median of the norms, starting from 0.1.

    >>> import jax, fedjax_core as fc
    >>> aggregator = fc.aggregators.private_mean(AdaptiveNorm(), 1.0, cohort_size=100, key=jax.random.key(0))
    >>> sorted(fc.aggregators.as_process(aggregator, "float32[2]").initialize())
    ['estimate', 'key', 'round_num']
    """

    initial: float = 0.1
    target_quantile: float = 0.5
    learning_rate: float = 0.2
    noise_stddev: float | None = None
    geometric_update: bool = True


def private_mean(
    max_norm: float | AdaptiveNorm, noise_multiplier: float, cohort_size: float, *, key: jax.Array
) -> Aggregator:
    r"""The uniform mean over the clients, with Gaussian noise that hides each single client.

    .. math:: \frac 1 m \Big(\sum_k v_k \min(1, c / \|v_k\|) + \mathcal N(0, z^2 c^2 I)\Big)

    for the clipping norm :math:`c`, the noise multiplier :math:`z` and the cohort size :math:`m`. The norm
    is the L2 norm of the whole value, all leaves together. One client moves the sum by at most
    :math:`c` if it is added or removed, and by :math:`2c` if another takes its place; the room `privacy`
    computes what that costs.

    Settings that would void the guarantee are not configurable. All clients weigh the same: only whether a
    client's weight is positive counts. A client of weight zero, which has processed no example,
    sends zero, and so does one with a NaN or infinity in its value. The denominator is `cohort_size`,
    whoever takes part. The noise is added in every round, even without clients, and the result always
    counts (`always_releases`). Every leaf and every round draws from a key of its own. The measurements
    reveal nothing beyond the result.

    This is left to you: the metrics of the clients' training are not protected, nor is an estimate
    without noise around this mean, such as `clip_by_norm(quantile_estimate(...), private_mean(...))`. Whatever a
    client work of your own takes from the clients besides the update, through `extra`, through a value that its `run`
    shares or in its `commit`, is not noised either; `compose` warns about the first two, and refuses a model with
    running state.

    With `AdaptiveNorm` the clipping norm follows a quantile of the clients' norms, through a noised count of those
    below it. Count and sum together cost as much as the sum alone would with the noise multiplier :math:`z`:
    the sum uses :math:`(z^{-2} - (2 \sigma_b)^{-2})^{-1/2}` in its place, where :math:`\sigma_b` is the
    standard deviation of the noise on the count.

    Args:
      max_norm: the clipping norm: positive, or `math.inf` if there is no noise. Or an `AdaptiveNorm`.
      noise_multiplier: the standard deviation of the noise on the sum, as a multiple of the clipping
        norm. Zero adds no noise and protects nobody: with `max_norm=math.inf` and a full cohort the result
        is the uniform mean.
      cohort_size: the number of clients in a round; under Poisson sampling, the expected number.
      key: a JAX key, consumed: the noise of all rounds is drawn from it.

    Returns:
      An `Aggregator` of trees of floats. State: `key`, which never changes, `round_num`, and the
      `estimate` of an adaptive norm. Measurements, float32: `mean_value.norm`, the L2 norm of the result;
      `max_norm`, the clipping norm of this round; `noise_stddev`, the standard deviation of the noise on an
      entry of the result.

    Raises:
      TypeError: an argument is of the wrong kind; when built for a value that does not consist of floats.
      ValueError: a number is out of range, there is noise without clipping, or the count has too little noise.

    Example: two clients, each clipped to norm 1, and noise with a standard deviation of 0.5.

    >>> import jax, numpy as np, fedjax_core as fc
    >>> aggregator = private_mean(max_norm=1.0, noise_multiplier=1.0, cohort_size=2, key=jax.random.key(0))
    >>> process = fc.aggregators.as_process(aggregator, "float32[2]")
    >>> clients = np.array([[3.0, 4.0], [0.0, 0.5]], np.float32)
    >>> output = process.next(process.initialize(), clients, [1.0, 1.0])
    >>> error = output.result - np.array([0.3, 0.65])
    >>> bool(0 < abs(error).max() < 5 * 0.5), float(output.measurements["noise_stddev"])
    (True, 0.5)

    References:
      McMahan et al. 2018, Learning Differentially Private Recurrent Language Models (arXiv:1710.06963),
      algorithm 1 with the fixed-denominator estimator. Andrew et al. 2021, Differentially Private Learning
      with Adaptive Clipping (arXiv:1905.03871), algorithm 1 and section 2.1.
    """
    _check_numbers(noise_multiplier, cohort_size)
    _checks.check_key("private_mean(key=...)", key)
    noise_multiplier, cohort_size = float(noise_multiplier), float(cohort_size)
    noise_key, count_key = jax.random.split(key)
    if isinstance(max_norm, AdaptiveNorm):
        count_stddev, sum_multiplier = _split_noise(max_norm.noise_stddev, noise_multiplier, cohort_size)
        estimate, fixed = _norm_estimate(max_norm, count_stddev, cohort_size, count_key), None
    else:
        _check_max_norm(max_norm, noise_multiplier)
        sum_multiplier, estimate, fixed = noise_multiplier, None, np.float32(max_norm)

    def init(value_type):
        check_entries("private_mean", value_type, "floats", (jnp.floating,))
        state = {"key": federated_value(noise_key, SERVER), "round_num": federated_value(np.int32(0), SERVER)}
        return federated_zip(state | ({"estimate": estimate.initialize()} if estimate else {}))

    def next(state, value, weight):
        check_one_weight("private_mean", weight)
        bound = estimate.report(state["estimate"]) if estimate else federated_value(fixed, SERVER)
        clipped, norms = federated_map(_clip, value, weight, federated_broadcast(bound))
        release = functools.partial(_release, _dtypes(value), sum_multiplier, cohort_size)
        round_key = federated_map(jax.random.fold_in, state["key"], state["round_num"])
        result, measurements = federated_map(release, federated_sum(clipped), bound, round_key)
        new = {"key": state["key"], "round_num": federated_map(lambda number: number + 1, state["round_num"])}
        new |= {"estimate": estimate.next(state["estimate"], norms)} if estimate else {}
        return MeasuredProcessOutput(federated_zip(new), result, measurements)

    return Aggregator(init, next, always_releases=True, noise_multiplier=noise_multiplier)


def _dtypes(value):
    return jax.tree.map(lambda tensor: tensor.dtype, types.tree_of_types(value.fedjax_type.member))


def _clip(value, weight, max_norm):
    """A client's term of the sum, in float32 at least, and its norm before clipping: NaN if it adds nothing."""
    wide = trees.widen(value)
    norm = finite_slope(norm_without_overflow)(wide)
    # If the norm is finite, so is every entry; if it is not, it may have overflowed.
    finite = jax.lax.cond(jnp.isfinite(norm), lambda: jnp.array(True), lambda: trees.is_finite(value))
    counts = (weight > 0) & finite
    kept, norm = trees.where(counts, (wide, norm), trees.zeros_like((wide, norm)))
    beyond = jnp.isinf(norm) & jnp.isfinite(max_norm)
    clipped = trees.where(beyond, _scaled_far(kept, max_norm), scale_to(kept, norm, max_norm))
    return clipped, jnp.where(counts, norm, jnp.nan)


def _scaled_far(value, max_norm):
    """Finite entries whose norm does not fit float32, scaled to the norm `max_norm`."""
    # XLA would join both factors into one, which is zero in float32.
    small = jax.lax.optimization_barrier(trees.scale(value, 2.0**-80))
    return trees.scale(small, max_norm / jnp.maximum(trees.norm(small), 1.0))


def _release(dtypes, noise_multiplier, cohort_size, total, max_norm, key):
    """The noised sum divided by the cohort size, and its measurements."""
    stddev = noise_multiplier * max_norm if noise_multiplier else jnp.zeros((), jnp.float32)

    def noised_mean(total, key, dtype):
        noise = stddev.astype(total.dtype) * jax.random.normal(key, total.shape, total.dtype)
        return ((total + noise) / cohort_size).astype(dtype)

    result = jax.tree.map(noised_mean, total, trees.split_key(key, total), dtypes)
    measured = {
        "mean_value": {"norm": trees.norm(result)},
        "max_norm": max_norm,
        "noise_stddev": stddev / cohort_size,
    }
    return result, measured


def _norm_estimate(norm: AdaptiveNorm, count_stddev: float, cohort_size: float, key) -> EstimationProcess:
    estimate = quantile_estimate(
        norm.initial,
        norm.target_quantile,
        norm.learning_rate,
        geometric_update=norm.geometric_update,
        noise_stddev=count_stddev,
        cohort_size=cohort_size,
        key=key,
    )
    return at_least_zero(estimate)


def _split_noise(count_stddev, noise_multiplier: float, cohort_size: float) -> tuple[float, float]:
    """The standard deviation of the noise on the count, and the noise multiplier that remains for the sum."""
    if count_stddev is None:
        count_stddev = cohort_size / 20
    needed = noise_multiplier / 2
    rule = _checks.Rule(
        f"finite and more than half of the noise multiplier, {needed}, since the count costs a part of the privacy",
        lambda x: needed < x < math.inf or not noise_multiplier,
    )
    repair = f"write AdaptiveNorm(noise_stddev={max(2 * noise_multiplier, 1.0)})"
    call = "private_mean(max_norm=AdaptiveNorm(noise_stddev=...))"
    _checks.checked_number(call, count_stddev, rule, repair)
    if not noise_multiplier:
        return 0.0, 0.0
    return count_stddev, (noise_multiplier**-2 - (2 * count_stddev) ** -2) ** -0.5


def _check_numbers(noise_multiplier, cohort_size) -> None:
    _checks.checked_number(
        "private_mean(noise_multiplier=...)",
        noise_multiplier,
        _checks.NOT_NEGATIVE,
        "write noise_multiplier=1.0, or find it with fc.privacy.noise_multiplier(...)",
    )
    _checks.checked_number(
        "private_mean(cohort_size=...)",
        cohort_size,
        _checks.Rule("at least 1 and finite", lambda x: 1 <= x < math.inf),
        "write the number of clients in a round, cohort_size=100",
    )


def _check_max_norm(max_norm, noise_multiplier: float) -> None:
    if isinstance(max_norm, EstimationProcess):
        raise TypeError(
            "private_mean(max_norm=...) takes no estimation process, since it could not account for its noise; write "
            "max_norm=fc.aggregators.AdaptiveNorm(initial=0.1, target_quantile=0.5)"
        )
    rule = "an AdaptiveNorm, or a positive float32 number" + (noise_multiplier > 0) * " with which the noise is finite"

    def holds(norm):
        unclipped = norm == math.inf and noise_multiplier == 0
        return unclipped or _SMALLEST <= norm <= _LARGEST / max(noise_multiplier, 1)

    _checks.checked_number("private_mean(max_norm=...)", max_norm, _checks.Rule(rule, holds), "write max_norm=1.0")
