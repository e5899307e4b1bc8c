"""Reductions: lanes that hold nobody change nothing, and the limits of dtypes are neutral."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedjax_core.language import _reductions

DTYPES = ["int8", "uint32", "int32", "float16", "bfloat16", "float32", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits_are_neutral(dtype):
    dtype = jnp.dtype(dtype)
    values = jnp.asarray([0, 1], dtype)
    assert (jnp.minimum(values, jnp.asarray(_reductions.highest(dtype), dtype)) == values).all()
    assert (jnp.maximum(values, jnp.asarray(_reductions.lowest(dtype), dtype)) == values).all()


SUM = _reductions.elementwise("sum", lambda dtype: 0, jnp.add, jnp.sum)
ORDER = _reductions.sequential("order", lambda: jnp.int32(0), lambda a, v: 10 * a + v, lambda a, b: a + b, lambda a: a)


@given(st.lists(st.booleans(), min_size=4, max_size=4))
def test_lanes_that_hold_nobody_change_nothing(valid):
    present = np.array(valid)
    values = np.where(present[:, None], np.arange(8.0, dtype=np.float32).reshape(4, 2), np.nan)
    total = SUM.accumulate(SUM.zero(values[0]), jnp.asarray(values), jnp.asarray(present))
    np.testing.assert_array_equal(total, values[present].sum(0))
    digits = np.arange(1, 5, dtype=np.int32)
    found = ORDER.accumulate(ORDER.zero(None), jnp.asarray(digits), jnp.asarray(present))
    assert int(found) == int("0" + "".join(map(str, digits[present])))


def test_nobody_at_all():
    smallest = _reductions.elementwise("min", _reductions.highest, jnp.minimum, jnp.min)
    zero = smallest.zero(jnp.zeros(2, jnp.int32))
    np.testing.assert_array_equal(smallest.accumulate(zero, jnp.zeros((0, 2), jnp.int32), None), zero)
