"""The sum of integers modulo a number, as secure aggregation computes it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import _checks
from fedjax_core.aggregators._arguments import check_entries
from fedjax_core.contracts import Aggregator
from fedjax_core.language import federated_map, federated_secure_modular_sum, federated_value
from fedjax_core.templates import MeasuredProcessOutput
from fedjax_core.types import SERVER


def secure_modular_sum(modulus: int, *, symmetric_range: bool = False) -> Aggregator:
    """The sum of integers modulo `modulus`; the clients' weights are not used.

    An entry beyond the range wraps around at its client. The sum of the clients is then a
    `federated_secure_modular_sum`, which is exact for any number of clients.

    Args:
      modulus: a positive integer `m`.
      symmetric_range: False for results from 0 to `m - 1`. True for results from `-(m - 1)` to `m - 1`, which are
        modulo `2 * m - 1`, the number of these integers; the values are then signed integers.

    Returns:
      An `Aggregator` of integers without state or measurements.

    Raises:
      TypeError: an argument is of the wrong kind; when built for a value, if its entries are.
      ValueError: `modulus` is not positive; when built for a value, if its dtype cannot represent `modulus`, or
        `2 * modulus - 1` for a symmetric range.

    Example:

    >>> import fedjax_core as fc
    >>> for symmetric in (False, True):
    ...     aggregator = secure_modular_sum(8, symmetric_range=symmetric)
    ...     process = fc.aggregators.as_process(aggregator, "int32")
    ...     print(process.next(process.initialize(), [1, 2, 3, 4], [1.0] * 4).result)
    2
    -5

    References:
      TensorFlow Federated, `tff.aggregators.SecureModularSumFactory`, for the meaning of the symmetric range.
    """
    modulus = _checks.checked_integer("secure_modular_sum(modulus=...)", modulus, 1, "write modulus=2**16")
    repair = "write symmetric_range=True for results around zero"
    symmetric = _checks.checked_switch("secure_modular_sum(symmetric_range=...)", symmetric_range, repair)

    def init(value_type):
        words, kind = ("signed integers", jnp.signedinteger) if symmetric else ("integers", jnp.integer)
        check_entries("secure_modular_sum", value_type, words, (kind,))
        return federated_value((), SERVER)

    def next(state, value, weight):
        wrapped = federated_map(functools.partial(_wrapped, modulus, symmetric), value)
        total = federated_secure_modular_sum(wrapped, modulus, symmetric_range=symmetric)
        return MeasuredProcessOutput(state, total, federated_value((), SERVER))

    return Aggregator(init, next)


def _wrapped(modulus: int, symmetric: bool, value):
    """The entries that are congruent to those of a value and in the range."""
    period = 2 * modulus - 1 if symmetric else modulus

    def wrap(x):
        if period > np.iinfo(x.dtype).max:
            return x  # for the operator to refuse
        rest = jnp.mod(x, jnp.asarray(period, x.dtype))
        return jnp.where(rest >= modulus, rest - jnp.asarray(period, x.dtype), rest) if symmetric else rest

    return jax.tree.map(wrap, value)
