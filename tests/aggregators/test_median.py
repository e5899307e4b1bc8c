"""Coordinate median and trimmed mean."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import fedjax_core as fc
from fedjax_core.aggregators import _median
from tests import learning_references as reference
from tests.test_traces import compilations

VALUE = {"w": "float32[3]", "b": "float32"}


@pytest.fixture(scope="module")
def median():
    return fc.aggregators.as_process(fc.aggregators.median(), VALUE)


@pytest.fixture(scope="module")
def trimmed():
    return fc.aggregators.as_process(fc.aggregators.trimmed_mean(0.3), VALUE)


def _draw(seed, number):
    random = np.random.default_rng(seed)
    return [{"w": random.normal(size=3).astype(np.float32), "b": np.float32(random.normal())} for _ in range(number)]


def _stack(values, name):
    return np.stack([np.float64(v[name]) for v in values])


@given(seed=st.integers(0, 100), total=st.sampled_from([1, 4, 9]), out=st.integers(0, 3))
@settings(max_examples=20)
def test_agree_with_the_oracles(median, trimmed, seed, total, out):
    values, number = _draw(seed, total), max(total - out, 1)
    weights = np.random.default_rng(seed).permutation(
        [0.5, 1.0, 9.0, 1.0, 2.0, 3.0, 1.0, 1.0, 7.0][:number] + [0.0] * (total - number)
    )
    used = [v for v, w in zip(values, weights) if w]
    for process, oracle in ((median, np.median), (trimmed, lambda x, axis: scipy.stats.trim_mean(x, 0.3, axis))):
        output = process.next(process.initialize(), values, weights.astype(np.float32))
        for name in VALUE:
            np.testing.assert_allclose(output.result[name], oracle(_stack(used, name), axis=0), rtol=1e-5, atol=1e-6)
        assert output.measurements["clients"] == {"num_used": number, "num_non_finite": 0, "num_zero": 0}


@pytest.mark.parametrize(("weights", "number"), [([], 0), ([0, 0, 0], 3), ([np.nan], 1)])
def test_nobody_gives_zero_and_is_counted(median, trimmed, weights, number):
    for process, name in ((median, "median_value"), (trimmed, "trimmed_mean_value")):
        output = process.next(process.initialize(), _draw(0, number), np.array(weights, np.float32))
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(output.result))
        assert output.measurements["clients"] == {"num_used": 0, "num_non_finite": 0, "num_zero": 1}
        assert output.measurements[name] == {"norm": 0.0}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_clients_that_are_not_finite_are_left_out_and_counted(median, trimmed, value):
    values = _draw(1, 5)
    broken = [*values, {"w": np.array([0, value, 0], np.float32), "b": np.float32(7)}]
    for process in (median, trimmed):
        expected = process.next(process.initialize(), values, np.ones(5, np.float32))
        output = process.next(process.initialize(), broken, np.ones(6, np.float32))
        reference.assert_same_bits(output.result, expected.result)
        assert output.measurements["clients"] == {"num_used": 5, "num_non_finite": 1, "num_zero": 0}


def test_more_than_the_memory_holds_is_refused(median):
    small = median.next.with_config(fc.EngineConfig(memory_budget=500))
    with pytest.raises(ValueError, match="federated_collect"):
        small((), _draw(4, 100), np.ones(100, np.float32))


@pytest.mark.parametrize("fraction", [0.1, 0.29, 0.3, 1 / 3, 0.07, 0.49999, 0.0, np.float32(0.1)])
def test_what_is_left_out_is_exact_for_any_number(fraction):
    """Exactly the fraction of the number is left out, although the product of floats may be slightly smaller."""
    process = fc.aggregators.as_process(fc.aggregators.trimmed_mean(fraction), "float32")
    for number in (1, 10, 100):
        exact = {0.29: 29, 0.07: 7, np.float32(0.1): 10}.get(fraction)
        left_out = exact if number == 100 and exact else int(float(fraction) * number + 1e-6)
        ranks = np.arange(number, dtype=np.float32) ** 2
        expected = np.mean(np.float64(ranks[left_out : number - left_out]))
        result = process.next((), ranks, np.ones(number, np.float32)).result
        np.testing.assert_allclose(result, expected, rtol=1e-6)


@pytest.mark.parametrize("fraction", [0.4999999, np.nextafter(0.5, 0), np.float32(0.4999999)])
def test_a_fraction_next_to_a_half_leaves_somebody(fraction):
    """The floor of 1.9999996 is 1: of 1, 2, 3 and 4 the middle two remain."""
    process = fc.aggregators.as_process(fc.aggregators.trimmed_mean(fraction), "float32")
    assert process.next((), np.arange(1, 5, dtype=np.float32), np.ones(4, np.float32)).result == 2.5


@given(st.fractions(0, Fraction(1, 2), max_denominator=10**9), st.integers(1, 2**16))
@example(Fraction(4999999, 10**7), 2**16)
@example(Fraction(2499999, 10**7), 4)
@example(Fraction(1, 10**5), 2**16)
@example(Fraction(1, 3), 3)
def test_the_number_left_out_is_the_floor_of_the_product(fraction, number):
    assume(float(fraction) < 0.5)
    ratio = _median._ratio_below(float(fraction))
    assert ratio * number // 1 == fraction * number // 1
    # In int32, as the program computes it.
    assert ratio.numerator * ratio.denominator < 2**31 and ratio.numerator * 2 < ratio.denominator


def test_sums_of_large_entries_do_not_overflow():
    for aggregator in (fc.aggregators.median(), fc.aggregators.trimmed_mean(0.0)):
        process = fc.aggregators.as_process(aggregator, "float32")
        assert process.next((), np.full(4, 3e38, np.float32), np.ones(4, np.float32)).result == np.float32(3e38)


@pytest.mark.parametrize(("dtype", "result"), [("bfloat16", "bfloat16"), ("int32", "float32"), ("float16", "float16")])
def test_dtypes(dtype, result):
    process = fc.aggregators.as_process(fc.aggregators.median(), dtype)
    output = process.next((), jnp.array([1, 9, 4, 2], dtype), np.ones(4, np.float32))
    assert output.result.dtype == result and output.result == 3.0


def test_gradient_goes_to_the_clients_in_the_middle():
    next = fc.aggregators.as_process(fc.aggregators.median(), "float32").next.as_function()
    slope = jax.grad(lambda v: next((), v, jnp.array([1.0, 1.0, 1.0, 1.0, 0.0])).result)
    np.testing.assert_array_equal(slope(jnp.array([5.0, 1.0, 2.0, 3.0, 2.5])), [0, 0, 0.5, 0.5, 0])


@pytest.fixture(scope="module")
def learning():
    aggregator = fc.aggregators.trimmed_mean(0.2)
    return fc.algorithms.fed_avg(reference.linear_model(), optax.sgd(0.1), aggregator=aggregator, key=jax.random.key(0))


@pytest.mark.slow
def test_a_client_cannot_move_a_round_far(learning):
    clients, state = reference.make_clients((4, 4, 4, 4, 4)), learning.initialize()
    clients["b"] = {**clients["b"], "x": 1e4 * clients["b"]["x"]}
    update, _ = reference.fed_avg_update(
        reference.as_float64(state.weights), clients, reference.SGD(0.1), 3, 1, "uniform"
    )
    new, _ = learning.next(state, reference.cohort(clients))
    moved = fc.trees.norm(fc.trees.subtract(new.weights, state.weights))
    assert moved < 1 < 50 < fc.trees.norm(update)


def test_clients_without_examples_are_left_out_of_a_round(learning):
    state, clients = learning.initialize(), reference.make_clients((4, 0, 3, 0, 0))
    new, metrics = learning.next(state, reference.cohort(clients))
    expected, _ = learning.next(state, reference.cohort(clients, ["a", "c"]))
    reference.assert_same_bits(new.weights, expected.weights)
    assert metrics["aggregator"]["clients"] == {"num_used": 2, "num_non_finite": 0, "num_zero": 0}
    empty, _ = learning.next(state, reference.cohort(clients, ["b"]))
    reference.assert_same_bits(empty, state._replace(round_num=state.round_num + 1))


def test_thirty_rounds_are_compiled_once(median):
    ones = np.ones(5, np.float32)
    with compilations() as seen:
        median.next((), _draw(0, 5), ones)
        first = len(seen)
        for number in range(30):
            median.next((), _draw(number, 5), ones)
        assert len(seen) == first


@pytest.mark.parametrize("fraction", [0.5, -0.1, 2, float("nan"), float("inf")])
def test_refuses_a_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match=r"\(fraction=...\) must be at least 0 and less than 0.5, got .*median"):
        fc.aggregators.trimmed_mean(fraction)


@pytest.mark.parametrize("fraction", ["0.1", None, True])
def test_refuses_a_fraction_that_is_no_number(fraction):
    with pytest.raises(TypeError, match=r"got .*; write fraction=0.1"):
        fc.aggregators.trimmed_mean(fraction)


@pytest.mark.parametrize("value", ["complex64", "bool", {"k": "key<fry>"}, "float32*"])
def test_refuses_what_has_no_order(value):
    with pytest.raises(TypeError, match="median takes real numbers, got"):
        fc.aggregators.as_process(fc.aggregators.median(), value)
