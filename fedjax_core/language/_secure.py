"""Sums of integers as a secure aggregation protocol computes them: either exact or an error."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from fedjax_core import _checks, types
from fedjax_core.language import _reductions, _words
from fedjax_core.language._arguments import check_leaves, client_argument
from fedjax_core.language._graph import Check, Node, user_location
from fedjax_core.language._placed import Placed, node_of
from fedjax_core.language._sums import overflow_message, with_check


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


def federated_secure_modular_sum(value, modulus, *, symmetric_range: bool = False) -> Placed:
    """The sum modulo `modulus` of integers between 0 and `modulus - 1`, exact for any number of clients.

    With a symmetric range, entries and sum are between `-(modulus - 1)` and `modulus - 1`, and the sum is modulo
    `2 * modulus - 1`, the number of these integers, as in TensorFlow Federated. Every entry is checked, as in
    `federated_secure_sum`; `fc.aggregators.secure_modular_sum` wraps entries beyond the range around instead.

    Args:
      value: integers at CLIENTS, a pytree; signed ones for a symmetric range.
      modulus: an integer, or a pytree of integers like `value`.
      symmetric_range: whether the range is symmetric around zero.

    Raises:
      TypeError: `value` is not at CLIENTS, a leaf of it is not an integer, `modulus` is not an integer, or
        `symmetric_range` is not a bool.
      ValueError: `modulus` is not positive, or it, or `2 * modulus - 1` for a symmetric range, does not fit the dtype.

    Example:

    >>> import fedjax_core as fc
    >>> @fc.federated_computation(fc.at_clients("int32"))
    ... def parity(bits):
    ...     return fc.federated_secure_modular_sum(bits, 2)
    >>> print(parity([1, 1, 1]))
    1

    With a symmetric range from -3 to 3, four comes after three as -3:

    >>> @fc.federated_computation(fc.at_clients("int32"))
    ... def balance(moves):
    ...     return fc.federated_secure_modular_sum(moves, 4, symmetric_range=True)
    >>> print(balance([3, 1]), balance([3, -1]))
    -3 2
    """
    name = "federated_secure_modular_sum"
    repair = f"write {name}(value, modulus, symmetric_range=True)"
    symmetric = _checks.checked_switch(f"{name}(symmetric_range=...)", symmetric_range, repair)
    rule = "positive, and 2 * modulus - 1 must fit" if symmetric else "positive and fit"
    node, limits = _bounded(name, value, modulus, "modulus", lambda m: 2 * m - 2 if symmetric else m - 1, rule)
    if symmetric:
        check_leaves(name, node, "signed integers", lambda dtype: jnp.issubdtype(dtype, jnp.signedinteger))

    def of_one(x, limit):
        # A negative entry becomes the one above `limit // 2` that it is congruent to.
        return _words.widened(jnp.where(x < 0, x + jnp.asarray(limit + 1, x.dtype), x)).low

    def add(total, x, limit):
        # Not `(total + x) % modulus`: with a large modulus the sum would wrap around before the remainder is taken.
        modulus = jnp.asarray(limit + 1, x.dtype)
        room = modulus - x
        return jnp.where(total >= room, total - room, total + x)

    def report(total, dtype, limit):
        total = total.astype(dtype)
        below = jnp.where(total > limit // 2, total - jnp.asarray(limit + 1, dtype), total)
        return below if symmetric else total, jnp.asarray(False)

    def zero(leaf):
        return _words.zero_words(leaf.shape, leaf.dtype).low

    ranges = [(-(limit // 2), limit // 2) if symmetric else (0, limit) for limit in limits]
    return _exact(name, node, limits, ranges, zero, of_one, add, report)


def _secure_sum(name, node, limits) -> Placed:
    """A sum in two words, which does not overflow for any number of clients."""

    def zero(leaf):
        return _words.zero_words(leaf.shape, leaf.dtype)

    def add(total, x, limit):
        return _words.added(total, x)

    def of_one(x, limit):
        return _words.widened(x)

    def report(total, dtype, limit):
        return _words.wrapped(total, dtype), ~_words.fits(total, dtype)

    return _exact(name, node, limits, [(0, limit) for limit in limits], zero, of_one, add, report)


def _exact(
    name: str, node: Node, limits, ranges, zero: Callable, of_one: Callable, add: Callable, report: Callable
) -> Placed:
    """The sum of the entries in range, with checks of the range and of the result.

    An accumulator is a tuple of one total per leaf, together with the number of clients out of range.

    Args:
      name: the operator.
      node: the integers at CLIENTS.
      limits: the largest integer that stands for an entry of each leaf.
      ranges: the smallest and the largest permitted entry of each leaf.
      zero: `leaf -> total`, the empty total.
      of_one: `(leaf, limit) -> total`, the total of one client.
      add: `(total, total, limit) -> total`.
      report: `(total, dtype, limit) -> (sum, bool)`, and whether it does not fit the dtype, entry by entry.
    """
    dtypes = [a.dtype for a in jax.tree.leaves(node.abstract)]
    structure = jax.tree.structure(node.abstract)

    def start(value):
        return tuple(map(zero, jax.tree.leaves(value))), jnp.zeros((), jnp.int32)

    def accumulate(accumulator, value):
        totals, refused = accumulator
        leaves = jax.tree.leaves(value)
        in_range = jnp.asarray(True)
        for x, (least, largest) in zip(leaves, ranges):
            in_range &= jnp.all((x >= least) & (x <= jnp.asarray(largest, x.dtype)))
        ones = [of_one(jnp.where(in_range, x, jnp.zeros_like(x)), limit) for x, limit in zip(leaves, limits)]
        return tuple(map(add, totals, ones, limits)), refused + (~in_range).astype(jnp.int32)

    def merge(a, b):
        return tuple(map(add, a[0], b[0], limits)), a[1] + b[1]

    def report_all(accumulator):
        totals, refused = accumulator
        sums, over = zip(*map(report, totals, dtypes, limits))
        too_large = sum(jnp.any(o).astype(jnp.int32) for o in over)
        return structure.unflatten(sums), refused, too_large

    operation = dataclasses.replace(_reductions.sequential(name, None, accumulate, merge, report_all), zero=start)
    reduced = Placed(_reductions.reduce_node(operation, node))
    total, refused, too_large = map(node_of, reduced)
    return _checked(name, total, refused, too_large, ranges)


def _checked(name: str, total: Node, refused: Node, too_large: Node, ranges) -> Placed:
    where = total.location
    bounds = ", ".join(f"{least}..{limit}" for least, limit in ranges)
    lowest = "-limit" if any(least < 0 for least, _ in ranges) else "0"

    def out_of_range(count):
        return (
            f"{name} at {where}: {count} clients hold an entry outside {bounds}; clip it at the clients with "
            f"fc.federated_map(lambda v: jnp.clip(v, {lowest}, limit), value), or allow larger entries"
        )

    in_range = with_check(total, Check(refused, out_of_range))
    return Placed(with_check(in_range, Check(too_large, overflow_message(name, where))))


def _bounded(name: str, value, bound, argument: str, limit_of: Callable, rule="positive and fit") -> tuple[Node, list]:
    """The argument's node and the largest integer that stands for an entry of each of its leaves."""
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
    return node, [_limit(f"{name}({argument}=...)", g, leaf, limit_of, rule) for g, leaf in zip(given, leaves)]


def _by_name(name: str, bound, argument: str, member: types.Type):
    """The bounds, a dict among them converted to the containers of the value."""
    if not isinstance(bound, Mapping):
        return bound
    try:
        return types.matched(member, bound)
    except TypeError as error:
        raise TypeError(f"{name}({argument}=...) at {user_location()}: {error}") from None


def _limit(what: str, given, leaf, limit_of: Callable, rule: str) -> int:
    """The largest integer that stands for an entry of a leaf."""
    largest = int(jnp.iinfo(leaf.dtype).max)
    repair = f"the largest possible entry of {types.type_of(leaf)} is {largest}, at {user_location()}"
    bound = _checks.checked_integer(what, given, 1, repair)
    if bound > largest or limit_of(bound) > largest:
        raise ValueError(_checks.message(what, f"{rule} {types.type_of(leaf)}", given, repair))
    return limit_of(bound)
