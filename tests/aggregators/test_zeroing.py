"""Zeroing of values that are far too large."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.aggregators import as_process, clip_by_norm, mean, quantile_estimate, sum, zero_large
from tests import robust_references as reference

VALUE = {"w": "float32[3]", "b": "float32"}
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def adaptive():
    return as_process(zero_large(quantile_estimate(1.0, 0.9, 0.5)), VALUE)


def _draw(seed, number=6):
    random = np.random.default_rng(seed)
    sizes = random.lognormal(0.0, 1.5, number)
    values = [{"w": (s * random.normal(size=3)).astype(np.float32), "b": np.float32(random.normal())} for s in sizes]
    return values, random.integers(1, 5, number).astype(np.float32)


def _same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_adaptive_threshold_agrees_with_the_oracle_over_rounds(adaptive):
    state, bound, total = adaptive.initialize(), reference.Quantile(1.0, 0.9, 0.5), 0
    for seed in range(8):
        values, weights = _draw(seed)
        state, result, measurements = adaptive.next(state, values, weights)
        np.testing.assert_allclose(measurements["threshold"], bound.estimate, rtol=1e-5)
        zeroed, number = reference.zero(values, bound)
        for name, expected in reference.mean(zeroed, weights).items():
            np.testing.assert_allclose(result[name], expected, rtol=2e-5, atol=1e-6)
        assert measurements["num_zeroed"] == number
        assert measurements["inner"]["mean_weight"]["total"] == weights.sum()  # who is zeroed keeps the weight
        total += number
    assert total > 3


def test_infinity_is_the_inner_aggregator_bit_for_bit():
    neutral, plain = as_process(zero_large(INF), VALUE), as_process(mean(), VALUE)
    values, weights = _draw(0)
    values[0]["w"][:] = [-0.0, 3e38, 1e-40]
    expected, output = plain.next((), values, weights), neutral.next(neutral.initialize(), values, weights)
    _same(output.result, expected.result)
    _same(output.measurements["inner"], expected.measurements)
    assert output.measurements["num_zeroed"] == 0


@pytest.mark.parametrize("wrong", [NAN, INF, -INF])
def test_a_client_that_is_not_finite_is_left_out_and_counted(adaptive, wrong):
    values, weights = _draw(3)
    expected = adaptive.next(adaptive.initialize(), values[2:], weights[2:])
    values[0]["b"] = np.float32(wrong)
    weights[1] = wrong
    output = adaptive.next(adaptive.initialize(), values, weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), output.result, expected.result)
    _same(output.state, expected.state)
    assert output.measurements["num_non_finite"] == 2
    assert output.measurements["num_zeroed"] == expected.measurements["num_zeroed"]


def test_the_norm_is_the_largest_entry_unless_told_otherwise():
    value = np.float32([[3.0, -4.0]])
    for norm, threshold, zeroed in [({}, 4.0, 0), ({}, 3.99, 1), ({"norm": fc.trees.norm}, 4.9, 1)]:
        process = as_process(zero_large(threshold, sum(), **norm), "float32[2]")
        output = process.next(process.initialize(), value, [1.0])
        assert output.measurements["num_zeroed"] == zeroed
        np.testing.assert_array_equal(output.result, value[0] * (1 - zeroed))


def test_a_norm_that_does_not_look_everywhere_lets_no_nan_pass():
    process = as_process(zero_large(5.0, norm=lambda value: abs(value["b"])), VALUE)
    values = [{"w": np.float32([1, wrong, 1]), "b": np.float32(1)} for wrong in (1, NAN, INF)]
    output = process.next(process.initialize(), values, np.ones(3, np.float32))
    np.testing.assert_array_equal(output.result["w"], np.ones(3))
    assert output.measurements["num_non_finite"] == 2 and output.measurements["num_zeroed"] == 0


def test_integers_and_half_precision_stay_what_they_are():
    process = as_process(zero_large(100.0, sum()), {"n": "int32[2]", "h": "bfloat16"})
    value = {"n": np.int32([[-100, 7], [np.iinfo(np.int32).min, 0]]), "h": jnp.ones(2, "bfloat16")}
    output = process.next(process.initialize(), value, np.ones(2, np.float32))
    assert output.result["n"].tolist() == [-100, 7] and output.result["n"].dtype == np.int32
    assert output.result["h"] == 1 and output.result["h"].dtype == jnp.bfloat16


def test_gradients_pass_where_the_value_does():
    process = as_process(zero_large(3.5, sum()), "float32[2]")
    next = process.next.as_function()
    values = jnp.array([[0.0, 0.0], [3.0, 1.0], [1.0, 4.0], [jnp.inf, 1.0]])
    gradient = jax.grad(lambda v: next(process.initialize(), v, jnp.ones(4)).result.sum())(values)
    np.testing.assert_array_equal(gradient, [[1, 1], [1, 1], [0, 0], [0, 0]])


def test_zeroing_and_clipping_nest():
    process = as_process(zero_large(10.0, clip_by_norm(1.0, sum())), "float32[2]")
    output = process.next(process.initialize(), np.float32([[3, 4], [11, 0], [0, 0.5]]), np.ones(3, np.float32))
    np.testing.assert_allclose(output.result, [0.6, 1.3], rtol=1e-6)
    counts = (output.measurements["num_zeroed"], output.measurements["inner"]["num_clipped"])
    assert counts == (1, 1)


@pytest.mark.parametrize("wrong, error", [(0, ValueError), (-INF, ValueError), (NAN, ValueError), ("9", TypeError)])
def test_wrong_thresholds_are_refused(wrong, error):
    with pytest.raises(error, match=r"zero_large\(threshold=\.\.\.\) must be positive.* to disable zeroing leave"):
        zero_large(wrong)


def test_other_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match=r"zero_large\(inner=\.\.\.\)"):
        zero_large(1.0, 2.0)
    with pytest.raises(TypeError, match=r"zero_large\(norm=\.\.\.\) must be a function"):
        zero_large(1.0, norm=2.0)
