"""The sums behind `federated_sum`, and those of counts for the rooms of this package."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_core.language import _words
from fedjax_core.language._arguments import check_leaves, client_argument, is_number
from fedjax_core.language._graph import Check, Map, Node
from fedjax_core.language._placed import Placed, derive, node_of
from fedjax_core.language._reductions import IN_WORDS, kinds, leaf_sums, reduce_node, summed


def count_sum(value) -> Placed:
    """The sum over the clients of small counts, such as flags, which no check holds up.

    `federated_sum` waits for the devices, to raise an error where a sum of integers does not fit its dtype. A round
    that counts its clients must not wait for that. Use it only where each client adds at most a few: with entries
    of magnitude at most `m`, the sum is right for fewer than `2**31 / m` clients in int32.

    Args:
      value: numbers at CLIENTS, a pytree. Integers have at least 32 bits. Floats are summed as by `federated_sum`.

    Raises:
      TypeError: `value` is not at CLIENTS, a leaf of it is not a number, or it is an integer of fewer bits.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("float32"))
    ... def positive(values):
    ...     return count_sum(fc.federated_map(lambda v: (v > 0).astype("int32"), values))
    >>> print(positive([1.0, -1.0, 2.0]))
    2
    """
    node = client_argument(value, "count_sum")
    check_leaves("count_sum", node, "floats, and integers of 32 or 64 bits", _is_wide)
    return Placed(reduce_node(summed("federated_sum", node.abstract), node))


def word_sum(value) -> Placed:
    """The exact sum over the clients of integers of any size, in two words.

    Args:
      value: numbers at CLIENTS, a pytree. Floats are summed as by `federated_sum`.

    Returns:
      At SERVER, the pytree with `Words` in place of each integer leaf.

    Raises:
      TypeError: `value` is not at CLIENTS, or a leaf of it is not a number.

    Example: three times a billion is more than an int32 holds.

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("int32"))
    ... def total(values):
    ...     return fc.federated_map(_words.as_float, word_sum(values))
    >>> print(total([10**9] * 3))
    3e+09
    """
    node = client_argument(value, "word_sum")
    check_leaves("word_sum", node, "numbers", is_number)
    return Placed(reduce_node(summed("federated_sum", node.abstract, IN_WORDS), node))


def checked_sum(name: str, node: Node) -> Placed:
    """The sum of numbers at CLIENTS; a call raises a ValueError if a sum of integers does not fit its dtype.

    That dtype is the one of the value, but has at least 32 bits. In `as_function` the sum wraps around.
    """
    leaves, structure = jax.tree.flatten(node.abstract)
    if not any(_is_integer(leaf.dtype) for leaf in leaves):
        return Placed(reduce_node(summed(name, node.abstract), node))

    def report(totals):
        found = zip(structure.flatten_up_to(totals), leaves)
        sums, too_large = zip(*(_in_its_dtype(total, leaf.dtype) for total, leaf in found))
        return structure.unflatten(sums), sum(too_large)

    operation = leaf_sums(name, kinds(node.abstract, IN_WORDS), node.abstract, report)
    total, too_large = map(node_of, Placed(reduce_node(operation, node)))
    return Placed(with_check(total, Check(too_large, overflow_message(name, total.location), reported=False)))


def with_check(node: Node, check: Check) -> Node:
    """The same value, which exists only if it passes the check."""
    return derive(_identity, (node,), node.abstract, check=check)


def overflow_message(name: str, where: str) -> Callable[[int], str]:
    """The text of the error for a number of sums that do not fit their dtype."""
    return lambda count: (
        f"{name} at {where}: the sum of {count} fields does not fit their dtype; convert the values at the clients to "
        'a wider one, for example with fc.federated_map(lambda v: v.astype("float32"), value)'
    )


_identity = Map(lambda value: value, structural=True)


def _in_its_dtype(total, dtype) -> tuple[jax.Array, jax.Array]:
    """The sum of a leaf, and int32 `[]`, 1 if it does not fit its dtype."""
    if not isinstance(total, _words.Words):
        return total.astype(dtype), jnp.int32(0)
    dtype = _words.sum_dtype(dtype)
    return _words.wrapped(total, dtype), jnp.any(~_words.fits(total, dtype)).astype(jnp.int32)


def _is_integer(dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.integer)


def _is_wide(dtype) -> bool:
    """Whether a dtype is not an integer of fewer than 32 bits."""
    return is_number(dtype) and (not _is_integer(dtype) or jnp.dtype(dtype).itemsize >= 4)
