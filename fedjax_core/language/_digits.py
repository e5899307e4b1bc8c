"""Integers of 32 bits as four digits, whose sums over the clients fit the dtype of each."""

import jax
import jax.numpy as jnp

from fedjax_core.language import _words
from fedjax_core.language._words import Words

_SHIFTS = (0, 8, 16, 24)
"""The positions of the digits in 32 bits."""


def digits(x: jax.Array) -> jax.Array:
    """Four digits of eight bits, the lowest first, uint32 `[..., 4]`.

    Args:
      x: uint32 of any shape.

    Example:

    >>> print(digits(jnp.uint32(258)))
    [2 1 0 0]
    """
    return jnp.stack([(x >> shift) & 255 for shift in _SHIFTS], axis=-1)


def from_digits(places: jax.Array) -> Words:
    """The integers with these digits, which may be sums or differences of digits.

    Args:
      places: int32 or int64 `[..., 4]`, the lowest digit first.

    Example:

    >>> print(*from_digits(jnp.array([2 + 255, 1, 0, 0])))
    513 0
    """
    total = _words.zero_words(places.shape[:-1], places.dtype)
    for i, shift in enumerate(_SHIFTS):
        total = _words.added(total, _words.shifted(_words.widened(places[..., i]), shift))
    return total
