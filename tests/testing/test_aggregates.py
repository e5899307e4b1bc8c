"""The laws of `federated_aggregate`."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core import testing
from tests.broken_laws import broken


def aggregate(zero, accumulate, merge, report=lambda total: total):
    @fc.federated_computation(fc.at_clients("float32[2]"))
    def aggregated(values):
        return fc.federated_aggregate(values, zero, accumulate, merge, report)

    return aggregated


def minus(a, b):
    return a - b


def halve(a, b):
    return (a + b) / 2


def moments(value):
    return jnp.float32(1), value, jnp.zeros(2)


def merge_moments(a, b):
    """Chan's formula, exact up to rounding only."""
    (n, mean, squares), (m, other, others) = a, b
    total = jnp.maximum(n + m, 1)
    change = other - mean
    return n + m, mean + change * m / total, squares + others + change**2 * n * m / total


def append(rows, value):
    return jnp.where(jnp.arange(4)[:, None] == jnp.sum(rows[:, 0] > -1e9), value, rows)


def merge_first_four(a, b):
    """Keeps the first four rows, and is not commutative."""
    return jax.lax.fori_loop(0, 4, lambda i, rows: jnp.where(b[i, 0] > -1e9, append(rows, b[i]), rows), a)


def add_pairs(a, b):
    return a[0] + b[0], a[1] + b[1]


def forget(a, b):
    return a[0] + b[0], -a[1] - b[1]


VALUES = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
ZERO = np.zeros(2, np.float32)
KEEPING = {
    "sum": aggregate(ZERO, jnp.add, jnp.add),
    "maximum": aggregate(np.full(2, -np.inf, np.float32), jnp.maximum, jnp.maximum),
    "moments": aggregate(
        (np.float32(0), ZERO, ZERO), lambda a, v: merge_moments(a, moments(v)), merge_moments, lambda a: a[2]
    ),
    "first four": aggregate(np.full((4, 2), -2e9, np.float32), append, merge_first_four),
    # What `report` does not read need not agree.
    "forgotten": aggregate((ZERO, np.float32(1)), lambda a, v: (a[0] + v, a[1]), forget, lambda a: a[0]),
}
BREAKING = {
    "one": (aggregate(np.ones(2, np.float32), jnp.add, jnp.add), {"zero"}),
    "minus": (aggregate(ZERO, jnp.add, minus), {"zero", "associative"}),
    "halve": (aggregate(ZERO, jnp.add, halve), {"zero", "associative"}),
    "first": (aggregate(ZERO, jnp.add, lambda a, b: a), {"zero"}),
    "counted": (
        aggregate((np.float32(1), ZERO), lambda a, v: (a[0] + 1, a[1] + v), add_pairs, lambda a: a[1] / a[0]),
        {"zero"},
    ),
}


@pytest.mark.parametrize("name", KEEPING)
def test_a_merge_with_an_identity_keeps_the_laws(name):
    testing.check_aggregates(KEEPING[name], VALUES)


@pytest.mark.parametrize("name", BREAKING)
def test_a_merge_without_one_breaks_them(name):
    program, laws = BREAKING[name]
    assert broken(testing.check_aggregates, program, VALUES) == laws


def test_the_message_says_which_merge_it_is_and_what_to_write():
    with pytest.raises(AssertionError) as error:
        testing.check_aggregates(aggregate(ZERO, jnp.add, functools.partial(minus)), [[1.0, 2.0]] * 3)
    line = minus.__code__.co_firstlineno
    assert re.search(
        rf"zero: .*\n  report of merge\(zero, a\) by minus \(.*test_aggregates.py:{line}\): \[0, 0\]: "
        r"expected 1\.0, found -1\.0.*; start from a zero that changes nothing, such as 0\.0 for a sum",
        str(error.value),
    )
    assert re.search(
        rf"associative: .*\n  report of .* by minus \(.*:{line}\): .*; merge what can be", str(error.value)
    )


def test_all_aggregates_of_a_program_are_checked_after_earlier_passes():
    @fc.federated_computation(fc.at_server("float32"), fc.at_clients("float32"))
    def program(scale, values):
        total = fc.federated_aggregate(values, 0.0, jnp.add, jnp.add, lambda a: a)
        moved = fc.federated_map(
            lambda v, s, t: v * s - t, values, fc.federated_broadcast(scale), fc.federated_broadcast(total)
        )
        return total, fc.federated_aggregate(moved, 0.0, jnp.add, minus, lambda a: a)

    with pytest.raises(AssertionError, match=r"by minus .*: \[0\]: expected -4\.0, found 4\.0"):
        testing.check_aggregates(program, 2.0, [1.0, 2.0, 3.0], laws="zero")


def test_a_program_or_a_call_without_anything_to_check_is_refused():
    @fc.federated_computation(fc.at_clients("float32[2]"))
    def total(values):
        return fc.federated_sum(values)

    for program, values in ((total, VALUES), (KEEPING["sum"], VALUES[:0])):
        with pytest.raises(ValueError, match="takes a computation with a `federated_aggregate` and a call with at"):
            testing.check_aggregates(program, values)
    with pytest.raises(ValueError, match=r"check_aggregates\(laws=\.\.\.\) must be one or several of zero, assoc"):
        testing.check_aggregates(KEEPING["sum"], VALUES, laws="order")
