"""Compression: the clients send shorter messages, and the server averages the values that it decodes."""

import math
import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_core import _checks, trees
from fedjax_core.aggregators._arguments import check_entries, inner_or_mean
from fedjax_core.contracts import Aggregator
from fedjax_core.language import federated_map, federated_split_key, federated_sum, federated_value, federated_zip
from fedjax_core.templates import MeasuredProcessOutput
from fedjax_core.types import SERVER


def compress(round_trip: Callable, inner: Aggregator | None = None, *, key: jax.Array) -> Aggregator:
    """Gives `inner` the values that the server decodes from the clients' messages.

    Args:
      round_trip: `(value, key) -> (value, number of bits)`, a compressor: the value that the server decodes
        from the message of one client, of the same type, and the length of the message, a float where an
        int32 might overflow. Each client has a key of its own, a new one in every round. An unbiased
        compressor returns the value in expectation.
      inner: the aggregator of the decoded values; None is `mean()`.
      key: a JAX key, consumed: the clients of all rounds draw from it.

    Returns:
      An `Aggregator`. State: `key`, which never changes, `round_num` and `inner`. Measurements: `num_bits`,
      the length of all messages of the round, and `num_bits_per_client`, its mean, NaN without clients. Both are
      float32, with seven digits, since an int32 would overflow with 64 clients of a million float32
      parameters; and `inner`. `num_bits_per_client` is the true length of a message, while `describe` shows the size
      of the decoded value, which is what the program adds up.

    Raises:
      TypeError: an argument is of the wrong kind.

    Example: send half of the entries, drawn at random, and an integer that seeds the draw.

    >>> import jax, jax.numpy as jnp, fedjax_core as fc
    >>> def send_half(value, key):
    ...     kept = jax.random.bernoulli(key, 0.5, value.shape)
    ...     return jnp.where(kept, 2 * value, 0), 32 * kept.sum() + 32
    >>> process = fc.aggregators.as_process(compress(send_half, key=jax.random.key(0)), "float32[1000]")
    >>> output = process.next(process.initialize(), jnp.ones((100, 1000)), jnp.ones(100))
    >>> print(f"{output.result.mean():.1f}, {output.measurements['num_bits_per_client'] / 32_000:.1f}")
    1.0, 0.5
    """
    repair = "write lambda value, key: (decoded_value, num_bits), or use fc.aggregators.quantize"
    _checks.check_function("compress(round_trip=...)", round_trip, "of a client's value and key", repair)
    inner = inner_or_mean("compress", inner)
    _checks.check_key("compress(key=...)", key)

    def init(value_type):
        start = {"key": federated_value(key, SERVER), "round_num": federated_value(jnp.int32(0), SERVER)}
        return federated_zip(start | {"inner": inner.init(value_type)})

    def transmit(value, key):
        decoded, num_bits = round_trip(value, key)
        return decoded, jnp.asarray(num_bits, jnp.float32), jnp.float32(1)

    def next(state, value, weight):
        keys = federated_split_key(federated_map(jax.random.fold_in, state["key"], state["round_num"]))
        decoded, num_bits, one = federated_map(transmit, value, keys)
        output = inner.next(state["inner"], decoded, weight)
        total, number = federated_sum(federated_zip((num_bits, one)))
        measurements = {
            "num_bits": total,
            "num_bits_per_client": federated_map(jnp.divide, total, number),
            "inner": output.measurements,
        }
        round_num = federated_map(lambda number: number + 1, state["round_num"])
        new = {"key": state["key"], "round_num": round_num, "inner": output.state}
        return MeasuredProcessOutput(federated_zip(new), output.result, federated_zip(measurements))

    return inner._replace(init=init, next=next)


