"""The tokens of sequences that metrics count."""

import numbers
from collections.abc import Iterable

import jax
import jax.numpy as jnp


def kept(labels, ignored: tuple[int, ...], mask) -> jax.Array:
    """Which tokens count, bool `[B, T]`.

    Args:
      labels: integers `[B, T]`.
      ignored: the labels that do not count.
      mask: bool `[B]`, False for padding.

    Example:
      >>> print(kept(jnp.array([[5, 0], [5, 5]]), (0,), jnp.array([True, False])))
      [[ True False]
       [False False]]
    """
    return mask[:, None] & ~is_one_of(labels, ignored)


def is_one_of(labels, symbols: tuple[int, ...]) -> jax.Array:
    """Which labels are among the symbols, bool like the labels.

    Example:
      >>> print(is_one_of(jnp.array([5, 0, 7]), (7, 0)))
      [False  True  True]
    """
    found = jnp.zeros(jnp.shape(labels), bool)
    for symbol in symbols:
        found |= labels == symbol
    return found


def checked(what: str, given) -> tuple[int, ...]:
    """Labels as a tuple.

    Args:
      what: the argument, such as "perplexity(ignored=...)".
      given: its value.

    Raises:
      TypeError: they are not integers.

    Example:
      >>> checked("perplexity(ignored=...)", 0)
      Traceback (most recent call last):
      TypeError: perplexity(ignored=...) must be a tuple of integers such as (0,), got 0
    """
    tokens = tuple(given) if isinstance(given, Iterable) else None
    if tokens is None or not all(isinstance(t, numbers.Integral) and not isinstance(t, bool) for t in tokens):
        raise TypeError(f"{what} must be a tuple of integers such as (0,), got {given!r}")
    return tokens
