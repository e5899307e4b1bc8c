"""Totals of statistics over clients and rounds: integers in two words, floats in two floats."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core import trees, types
from fedjax_core._own_errors import raise_if_own
from fedjax_core.language import sums
from fedjax_core.language.sums import Words


def zero_totals(tensors: Any) -> Any:
    """The totals of no round, for a tree of the tensor types of statistics.

    Returns:
      The tree with `Words` in place of each integer and a `trees.CompensatedSum` in place of each float.

    Example:

    >>> zero_totals({"right": types.to_type("int32"), "loss": types.to_type("bfloat16")})["loss"]
    CompensatedSum(high=Array(0., dtype=float32), low=Array(0., dtype=float32))
    """
    return jax.tree.map(_zero, tensors)


def _zero(tensor: types.TensorType) -> Any:
    leaf = jax.ShapeDtypeStruct(tensor.shape, tensor.dtype)
    return sums.zero_words(leaf.shape, leaf.dtype) if _is_integer(leaf.dtype) else trees.compensated_zero(leaf)


def add_round(totals: Any, current: Any) -> Any:
    """The totals with one more round.

    Args:
      totals: of all rounds before, as `zero_totals` begins them.
      current: of one round, a like tree with `Words` and arrays.

    Example:

    >>> zero = zero_totals({"right": types.to_type("int32")})
    >>> total = add_round(zero, {"right": sums.widened(jnp.int32(5))})
    >>> print(sums.as_float(total["right"]))
    5.0
    """

    def add(now, before):
        return sums.added(before, now) if isinstance(now, Words) else trees.compensated_add(before, now)

    return jax.tree.map(add, current, totals, is_leaf=lambda node: isinstance(node, Words))


def finalize_totals(finalize: Callable, tensors: Any, totals: Any) -> Any:
    """The values of metrics whose totals may exceed the integers of the statistics.

    Where all totals fit, they are finalized as they are. Otherwise values that are floats are those of the totals
    rounded to floats, and values that are integers those of saturated totals: of the largest integer, or the least.

    Args:
      finalize: the function from statistics to values.
      tensors: the tree of the statistics' tensor types.
      totals: a like tree with `Words` for integers; for floats, arrays or `trees.CompensatedSum`.

    Raises:
      TypeError: `finalize` takes integers, but not floats in their place.

    Example: three clients, each right about .9e9 of 1e9 examples.

    >>> total = {name: sums.summed(sums.widened(jnp.full(3, n))) for name, n in [("right", 9 * 10**8), ("all", 10**9)]}
    >>> tensors = dict.fromkeys(total, types.to_type("int32"))
    >>> values = finalize_totals(lambda s: (s["right"] / s["all"], s["all"]), tensors, total)
    >>> print(*values)
    0.9 2147483647
    """
    leaves, structure = jax.tree.flatten(tensors)
    found = list(zip(structure.flatten_up_to(totals), (leaf.dtype for leaf in leaves)))
    exact = finalize(structure.unflatten([_in_dtype(total, dtype) for total, dtype in found]))
    fitting = [jnp.all(sums.fits(total, sums.sum_dtype(d))) for total, d in found if isinstance(total, Words)]
    if not fitting:
        return exact
    fit = jnp.stack(fitting).all()
    rounded = _of_floats(finalize, structure.unflatten([_as_float(total, dtype) for total, dtype in found]))

    def value(exact, rounded):
        dtype = jnp.result_type(exact)
        # In floats, the small difference of two large counts that fit would be lost.
        return jnp.where(fit, exact, jnp.asarray(rounded, dtype)) if jnp.issubdtype(dtype, jnp.inexact) else exact

    return jax.tree.map(value, exact, rounded)


def _of_floats(finalize: Callable, statistics: Any) -> Any:
    try:
        return finalize(statistics)
    except Exception as error:
        message = (
            "a metric's `finalize` must take floats in place of integers, since a total that does not fit its integers "
            f"is rounded to one, but it fails: {type(error).__name__}: {error}; convert where integers are needed, for "
            'example with count.astype("int32")'
        )
        raise_if_own(error, message)
        raise TypeError(message) from error


def _in_dtype(total: Any, dtype) -> jax.Array:
    if isinstance(total, Words):
        return sums.saturated(total, sums.sum_dtype(dtype))
    return _as_float(total, dtype)


def _as_float(total: Any, dtype) -> jax.Array:
    if isinstance(total, Words):
        return sums.as_float(total)
    return (total.high if isinstance(total, trees.CompensatedSum) else total).astype(dtype)


def _is_integer(dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.integer)
