"""Integers in two words, against NumPy's int64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedjax_core.language import sums

DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32"]
wide = st.integers(-(2**62), 2**62)


def as_int(x: sums.Words) -> int:
    return int(np.int64(x.high)) * 2**32 + int(np.uint32(x.low))


def in_words(value: int) -> sums.Words:
    return sums.Words(jnp.uint32(value % 2**32), jnp.int32(value >> 32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_integer_in_two_words(dtype):
    info = np.iinfo(dtype)
    values = np.array(sorted({info.min, info.min + 1, 0, 1, info.max - 1, info.max, max(info.min, -1)}), dtype)
    words = sums.widened(jnp.asarray(values))
    found = np.asarray(words.high, np.int64) * 2**32 + np.asarray(words.low, np.int64)
    np.testing.assert_array_equal(found, values)
    for exact in (sums.wrapped(words, dtype), sums.saturated(words, dtype)):
        np.testing.assert_array_equal(exact, values)
    assert sums.fits(words, dtype).all()


@given(wide, wide)
@example(-1, 1)
@example(2**32 - 1, 1)
@example(-(2**31), -(2**31))
def test_addition_is_that_of_64_bits(a, b):
    assert as_int(sums.added(in_words(a), in_words(b))) == a + b


@given(st.integers(-(2**38), 2**38), st.sampled_from([0, 1, 8, 24]))
def test_shifts(value, places):
    assert as_int(sums.shifted(in_words(value), places)) == value * 2**places


@given(wide, st.sampled_from(DTYPES))
@example(2**31 - 1, "int32")
@example(2**31, "int32")
@example(-(2**31), "int32")
@example(-(2**31) - 1, "int32")
@example(2**32 - 1, "uint32")
@example(2**32, "uint32")
@example(-1, "uint32")
@example(2**33, "int8")
@example(-(2**63) + 1, "int32")
def test_what_fits_and_what_becomes_of_the_rest(value, dtype):
    info, words = np.iinfo(dtype), in_words(value)
    assert bool(sums.fits(words, dtype)) == (info.min <= value <= info.max)
    assert int(sums.saturated(words, dtype)) == np.clip(value, int(info.min), int(info.max))
    assert int(sums.wrapped(words, dtype)) == int(np.array(value, np.int64).astype(dtype))


@given(st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(-10, 10))
@example(-1)
@example(-(2**32))
def test_as_floats(value):
    np.testing.assert_allclose(float(sums.as_float(in_words(value))), float(value), rtol=2.0**-23)


@pytest.mark.parametrize("lanes", [0, 1, 2, 7, 100_000])
def test_the_sum_of_many_lanes(lanes):
    values = np.random.default_rng(lanes).integers(-(2**31), 2**31 - 1, (lanes, 2), np.int32)
    found = jax.jit(lambda x: sums.summed(sums.widened(x)))(jnp.asarray(values))
    exact = values.sum(0, dtype=np.int64)
    np.testing.assert_array_equal(np.asarray(found.high, np.int64) * 2**32 + np.asarray(found.low, np.int64), exact)