def quantize(num_bits: int, inner: Aggregator | None = None, *, key: jax.Array) -> Aggregator:
    r"""Rounds every entry at random to one of :math:`2^b` levels, without bias.

    The levels of a leaf are spread evenly from its smallest entry to its largest. An entry between two
    levels is rounded up with a probability equal to its distance from the lower level, in units of the distance
    between the two. Its expectation is thus the entry itself, and its variance at most a quarter of the squared
    distance between two levels. Entries are rounded independently in pairs, but not in larger groups.

    A client sends `b` bits per entry and two float32 numbers per leaf. A leaf with a NaN or infinity becomes
    NaN, but the guard of a round leaves out such a client beforehand.

    Args:
      num_bits: :math:`b`, from 1 to 16.
      inner: the aggregator of the rounded values; None is `mean()`.
      key: a JAX key, consumed: the clients of all rounds draw from it.

    Returns:
      An `Aggregator` of trees of floats, with the state and the measurements of `compress`.

    Raises:
      TypeError: an argument is of the wrong kind; when built for a value that does not consist of floats.
      ValueError: `num_bits` is out of range.

    Example: four levels from 0 to 3.

    >>> import jax, numpy as np, fedjax_core as fc
    >>> process = fc.aggregators.as_process(quantize(2, key=jax.random.key(0)), "float32[4]")
    >>> value = np.array([0.0, 1.0, 2.6, 3.0], np.float32)
    >>> output = process.next(process.initialize(), [value] * 1000, np.ones(1000, np.float32))
    >>> print([f"{entry:.1f}" for entry in output.result], output.measurements["num_bits_per_client"])
    ['0.0', '1.0', '2.6', '3.0'] 72.0

    References:
      Suresh et al. 2017, Distributed Mean Estimation with Limited Communication (arXiv:1611.00429),
      section 2.2, stochastic k-level quantization.
    """

    def holds(bits):
        return isinstance(bits, numbers.Integral) and 1 <= int(bits) <= 16

    rule = _checks.Rule("an integer from 1 to 16", holds)
    _checks.checked_number("quantize(num_bits=...)", num_bits, rule, "write num_bits=8")
    inner = inner_or_mean("quantize", inner)
    _checks.check_key("quantize(key=...)", key)

    def round_trip(value, key):
        rounded = jax.tree.map(lambda v, k: _round(v, k, 2**num_bits - 1), value, trees.split_key(key, value))
        # Python numbers, so that no product overflows.
        return rounded, float(num_bits * trees.size(value) + 64 * len(jax.tree.leaves(value)))

    compressed = compress(round_trip, inner, key=key)

    def init(value_type):
        check_entries("quantize", value_type, "floats", (jnp.floating,))
        return compressed.init(value_type)

    return compressed._replace(init=init)


def _round(value, key, num_steps: int):
    """The entries rounded to levels `low + (high - low) * i / num_steps`, each to one of the two next to it."""
    if value.size == 0:
        return value
    wide = value.astype(jnp.promote_types(value.dtype, jnp.float32))
    low, high = jnp.min(wide), jnp.max(wide)
    unit = jnp.maximum(jnp.maximum(-low, high), jnp.finfo(wide.dtype).tiny)  # so that no difference overflows
    span = high / unit - low / unit
    position = (wide / unit - low / unit) / jnp.where(span == 0, 1, span) * num_steps
    below = jnp.floor(position)
    number = below + (_uniform(key, value.shape) < position - below)
    level = number / num_steps
    return jnp.where(number >= num_steps, high, low * (1 - level) + high * level).astype(value.dtype)


def _uniform(key, shape: tuple[int, ...]):
    """Uniform numbers on [0, 1) that are independent in pairs.

    Entry `i` takes the upper bits of `step * i + start`. For two random integers this is a strongly universal hash of
    `i` (Dietzfelbinger 1996, Universal Hashing and k-Wise Independent Random Variables via Integer Arithmetic without
    Primes), independent in pairs to at least eight bits for up to 2**25 entries. Expectations and variances need no
    more, and `jax.random.uniform` would take a good part of a small model's round.
    """
    step, start = jax.random.bits(key, (2,), jnp.uint32)
    number = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return ((step * number + start) >> 8).astype(jnp.float32) / 2**24
