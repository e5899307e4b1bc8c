"""Integers of 32 bits in four digits, whose sums are those of the integers."""

import jax.numpy as jnp
import numpy as np

from fedjax_core.language import sums


def test_the_digits_of_a_sum_are_the_sums_of_the_digits():
    values = np.random.default_rng(0).integers(0, 2**32, (1000, 3), dtype=np.uint64)
    digits = np.asarray(sums.digits(jnp.asarray(values, jnp.uint32)), np.int64)
    assert digits.shape == (1000, 3, 4) and digits.max() <= 255
    total = sums.from_digits(jnp.asarray(digits.sum(0) - 7, jnp.int32))
    found = np.asarray(total.high, np.int64) * 2**32 + np.asarray(total.low, np.int64)
    np.testing.assert_array_equal(found, values.sum(0) - 7 * (1 + 2**8 + 2**16 + 2**24))
