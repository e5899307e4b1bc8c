"""Sums of integers as a secure aggregation protocol computes them: either exact or an error."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from fedjax_core import _checks, types
from fedjax_core.language import _reductions
from fedjax_core.language._arguments import check_leaves, client_argument
from fedjax_core.language._graph import Check, Map, Node, user_location
from fedjax_core.language._placed import Placed, derive, node_of


def federated_secure_sum(value, max_input) -> Placed:
    """The exact sum of integers between 0 and `max_input`.

    Every entry is checked: a call raises ValueError if a client holds an entry outside the range, or if
    the sum does not fit the dtype. `as_function` cannot raise it and returns a `CheckedResult` instead.

    Args:
      value: integers at CLIENTS, a pytree.
      max_input: the largest permitted entry, an integer, or a pytree of integers like `value`.

    Raises:
      TypeError: `value` is not at CLIENTS, a leaf of it is not an integer, or `max_input` is not an integer.
      ValueError: `max_input` is not positive or does not fit the dtype.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("int32"))
    ... def votes(ballots):
    ...     return fc.federated_secure_sum(ballots, 1)
    >>> print(votes([1, 0, 1]))
    2
    """
    node, limits = _bounded("federated_secure_sum", value, max_input, "max_input", lambda bound: bound)
    return _secure_sum("federated_secure_sum", node, limits)


def federated_secure_sum_bitwidth(value, bitwidth) -> Placed:
    """The exact sum of integers between 0 and `2**bitwidth - 1`.

    Args:
      value: integers at CLIENTS, a pytree.
      bitwidth: the number of bits of an entry, an integer, or a pytree of integers like `value`.

    Raises:
      TypeError: `value` is not at CLIENTS, a leaf of it is not an integer, or `bitwidth` is not an integer.
      ValueError: `bitwidth` is not positive or exceeds the dtype.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("int32"))
    ... def total(counts):
    ...     return fc.federated_secure_sum_bitwidth(counts, 8)
    >>> print(total([255, 1]))
    256
    """
    name = "federated_secure_sum_bitwidth"
    node, limits = _bounded(name, value, bitwidth, "bitwidth", lambda bits: 2 ** min(bits, 64) - 1)
    return _secure_sum(name, node, limits)


def federated_secure_modular_sum(value, modulus) -> Placed:
    """The sum modulo `modulus` of integers between 0 and `modulus - 1`, exact for any number of clients.

    Args:
      value: integers at CLIENTS, a pytree.
      modulus: an integer, or a pytree of integers like `value`.

    Raises:
      TypeError: `value` is not at CLIENTS, a leaf of it is not an integer, or `modulus` is not an integer.
      ValueError: `modulus` is not positive or does not fit the dtype.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("int32"))
    ... def parity(bits):
    ...     return fc.federated_secure_modular_sum(bits, 2)
    >>> print(parity([1, 1, 1]))
    1
    """
    name = "federated_secure_modular_sum"
    node, limits = _bounded(name, value, modulus, "modulus", lambda modulus: modulus - 1)

    def add(total, x, limit):
        # Not `(total + x) % modulus`: with a large modulus the sum would wrap around before the remainder is taken.
        modulus = jnp.asarray(limit + 1, x.dtype)
        room = modulus - x
        return jnp.where(total >= room, total - room, total + x)

    return _exact(name, node, limits, zero=lambda word: jnp.zeros_like(word), add=add, fold=add, read=lambda t: t)


def _secure_sum(name, node, limits) -> Placed:
    """A sum in two words, low and high, which does not overflow for any number of clients."""

    def zero(word):
        return (jnp.zeros_like(word), jnp.zeros_like(word))

    def add(total, x, limit):
        return fold(total, (x, jnp.zeros_like(x)), limit)

    def fold(a, b, limit):
        # Unsigned words wrap around, so there is a carry exactly if the sum is less than one of its terms.
        low = a[0] + b[0]
        return low, a[1] + b[1] + (low < a[0]).astype(low.dtype)

    return _exact(name, node, limits, zero=zero, add=add, fold=fold, read=lambda total: total[0], high=lambda t: t[1])


def _exact(name, node: Node, limits, *, zero, add, fold, read, high=None) -> Placed:
    """The sum, by `add`, of the entries in range, with checks of the range and of the result.

    An accumulator is a tuple of one total per leaf, together with the number of clients out of range.
    """
    dtypes = [a.dtype for a in jax.tree.leaves(node.abstract)]
    limits = jax.tree.leaves(limits)
    structure = jax.tree.structure(node.abstract)

    def start(value):
        words = (jnp.zeros(x.shape, _word(x.dtype)) for x in jax.tree.leaves(value))
        return tuple(map(zero, words)), jnp.zeros((), jnp.int32)

    def accumulate(accumulator, value):
        totals, refused = accumulator
        leaves = jax.tree.leaves(value)
        fits = jnp.asarray(True)
        for x, limit in zip(leaves, limits):
            fits &= jnp.all((x >= 0) & (x <= jnp.asarray(limit, x.dtype)))
        words = [jnp.where(fits, x, jnp.zeros_like(x)).astype(_word(x.dtype)) for x in leaves]
        return tuple(add(t, w, m) for t, w, m in zip(totals, words, limits)), refused + (~fits).astype(jnp.int32)

    def merge(a, b):
        return tuple(fold(x, y, m) for x, y, m in zip(a[0], b[0], limits)), a[1] + b[1]

    def report(accumulator):
        totals, refused = accumulator
        too_large = jnp.zeros((), jnp.int32)
        for total, dtype in zip(totals, dtypes):
            largest = jnp.asarray(jnp.iinfo(dtype).max, _word(dtype))
            over = read(total) > largest
            over |= False if high is None else high(total) > 0
            too_large += jnp.any(over).astype(jnp.int32)
        sums = [read(total).astype(dtype) for total, dtype in zip(totals, dtypes)]
        return jax.tree.unflatten(structure, sums), refused, too_large

    operation = dataclasses.replace(_reductions.sequential(name, None, accumulate, merge, report), zero=start)
    reduced = Placed(_reductions.reduce_node(operation, node))
    total, refused, too_large = map(node_of, reduced)
    return _checked(name, total, refused, too_large, limits)


_identity = Map(lambda value: value, structural=True)


def _checked(name: str, total: Node, refused: Node, too_large: Node, limits) -> Placed:
    where = total.location
    bounds = ", ".join(str(limit) for limit in limits)

    def out_of_range(count):
        return (
            f"{name} at {where}: {count} clients hold an entry outside 0..{bounds}; clip it at the clients with "
            "fc.federated_map(lambda v: jnp.clip(v, 0, limit), value), or allow larger entries"
        )

    def overflow(count):
        return (
            f"{name} at {where}: the sum of {count} fields does not fit their dtype; convert the values at the "
            "clients to a wider one"
        )

    for count, message in ((refused, out_of_range), (too_large, overflow)):
        total = derive(_identity, (total,), total.abstract, check=Check(count, message))
    return Placed(total)


def _bounded(name: str, value, bound, argument: str, limit_of: Callable) -> tuple[Node, list]:
    """The argument's node and the largest permitted entry of each of its leaves."""
    node = client_argument(value, name)
    check_leaves(name, node, "integers", lambda dtype: jnp.issubdtype(dtype, jnp.integer))
    bound = _by_name(name, bound, argument, node.member_type)
    given, leaves = jax.tree.leaves(bound), jax.tree.leaves(node.abstract)
    if jax.tree.structure(bound) == jax.tree.structure(0):
        given *= len(leaves)
    elif jax.tree.structure(bound) != jax.tree.structure(node.abstract):
        raise TypeError(
            f"{name} takes one `{argument}`, or one for each field of {node.member_type}, got {bound!r} at "
            f"{user_location()}"
        )
    return node, [_limit(f"{name}({argument}=...)", g, leaf, limit_of) for g, leaf in zip(given, leaves)]


def _by_name(name: str, bound, argument: str, member: types.Type):
    """The bounds, a dict among them converted to the containers of the value."""
    if not isinstance(bound, Mapping):
        return bound
    try:
        return types.matched(member, bound)
    except TypeError as error:
        raise TypeError(f"{name}({argument}=...) at {user_location()}: {error}") from None


def _limit(what: str, given, leaf, limit_of: Callable) -> int:
    """The largest entry of a leaf that a bound permits."""
    largest = int(jnp.iinfo(leaf.dtype).max)
    repair = f"the largest possible entry of {types.type_of(leaf)} is {largest}, at {user_location()}"
    bound = _checks.checked_integer(what, given, 1, repair)
    if bound > largest or limit_of(bound) > largest:
        raise ValueError(_checks.message(what, f"positive and fit {types.type_of(leaf)}", given, repair))
    return limit_of(bound)


def _word(dtype):
    return jnp.uint64 if jnp.dtype(dtype).itemsize == 8 else jnp.uint32
