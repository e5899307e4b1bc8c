"""Integers in two words, so that no sum of them overflows: 64 bits for integers of up to 32.

Without x64 JAX has no int64. Sums of words are exact and associative, so that their bits depend neither on the order
of the clients nor on the devices.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Words(NamedTuple):
    """Integers in two words of `b` bits, `high * 2**b + low`, in two's complement.

    Attributes:
      low: uint32 (`b = 32`) for integers of up to 32 bits, uint64 (`b = 64`) for those of 64.
      high: int32 or int64, of the same shape.
    """

    low: Any
    high: Any


def sum_dtype(dtype) -> Any:
    """The dtype of a sum: that of the integers, but with at least 32 bits.

    Example:

    >>> [sum_dtype(dtype).name for dtype in ("int8", "uint16", "int32", "uint32")]
    ['int32', 'uint32', 'int32', 'uint32']
    """
    dtype = jnp.dtype(dtype)
    return dtype if dtype.itemsize >= 4 else jnp.dtype(_dtypes(dtype)[_is_signed(dtype)])


def zero_words(shape: tuple, dtype) -> Words:
    """Zeros for a sum of integers of this dtype."""
    word, signed = _dtypes(dtype)
    return Words(jnp.zeros(shape, word), jnp.zeros(shape, signed))


def widened(x: jax.Array) -> Words:
    """The integers in two words.

    Args:
      x: integers of any shape and dtype.

    Example:

    >>> print(*widened(jnp.array([3, -1])))
    [         3 4294967295] [ 0 -1]
    """
    word, signed = _dtypes(x.dtype)
    if not _is_signed(x.dtype):
        return Words(x.astype(word), jnp.zeros(x.shape, signed))
    wide = x.astype(signed)
    return Words(lax.bitcast_convert_type(wide, word), _sign(wide))


def added(a: Words, b: Words) -> Words:
    """The sum, entry by entry, exact while it fits two words.

    Example:

    >>> print(*added(widened(jnp.uint32(2**32 - 1)), widened(jnp.uint32(1))))
    0 1
    """
    # Unsigned words wrap around, so there is a carry exactly if the sum is less than one of its terms.
    low = a.low + b.low
    return Words(low, a.high + b.high + (low < a.low).astype(a.high.dtype))


def summed(x: Words) -> Words:
    """The sum over the leading axis, which may be empty.

    Example:

    >>> print(*summed(widened(jnp.full(3, 2**31 - 1))))
    2147483645 1
    """
    if x.low.shape[0] == 1:
        return Words(x.low[0], x.high[0])
    zero = Words(jnp.zeros((), x.low.dtype), jnp.zeros((), x.high.dtype))
    return Words(*lax.reduce(tuple(x), tuple(zero), lambda a, b: tuple(added(Words(*a), Words(*b))), (0,)))


def shifted(x: Words, places: int) -> Words:
    """The integers times `2**places`, for fewer places than a word has bits.

    Example:

    >>> print(*shifted(widened(jnp.int32(-3)), 8))
    4294966528 -1
    """
    if not places:
        return x
    carried = lax.bitcast_convert_type(x.low >> (_bits(x) - places), x.high.dtype)
    return Words(x.low << places, (x.high << places) | carried)


def fits(x: Words, dtype) -> jax.Array:
    """Whether a dtype can represent the integers, bool of their shape.

    Args:
      x: integers in two words.
      dtype: an integer dtype of at most as many bits as one word.

    Example:

    >>> total = summed(widened(jnp.full(3, 2**30)))
    >>> print(fits(total, "int32"), fits(total, "uint32"))
    False True
    """
    info = jnp.iinfo(dtype)
    if not _is_signed(dtype):
        return (x.high == 0) & (x.low <= jnp.asarray(info.max, x.low.dtype))
    low = _as_signed(x)
    return (x.high == _sign(low)) & (low >= info.min) & (low <= info.max)


def wrapped(x: Words, dtype) -> jax.Array:
    """The integers in a dtype, where they wrap around if they do not fit."""
    return _as_signed(x).astype(dtype) if _is_signed(dtype) else x.low.astype(dtype)


def saturated(x: Words, dtype) -> jax.Array:
    """The integers in a dtype, or the nearest one that it can represent.

    Example:

    >>> print(saturated(summed(widened(jnp.full(3, -(2**30)))), "int32"))
    -2147483648
    """
    info = jnp.iinfo(dtype)
    ends = jnp.where(x.high < 0, jnp.asarray(info.min, dtype), jnp.asarray(info.max, dtype))
    return jnp.where(fits(x, dtype), wrapped(x, dtype), ends)


def as_float(x: Words) -> jax.Array:
    """The integers in float32, or in float64 if they have 64 bits; within one unit in the last place.

    Example:

    >>> print(as_float(summed(widened(jnp.full(3, 10**9)))), as_float(widened(jnp.int32(-1))))
    3e+09 -1.0
    """
    dtype = jnp.float32 if _bits(x) == 32 else jnp.float64
    # The words of the magnitude: in those of -1, 4294967295 and -1, the lower one would be rounded up to 2**32.
    negative = x.high < 0
    low = jnp.where(negative, ~x.low + 1, x.low)
    high = jnp.where(negative, ~x.high + (x.low == 0).astype(x.high.dtype), x.high)
    magnitude = high.astype(dtype) * 2.0 ** _bits(x) + low.astype(dtype)
    return jnp.where(negative, -magnitude, magnitude)


def _dtypes(dtype) -> tuple:
    """The dtypes of the two words for integers of this dtype."""
    return (jnp.uint64, jnp.int64) if jnp.dtype(dtype).itemsize == 8 else (jnp.uint32, jnp.int32)


def _is_signed(dtype) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.signedinteger))


def _as_signed(x: Words) -> jax.Array:
    return lax.bitcast_convert_type(x.low, x.high.dtype)


def _sign(x: jax.Array) -> jax.Array:
    """-1 where a number is negative, otherwise 0."""
    return x >> (8 * x.dtype.itemsize - 1)


def _bits(x: Words) -> int:
    return 8 * x.low.dtype.itemsize
