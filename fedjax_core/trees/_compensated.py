"""Sums of very many pytrees, carried in two floats."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core.trees._structure import dtype_of, is_of_kind

Tree = Any


class CompensatedSum(NamedTuple):
    """A running sum of pytrees of numbers, which has twice the digits of its dtype.

    A float32 that a million values are added to one by one is wrong in its third or fourth digit, since each addition
    rounds. Here the low words collect what the high words have lost, so that the relative error, measured on
    the sum of the values' magnitudes, stays below 1e-6 for more than 10^7 values.

    Attributes:
      high: the sum, rounded to its dtypes; a pytree of at least float32, int32 or uint32.
      low: what rounding has left out of `high`, in the same dtypes; None in place of a leaf of integers, which lose
        nothing. It is zero wherever `high` is not finite.

    Example:

    >>> total = compensated_zero(0.0)
    >>> for value in [1.0, 1e-8, -1.0]:
    ...     total = compensated_add(total, value)
    >>> print(total.high)
    1e-08

    References:
      Knuth 1998, The Art of Computer Programming, volume 2, section 4.2.2, theorem B.
      Dekker 1971, A Floating-Point Technique for Extending the Available Precision.
    """

    high: Tree
    low: Tree


def compensated_zero(tree: Tree) -> CompensatedSum:
    """The sum of no trees like `tree`, whose leaves may be `jax.ShapeDtypeStruct`.

    Floats narrower than float32 are summed in float32, booleans and small integers in int32 or uint32.

    Args:
      tree: a pytree of numbers or booleans.

    Example:

    >>> zero = compensated_zero({"w": jnp.ones(2, "bfloat16"), "n": jnp.int8(3)})
    >>> print({name: leaf.dtype.name for name, leaf in zero.high.items()}, zero.low)
    {'n': 'int32', 'w': 'float32'} {'n': None, 'w': Array([0., 0.], dtype=float32)}
    """
    high = jax.tree.map(lambda leaf: jnp.zeros(jnp.shape(leaf), _wide(dtype_of(leaf))), tree)
    return CompensatedSum(high, jax.tree.map(lambda h: jnp.zeros_like(h) if _has_low(h) else None, high))


def compensated_add(total: CompensatedSum, tree: Tree) -> CompensatedSum:
    """The sum with one more tree.

    JAX can differentiate it: the derivative is that of a plain sum, without the rounding.

    Args:
      total: the sum so far.
      tree: a pytree of numbers of the structure and shapes of `total.high`. Floats are converted to the sum's dtypes.

    Raises:
      ValueError: the structures differ.

    Example:

    >>> total = compensated_zero(0.0)
    >>> total, _ = jax.lax.scan(lambda total, x: (compensated_add(total, x), None), total, jnp.full(1_000_000, 0.1))
    >>> print(total.high)
    100000.0
    """
    return _zipped(_added, total, tree)


def compensated_merge(a: CompensatedSum, b: CompensatedSum) -> CompensatedSum:
    """The sum of all trees in two sums, which keeps the digits of both.

    Args:
      a: a sum.
      b: a sum of the same structure and shapes.

    Raises:
      ValueError: the structures differ.

    Example:

    >>> half = compensated_add(compensated_add(compensated_zero(0.0), 1.0), 1e-8)
    >>> print(compensated_merge(half, compensated_add(compensated_zero(0.0), -1.0)).high)
    1e-08
    """
    return _zipped(_merged, a, b.high, b.low)


def _zipped(combine, total: CompensatedSum, *others: Tree) -> CompensatedSum:
    high, structure = jax.tree.flatten(total.high)
    # The low words have None in place of some leaves, which `jax.tree.map` would take for another structure.
    rest = [structure.flatten_up_to(tree) for tree in (total.low, *others)]
    pairs = [combine(*leaves) for leaves in zip(high, *rest)]
    return CompensatedSum(*(structure.unflatten([pair[word] for pair in pairs]) for word in (0, 1)))


def _added(high, low, value):
    if low is None:
        return jnp.add(high, value), None
    # A value that is not an array would have a dtype of its own.
    return _add(high, low, jnp.asarray(value).astype(high.dtype))


def _merged(high, low, other_high, other_low):
    if low is None:
        return jnp.add(high, other_high), None
    # The second low word is small beside both high words, so that adding it to the first loses nothing that counts.
    return _add(high, low + other_low, other_high)


@jax.custom_jvp
def _add(high, low, value):
    total = high + value
    # The error of an infinite sum is NaN, and would make the sum NaN.
    low = jnp.where(jnp.isfinite(total), _error(high, value, total) + low, 0)
    high = total + low
    return high, jnp.where(jnp.isfinite(high), low - (high - total), 0)


@_add.defjvp
def _derivative(primals, tangents):
    # The rule leaves out the selections, since the transpose of a loop would keep their conditions for every step.
    high, low, value = tangents
    total = high + value
    low = _error(high, value, total) + low
    high = total + low
    return _add(*primals), (high, low - (high - total))


def _error(a, b, total):
    """What `total`, the rounded sum of `a` and `b`, lacks, exactly; XLA does not reorder the additions of floats."""
    part = total - a
    return (a - (total - part)) + (b - part)


def _wide(dtype):
    if jnp.issubdtype(dtype, jnp.inexact):
        return jnp.promote_types(dtype, jnp.float32)
    return jnp.promote_types(dtype, jnp.uint32 if jnp.issubdtype(dtype, jnp.unsignedinteger) else jnp.int32)


def _has_low(leaf) -> bool:
    return is_of_kind(leaf, jnp.inexact)
