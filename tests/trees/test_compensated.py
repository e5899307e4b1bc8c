"""Sums in two floats: the error against `math.fsum`, dtypes, infinities, derivatives, structures."""

import functools
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core import trees

NUMBER = 2**20


def values(name: str) -> np.ndarray:
    random = np.random.default_rng(0)
    magnitudes = 10.0 ** random.uniform(-6, 6, NUMBER)
    cases = {
        "equal": np.full(NUMBER, 0.1),
        "random": random.random(NUMBER),
        "12 orders": magnitudes,
        "ascending": np.sort(magnitudes),
        "signs": random.choice([-1, 1], NUMBER) * magnitudes,
        "cancelling": np.concatenate([magnitudes[: NUMBER // 2], -magnitudes[: NUMBER // 2]]),
    }
    return cases[name].astype(np.float32)


def one_by_one(zero, xs):
    return jax.lax.scan(lambda total, x: (trees.compensated_add(total, x), None), zero, xs)[0]


@jax.jit
def total_of(xs):
    return one_by_one(trees.compensated_zero(jax.tree.map(lambda x: x[0], xs)), xs).high


@jax.jit
def merged_total_of(xs):
    """Sums of blocks of 16 values, merged one after another."""

    def step(total, block):
        part = one_by_one(trees.compensated_zero(block[0]), block)
        return trees.compensated_merge(total, part), None

    return jax.lax.scan(step, trees.compensated_zero(xs[0]), xs.reshape(-1, 16))[0].high


def relative_error(found, xs: np.ndarray) -> float:
    exact = np.asarray(xs, np.float64)
    return abs(float(found) - math.fsum(exact)) / math.fsum(abs(exact))


@pytest.mark.parametrize("total", [total_of, merged_total_of], ids=["added", "merged"])
@pytest.mark.parametrize("name", ["equal", "random", "12 orders", "ascending", "signs", "cancelling"])
def test_a_million_values_are_summed_to_one_in_ten_million(name, total):
    xs = values(name)
    assert relative_error(total(xs), xs) < 1e-7


def test_the_same_sums_in_one_float_drift():
    xs = values("equal")
    plain = jax.lax.scan(lambda total, x: (total + x, None), jnp.float32(0), xs)[0]
    assert relative_error(plain, xs) > 1e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_floats_are_summed_in_float32(dtype):
    xs = jnp.asarray(values("random"), dtype)
    total = total_of(xs)
    assert total.dtype == jnp.float32
    assert relative_error(total, np.asarray(xs, np.float64)) < 1e-7


def test_complex_numbers_are_summed_by_real_and_imaginary_part():
    xs = values("equal") + 1j * values("12 orders")
    total = total_of(xs)
    assert total.dtype == jnp.complex64
    assert relative_error(total.real, xs.real) < 1e-7
    assert relative_error(total.imag, xs.imag) < 1e-7


def test_small_integers_and_booleans_are_counted():
    xs = {"int8": jnp.ones(300, jnp.int8), "uint8": jnp.ones(300, jnp.uint8), "bool": jnp.ones(300, bool)}
    total = total_of(xs)
    assert {name: (leaf.dtype.name, int(leaf)) for name, leaf in total.items()} == {
        "int8": ("int32", 300),
        "uint8": ("uint32", 300),
        "bool": ("int32", 300),
    }


def test_integers_keep_every_unit():
    xs = jnp.array([2**30, 1, 1 - 2**30], jnp.int32)
    assert total_of(xs) == 2
    half = one_by_one(trees.compensated_zero(xs[0]), xs[:2])
    assert trees.compensated_merge(half, half).high == np.int32(-(2**31) + 2)  # wraps around, like any int32


@pytest.mark.parametrize(
    "xs, expected",
    [
        ([1.0, np.inf, 2.0, -3.0], np.inf),
        ([-np.inf, 1.0, -np.inf], -np.inf),
        ([np.inf, 1.0, -np.inf], np.nan),
        ([1.0, np.nan, np.inf], np.nan),
        ([3e38, 3e38, 1.0, 1.0], np.inf),
        ([-3e38, -3e38, 3e38], -np.inf),
        ([3e38, -3e38, 1.0], 1.0),
        ([-0.0, -0.0], 0.0),
    ],
)
def test_infinities_and_nans_are_those_of_a_plain_sum(xs, expected):
    xs = jnp.array(xs, jnp.float32)
    added = one_by_one(trees.compensated_zero(xs[0]), xs)
    merged = functools.reduce(
        trees.compensated_merge, [trees.compensated_add(trees.compensated_zero(x), x) for x in xs]
    )
    for total in (added, merged):
        np.testing.assert_array_equal(total.high, np.float32(expected))
        assert np.isfinite(total.low)


@hypothesis.given(
    hnp.arrays(
        np.float32, st.integers(0, 30), elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
    ),
    st.integers(0, 30),
)
@hypothesis.settings(max_examples=50)
def test_any_split_has_the_same_sum(xs, split):
    zero = trees.compensated_zero(jnp.float32(0))
    parts = [functools.reduce(trees.compensated_add, part, zero) for part in (xs[:split], xs[split:])]
    exact, magnitude = math.fsum(xs.astype(np.float64)), math.fsum(abs(xs.astype(np.float64)))
    found = trees.compensated_merge(*parts)
    # One rounding of the result, and of the low words of each step.
    assert abs(float(found.high) - exact) <= 2**-24 * abs(exact) + len(xs) * 2**-46 * magnitude + len(xs) * 2**-126
    assert trees.compensated_merge(zero, parts[0]) == trees.compensated_merge(parts[0], zero) == parts[0]


def test_derivatives_are_those_of_a_plain_sum():
    xs = jnp.linspace(-1.0, 2.0, 100)

    def of(total):
        return lambda xs: jnp.sin(total(jnp.square(xs)))

    for transform in (jax.grad, jax.jacfwd, jax.hessian):
        np.testing.assert_allclose(transform(of(total_of))(xs), transform(of(jnp.sum))(xs), rtol=1e-4, atol=1e-4)
    # The gradient with respect to a value is exactly one however many values there are.
    assert (jax.grad(total_of)(jnp.asarray(values("equal"))) == 1).all()
    assert (jax.grad(merged_total_of)(jnp.asarray(values("equal"))) == 1).all()


def test_forward_derivatives_do_not_drift_either():
    xs = values("equal")
    _, slope = jax.jvp(total_of, (xs,), (xs,))
    assert relative_error(slope, xs) < 1e-7


def test_the_derivative_stores_nothing_for_each_step():
    xs = jnp.ones((64, 1000))
    _, pullback = jax.vjp(total_of, xs)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(pullback)) < xs.nbytes / 64


def test_structures_are_kept():
    tree = {"w": jnp.ones((2, 3)), "n": (jnp.int32(3), None), "empty": ()}
    total = trees.compensated_add(trees.compensated_zero(tree), tree)
    assert jax.tree.structure(total.high) == jax.tree.structure(tree)
    assert jax.tree.structure(trees.compensated_merge(total, total)) == jax.tree.structure(total)
    assert len(jax.tree.leaves(total.low)) == 1
    abstract = jax.eval_shape(trees.compensated_zero, tree)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), abstract) == jax.tree.map(lambda a: (a.shape, a.dtype), total)
    assert trees.compensated_zero(jax.eval_shape(lambda: tree)).high["w"].shape == (2, 3)
    nothing = trees.compensated_zero({})
    assert trees.compensated_merge(trees.compensated_add(nothing, {}), nothing) == ({}, {})


def test_another_structure_is_refused():
    total = trees.compensated_zero({"w": 1.0})
    with pytest.raises(ValueError, match="Dict key mismatch"):
        trees.compensated_add(total, {"v": 1.0})
    with pytest.raises(ValueError, match="Dict key mismatch"):
        trees.compensated_merge(total, trees.compensated_zero({"v": 1.0}))
