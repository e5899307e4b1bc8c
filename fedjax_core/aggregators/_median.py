"""Means that a few clients cannot move far: only the middle values of each coordinate count."""

import fractions
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import _checks, trees, types
from fedjax_core.aggregators._arguments import check_entries, check_one_weight
from fedjax_core.contracts import Aggregator
from fedjax_core.language import federated_collect, federated_map, federated_value, federated_zip
from fedjax_core.templates import MeasuredProcessOutput
from fedjax_core.types import SERVER

_MOST = 2**16  # of a denominator: its product with a numerator of less than half of it fits int32


def median() -> Aggregator:
    r"""The median over the clients, separately for each coordinate.

    For an even number of clients it is the mean of the two in the middle. Clients are not weighted, but a
    client of weight zero is left out, since it has no update and its zeros would pull the median toward
    zero; so is a client with a NaN or infinity anywhere in its value.

    This is the pattern for an aggregator that needs the value of every client: `federated_collect` brings
    them to the server, stacked, in memory that grows with the cohort (beyond
    `EngineConfig(memory_budget=...)` the call is refused), padded so that cohorts of other sizes share a program, and
    `federated_map` does the rest.

    Returns:
      An `Aggregator` without state. If no client is left, the result is zero and this is counted.
      Measurements: `median_value.norm`, float32, the L2 norm of the result; `clients`, int32:
      `num_used`, `num_non_finite` (left out for a NaN or infinity), and `num_zero`, 1 if no client
      was used.

    Raises:
      TypeError: when built for a value that does not consist of real numbers.

    Example: one client of three is far off.

    >>> import fedjax_core as fc
    >>> process = fc.aggregators.as_process(median(), "float32")
    >>> process.next(process.initialize(), [1.0, 2.0, 1e6], [1.0, 1.0, 1.0]).result
    Array(2., dtype=float32)

    References:
      Yin et al. 2018, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates
      (arXiv:1803.01498), definition 1.
    """
    return _middle_mean("median", lambda number: jnp.maximum(number - 1, 0) // 2)


def trimmed_mean(fraction: float) -> Aggregator:
    r"""The mean over the clients without the extremes, separately for each coordinate.

    Of the entries of :math:`n` clients, the :math:`\lfloor \beta n \rfloor` smallest and as many of the
    largest are left out, where :math:`\beta` is `fraction`. Which clients are left out altogether, and what
    is kept in memory, is as in `median`.

    Args:
      fraction: the fraction to leave out at either end, from 0 (the uniform mean) to below 0.5 (the
        median). The number of clients left out is exact for up to 65,536 clients: 0.1 of ten is one, and
        0.4999999 of four is one, too. Of more clients, up to one in 65,536 too few are left out.

    Returns:
      An `Aggregator` like `median`, with `trimmed_mean_value` in place of `median_value`.

    Raises:
      TypeError: `fraction` is not a number; when built for a value that does not consist of real numbers.
      ValueError: `fraction` is not in [0, 0.5).

    Example:

    >>> import fedjax_core as fc
    >>> process = fc.aggregators.as_process(trimmed_mean(0.25), "float32")
    >>> process.next(process.initialize(), [-9.0, 1.0, 2.0, 1e6], [1.0, 1.0, 1.0, 1.0]).result
    Array(1.5, dtype=float32)

    References:
      Yin et al. 2018, Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates
      (arXiv:1803.01498), definition 2.
    """
    rule = _checks.Rule("at least 0 and less than 0.5", lambda x: 0 <= x < 0.5)
    repair = "write fraction=0.1, or use fc.aggregators.median()"
    _checks.checked_number("trimmed_mean(fraction=...)", fraction, rule, repair)
    numerator, denominator = _ratio_below(fraction).as_integer_ratio()

    def num_left_out(number):
        # In integers: a float32 product of the fraction and the number could miss a whole number.
        return number // denominator * numerator + number % denominator * numerator // denominator

    return _middle_mean("trimmed_mean", num_left_out)


def _ratio_below(fraction: float) -> fractions.Fraction:
    """The largest ratio below 1/2 that is not above `fraction`, with a denominator that int32 arithmetic allows.

    A ratio with a greater value but no greater denominator would exceed `fraction`, so both give the same whole part of
    a multiple up to that denominator.
    """
    precision = np.finfo(type(fraction) if isinstance(fraction, np.floating) else float).eps
    # A float may lie a few units in the last place below the number that is meant, such as 1/3 or 0.3.
    meant = fractions.Fraction(float(fraction)) * (1 + 4 * fractions.Fraction(float(precision)))
    nearest = meant.limit_denominator(_MOST)
    if nearest <= meant and nearest < fractions.Fraction(1, 2):
        return nearest
    # The next smaller ratio a/b of a Farey sequence: p * b - a * q = 1, with the largest b.
    p, q = nearest.as_integer_ratio()
    b = pow(p, -1, q)
    b += (_MOST - b) // q * q
    return fractions.Fraction(p * b - 1, q * b)


def _middle_mean(name: str, num_left_out: Callable) -> Aggregator:
    """The mean of the middle entries; `num_left_out(number of clients)` of them are cut off at either end."""

    def init(value_type):
        check_entries(name, value_type, "real numbers", (jnp.integer, jnp.floating))
        return federated_value((), SERVER)

    def next(state, value, weight):
        check_one_weight(name, weight)
        dtypes = jax.tree.map(_mean_dtype, types.tree_of_types(value.fedjax_type.member))
        clients, is_client = federated_collect(federated_map(_client, value, weight), padded=True)
        result, counts = federated_map(functools.partial(_middle, num_left_out, dtypes), clients, is_client)
        norm = federated_map(trees.norm, result)
        return MeasuredProcessOutput(state, result, federated_zip({f"{name}_value": {"norm": norm}, "clients": counts}))

    return Aggregator(init, next)


def _mean_dtype(tensor: types.TensorType):
    return tensor.dtype if jnp.issubdtype(tensor.dtype, jnp.inexact) else jnp.dtype(jnp.float32)


def _client(value, weight):
    """The value, and whether it counts and is finite."""
    finite = trees.is_finite(value)
    return trees.widen(value), finite & (weight > 0), finite


def _middle(num_left_out: Callable, dtypes, clients, is_client):
    """The mean of the middle entries of each coordinate, from values `[R, ...]`, and the counts of clients."""
    values, used, finite = clients  # no row of padding is used
    number = jnp.sum(used, dtype=jnp.int32)
    skipped = num_left_out(number)

    def mean(value, dtype):
        # Infinity, so that the entries that do not count sort behind the others.
        value = jnp.where(jnp.expand_dims(used, range(1, value.ndim)), value, jnp.inf)
        rank = jax.lax.broadcasted_iota(jnp.int32, value.shape, 0)
        middle = (rank >= skipped) & (rank < number - skipped)
        num_kept = jnp.maximum(number - 2 * skipped, 1).astype(value.dtype)
        # Divide first: the sum of large entries could overflow.
        return jnp.sum(jnp.where(middle, jnp.sort(value, axis=0), 0) / num_kept, axis=0).astype(dtype)

    counts = {
        "num_used": number,
        "num_non_finite": jnp.sum(is_client & ~finite, dtype=jnp.int32),
        "num_zero": (number == 0).astype(jnp.int32),
    }
    return jax.tree.map(mean, values, dtypes), counts
