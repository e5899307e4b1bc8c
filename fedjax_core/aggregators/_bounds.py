"""A bound on every client, fixed or estimated: the common part of clipping and zeroing."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import _checks, trees, types
from fedjax_core.aggregators._arguments import check_one_weight
from fedjax_core.computations import federated_computation
from fedjax_core.contracts import Aggregator
from fedjax_core.language import federated_broadcast, federated_map, federated_value, federated_zip
from fedjax_core.language.sums import count_sum
from fedjax_core.templates import EstimationProcess, MeasuredProcessOutput
from fedjax_core.types import SERVER

_NORM = types.to_type("float32")
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def as_bound(argument: str, bound, repair: str) -> EstimationProcess:
    """The process that reports a bound in every round, zero if `bound` reports less.

    Args:
      argument: the argument as the message shows it, for example `clip_by_norm(max_norm=...)`.
      bound: a positive number, infinity included, or an `EstimationProcess` over float32 at CLIENTS
        whose `next` returns only the state and that reports float32 at SERVER.
      repair: the repaired call.

    Raises:
      TypeError: `bound` is neither.
      ValueError: `bound` is a number that is not positive.

    Example:
      >>> process = as_bound("clip_by_norm(max_norm=...)", 2, "write 1.0")
      >>> process.report(process.initialize())
      Array(2., dtype=float32)
    """
    if not isinstance(bound, EstimationProcess):
        # The smallest and the largest float32, since what is rounded to zero would zero every client.
        rule = _checks.Rule(
            "positive in float32, or an EstimationProcess", lambda x: _SMALLEST <= x <= _LARGEST or x == math.inf
        )
        _checks.checked_number(argument, bound, rule, repair)
        return _constant(np.float32(bound))
    taken = [type_ for _, type_ in bound.next.parameters[1:]]
    reported, returned = bound.report.type_signature.result, bound.next.type_signature.result
    takes_sizes = len(taken) == 1 and taken[0].is_assignable_from(types.at_clients(_NORM))
    reports_bound = types.at_server(_NORM).is_assignable_from(reported)
    if not (takes_sizes and reports_bound and bound.state_type.is_assignable_from(returned)):
        raise TypeError(
            f"{argument} must be a number, or an EstimationProcess that takes {{float32}}@CLIENTS, returns only its "
            f"state and reports float32@SERVER, got next {bound.next.type_signature} and report "
            f"{bound.report.type_signature}; write fc.aggregators.quantile_estimate(1.0, 0.8, 0.2)"
        )
    return at_least_zero(bound)


def at_least_zero(bound: EstimationProcess) -> EstimationProcess:
    """The process with a report of zero where it reports less: a negative bound would turn clipped updates around.

    Example:
      >>> from fedjax_core.aggregators import quantile_estimate
      >>> process = at_least_zero(quantile_estimate(-1.0, 0.5, 0.2, geometric_update=False))
      >>> process.report(process.initialize())
      Array(0., dtype=float32)
    """

    @federated_computation(types.at_server(_NORM))
    def not_below_zero(bound):
        return federated_map(lambda bound: jnp.maximum(bound, 0), bound)

    return bound.map(not_below_zero)


def _constant(value: np.float32) -> EstimationProcess:
    state = types.at_server(())
    return EstimationProcess(
        federated_computation(lambda: federated_value((), SERVER)),
        federated_computation(lambda state, value: state, state, types.at_clients(_NORM)),
        federated_computation(lambda state: federated_value(value, SERVER), state),
    )


def bounded(
    inner: Aggregator, bound: EstimationProcess, names: tuple[str, str], size: Callable, limit: Callable
) -> Aggregator:
    """An aggregator that gives `inner` the clients' values, limited by a bound.

    A client whose size or weight is not finite contributes zero with weight zero and is counted. The
    bound's process sees the sizes of the other clients, and NaN, which stands for no client, where the
    weight is zero. If the bound is NaN, no value is within it. No privacy accounting covers an estimated bound, so the
    `noise_multiplier` is then 0.

    Args:
      inner: the aggregator that takes the limited values.
      bound: from `as_bound`.
      names: the name of the bound, in state and measurements, and that of the number of clients over it.
      size: `(value) -> float32 []`, the size that the bound limits; not finite where an entry is not.
      limit: `(value, size, bound) -> value`; it returns a value within the bound bit for bit.

    Returns:
      An `Aggregator` with the state `<bound, inner>` and the measurements
      `<bound, number, num_non_finite, inner>`.

    Example:
      >>> from fedjax_core.aggregators import as_process, mean
      >>> bound = as_bound("cut(limit=...)", 2.0, "write 1.0")
      >>> def cut_off(value, size, limit):
      ...     return jnp.minimum(value, limit)
      >>> cut = bounded(mean(), bound, ("limit", "num_cut"), jnp.abs, cut_off)
      >>> process = as_process(cut, "float32")
      >>> output = process.next(process.initialize(), [1.0, 3.0, float("nan")], [1.0, 1.0, 1.0])
      >>> print(output.result, output.measurements["num_cut"], output.measurements["num_non_finite"])
      1.5 1 1
    """
    (name, number), safe_size = names, finite_slope(size)

    def check(value, weight, bound):
        found = safe_size(value)
        finite = jnp.isfinite(found) & jnp.isfinite(weight)
        value, found, weight = trees.where(finite, (value, found, weight), trees.zeros_like((value, found, weight)))
        counts = weight > 0
        flags = {number: counts & jnp.logical_not(found <= bound), "num_non_finite": ~finite}
        return {
            "value": limit(value, found, bound),
            "weight": weight,
            "size": jnp.where(counts, found, jnp.nan),
            "flags": jax.tree.map(lambda flag: flag.astype(jnp.int32), flags),
        }

    def init(value_type):
        return federated_zip({name: bound.initialize(), "inner": inner.init(value_type)})

    def next(state, value, weight):
        check_one_weight("an aggregator with a bound (clip_by_norm, zero_large)", weight)
        reported = bound.report(state[name])
        checked = federated_map(check, value, weight, federated_broadcast(reported))
        output = inner.next(state["inner"], checked["value"], checked["weight"])
        counts = count_sum(checked["flags"])
        measurements = {
            name: reported,
            number: counts[number],
            "num_non_finite": counts["num_non_finite"],
            "inner": output.measurements,
        }
        state = {name: bound.next(state[name], checked["size"]), "inner": output.state}
        return MeasuredProcessOutput(federated_zip(state), output.result, federated_zip(measurements))

    # An estimate depends on the clients of earlier rounds, and no noise of `inner` hides that.
    is_estimate = bool(types.type_leaves(types.member_of(bound.state_type)))
    return inner._replace(init=init, next=next, noise_multiplier=0.0 if is_estimate else inner.noise_multiplier)


def finite_slope(size: Callable) -> Callable:
    """`size` with a derivative of zero where it is not finite, from one evaluation of `size`.

    Example:
      >>> norm = finite_slope(trees.norm)
      >>> print(jax.grad(norm)(jnp.array([3.0, 4.0])), jax.grad(norm)(jnp.array([3.0, jnp.nan])))
      [0.6 0.8] [0. 0.]
    """

    @jax.custom_jvp
    def safe_size(value):
        return jnp.asarray(size(value), jnp.float32)

    @safe_size.defjvp
    def derivative(primals, tangents):
        found = safe_size(*primals)
        finite = jnp.isfinite(found)
        safe = trees.where(finite, primals, trees.zeros_like(primals))
        _, slope = jax.jvp(lambda value: jnp.asarray(size(value), jnp.float32), safe, tangents)
        return found, jnp.where(finite, slope, 0.0)

    return safe_size
