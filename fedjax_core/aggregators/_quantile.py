"""A quantile over the clients, estimated from round to round, with noise for privacy if wanted."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import _checks, types
from fedjax_core.computations import federated_computation
from fedjax_core.language import federated_broadcast, federated_map, federated_secure_sum, federated_value
from fedjax_core.language.sums import count_sum
from fedjax_core.templates import EstimationProcess
from fedjax_core.types import SERVER

_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def quantile_estimate(
    initial: float,
    target_quantile: float,
    learning_rate: float,
    *,
    geometric_update: bool = True,
    noise_stddev: float = 0.0,
    cohort_size: float | None = None,
    secure_estimation: bool = False,
    key: jax.Array | None = None,
) -> EstimationProcess:
    r"""Follows a quantile of a number that each client has, from one bit per client.

    In a round with the numbers :math:`x_k` of `n` clients the estimate :math:`C` moves to

    .. math:: C \exp(-\eta (\bar b - \gamma)), \qquad \bar b = \frac 1 n \sum_k [x_k \le C]

    for the learning rate :math:`\eta` and the target quantile :math:`\gamma`; a step is thus the same ratio
    at any scale. This geometric update is for positive numbers, such as norms. The arithmetic update moves to

    .. math:: C - \eta (\bar b - \gamma)

    which also suits numbers that may be negative. With a `cohort_size` :math:`m` and noise with the standard deviation
    :math:`\sigma`, both use

    .. math::
        \bar b = \frac 1 2 + \frac 1 m \Big(\sum_k \big([x_k \le C] - \tfrac 1 2\big) + \mathcal N(0, \sigma^2)\Big)

    A client changes this sum by at most 1/2, which is the sensitivity to account for: clients that are
    missing must not change the denominator.

    A NaN marks a missing number: its client is left out. If no client gives a number, the estimate
    does not change, except by the noise. A geometric estimate is kept within the positive normal float32 numbers,
    since no factor leads back from zero or infinity; an arithmetic one, within the finite numbers.

    Args:
      initial: the first estimate, in the unit of the numbers; positive for the geometric update.
      target_quantile: the quantile to follow, from 0 to 1; 0.5 is the median.
      learning_rate: positive. Without noise, the geometric update moves the estimate by a factor of at most 10 per
        round with `ln(10)`, and by about one fifth with 0.2. The arithmetic update moves it by at most the learning
        rate, which is in the unit of the numbers.
      geometric_update: False for the arithmetic update. An estimate that it has moved below zero clips, or zeroes, like
        a bound of zero.
      noise_stddev: the standard deviation of the noise on the sum of the bits, in clients; zero for none. A
        positive one needs `cohort_size` and `key`.
      cohort_size: the expected number of clients in a round; None divides by the actual number.
      secure_estimation: whether the clients' bits are added by `federated_secure_sum`, with the same result.
      key: a JAX key, consumed: the noise of all rounds is drawn from it.

    Returns:
      An `EstimationProcess` with `next(state, numbers)`, which takes float32 at CLIENTS and returns the next
      state, and `report(state)`, the estimate, float32 at SERVER. Its `map` turns the estimate into a bound,
      such as twice the estimate.

    Raises:
      TypeError: an argument is of the wrong kind, or there is noise without `cohort_size` or `key`.
      ValueError: a number is out of range.

    Example: the median of three clients, after one round and, up to the size of a step, after fifty.

    >>> process = quantile_estimate(initial=1.0, target_quantile=0.5, learning_rate=0.2)
    >>> state = process.next(process.initialize(), [3.0, 4.0, 9.0])
    >>> print(f"{process.report(state):.3f}")
    1.105
    >>> for _ in range(50):
    ...     state = process.next(state, [3.0, 4.0, 9.0])
    >>> bool(3.6 < process.report(state) < 4.4)
    True

    The arithmetic update moves the same estimate by .2 * .5:

    >>> process = quantile_estimate(initial=1.0, target_quantile=0.5, learning_rate=0.2, geometric_update=False)
    >>> print(process.report(process.next(process.initialize(), [3.0, 4.0, 9.0])))
    1.1

    References:
      Andrew et al. 2021, Differentially Private Learning with Adaptive Clipping, algorithm 1,
      arXiv:1905.03871. The arithmetic update is that of TensorFlow Federated's `QuantileEstimatorQuery` with
      `geometric_update=False`; unlike there, noise may carry :math:`\bar b` beyond 0 and 1, so that it has no bias.
    """
    geometric_update = _checks.checked_switch(
        "quantile_estimate(geometric_update=...)", geometric_update, "write geometric_update=False for arithmetic steps"
    )
    secure_estimation = _checks.checked_switch(
        "quantile_estimate(secure_estimation=...)", secure_estimation, "write secure_estimation=True"
    )
    _check_arguments(initial, target_quantile, learning_rate, geometric_update, noise_stddev, cohort_size, key)
    first = {"estimate": np.float32(initial)}
    if noise_stddev:
        first |= {"key": key, "round_num": np.int32(0)}

    def excess(state, below, number):
        """The fraction of the clients that are not above the estimate, minus the target."""
        if cohort_size is None:
            return jnp.where(number > 0, below / jnp.maximum(number, 1) - target_quantile, 0.0)
        centered = below - number / 2
        if noise_stddev:
            noise_key = jax.random.fold_in(state["key"], state["round_num"])
            centered += noise_stddev * jax.random.normal(noise_key, dtype=jnp.float32)
        return centered / cohort_size + (0.5 - target_quantile)

    def move(state, counts):
        step = -learning_rate * excess(state, *counts)
        moved = state["estimate"] * jnp.exp(step) if geometric_update else state["estimate"] + step
        estimate = jnp.clip(moved, _SMALLEST if geometric_update else -_LARGEST, _LARGEST).astype(jnp.float32)
        rounds = {"round_num": state["round_num"] + 1} if noise_stddev else {}
        return {**state, "estimate": estimate, **rounds}

    @federated_computation
    def initialize():
        return federated_value(first, SERVER)

    state_type = initialize.type_signature.result

    @federated_computation(state_type, types.at_clients("float32"))
    def next(state, value):
        bits = federated_map(_compare, federated_broadcast(state["estimate"]), value)
        counts = federated_secure_sum(bits, 1) if secure_estimation else count_sum(bits)
        return federated_map(move, state, counts)

    return EstimationProcess(initialize, next, federated_computation(lambda state: state["estimate"], state_type))


def _compare(estimate, value) -> tuple[jax.Array, jax.Array]:
    """Whether the value is at or below the estimate, and whether there is one; as counts, so order is irrelevant."""
    return (value <= estimate).astype(jnp.int32), (~jnp.isnan(value)).astype(jnp.int32)


_POSITIVE = _checks.Rule("positive and finite in float32", lambda x: _SMALLEST <= x <= _LARGEST)
_NOT_NEGATIVE = _checks.Rule("at least 0 and finite in float32", lambda x: 0 <= x <= _LARGEST)
_FINITE = _checks.Rule("finite in float32", lambda x: -_LARGEST <= x <= _LARGEST)


def _check_arguments(initial, target_quantile, learning_rate, geometric_update, noise_stddev, cohort_size, key) -> None:
    near = "start near the numbers: initial=1.0"
    rules = {
        "initial": (initial, _POSITIVE if geometric_update else _FINITE, near),
        "target_quantile": (target_quantile, _checks.FROM_0_TO_1, "write 0.5 for the median"),
        "learning_rate": (learning_rate, _POSITIVE, "write learning_rate=0.2"),
        "noise_stddev": (noise_stddev, _NOT_NEGATIVE, "write 0.0 for none"),
    }
    if cohort_size is not None:
        rules["cohort_size"] = (cohort_size, _POSITIVE, "give the expected number of clients in a round")
    for name, (value, rule, repair) in rules.items():
        _checks.checked_number(f"quantile_estimate({name}=...)", value, rule, repair)
    if noise_stddev and (cohort_size is None or key is None):
        raise TypeError(
            f"quantile_estimate(noise_stddev={noise_stddev!r}) needs a cohort_size, which must not depend on who takes "
            f"part, and a key, got cohort_size={cohort_size!r}, key={key!r}; write quantile_estimate(..., "
            f"noise_stddev={noise_stddev!r}, cohort_size=100, key=jax.random.key(0))"
        )
    if key is not None:
        _checks.check_key("quantile_estimate(key=...)", key)
