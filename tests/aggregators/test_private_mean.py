"""The mean with differential privacy for every client."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import fedjax_core as fc
from fedjax_core.aggregators import AdaptiveNorm, private_mean
from tests import learning_references as reference
from tests.test_traces import compilations

KEY = jax.random.key(3)
VALUE = {"w": "float32[3]", "b": "float32"}


def _process(value=VALUE, *, max_norm=1.0, noise_multiplier=0.0, cohort_size=4, key=KEY):
    return fc.aggregators.as_process(private_mean(max_norm, noise_multiplier, cohort_size, key=key), value)


@pytest.fixture(scope="module")
def silent():
    return _process()


@pytest.fixture(scope="module")
def noisy():
    return _process({"w": "float32[2000]", "b": "float32[2000]"}, max_norm=3.0, noise_multiplier=2.0, cohort_size=8)


def _draw(seed, number, scale=1.0):
    random = np.random.default_rng(seed)
    draw = lambda *size: (scale * random.normal(size=size)).astype(np.float32)  # noqa: E731
    return [{"w": draw(3), "b": draw()} for _ in range(number)]


def _clipped_sum(values, max_norm):
    rows = np.array([[*v["w"], v["b"]] for v in values], np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows * np.minimum(1, max_norm / norms)).sum(0)


def _flat(result):
    return np.append(result["w"], result["b"])


@pytest.mark.parametrize("number", [1, 4, 7])
def test_is_the_clipped_sum_over_the_cohort_size(silent, number):
    values = _draw(number, number)
    output = silent.next(silent.initialize(), values, np.ones(number, np.float32))
    expected = _clipped_sum(values, 1.0) / 4
    np.testing.assert_allclose(_flat(output.result), expected, rtol=1e-5, atol=1e-6)
    assert output.measurements["max_norm"] == 1.0 and output.measurements["noise_stddev"] == 0.0
    np.testing.assert_allclose(output.measurements["mean_value"]["norm"], np.linalg.norm(expected), rtol=1e-5)


def test_weights_count_only_as_positive_or_not(silent):
    values = _draw(1, 5)
    one = silent.next(silent.initialize(), values, np.array([1, 1, 1, 0, 0], np.float32))
    other = silent.next(silent.initialize(), values, np.array([0.1, 1e30, 7, 0, np.nan], np.float32))
    three = silent.next(silent.initialize(), values[:3], np.ones(3, np.float32))
    reference.assert_same_bits(other.result, one.result)
    reference.assert_close(three.result, one.result)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_sends_nothing(silent, value):
    values = _draw(2, 3)
    values[1]["w"][2] = value
    result = silent.next(silent.initialize(), values, np.ones(3, np.float32)).result
    np.testing.assert_allclose(_flat(result), _clipped_sum([values[0], values[2]], 1.0) / 4, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [[1e38, 1e38, 0], [3e38, 3e38, 3e38], [1e-38, 3e38, 0], [1e20, 0, 0]])
def test_a_norm_whose_squares_overflow_is_clipped(silent, value):
    """The sum of squares of 1e38 and 1e38 does not fit float32, and the third norm only just does."""
    values = _draw(2, 3)
    values[1] = {"w": np.float32(value), "b": np.float32(0)}
    result = silent.next(silent.initialize(), values, np.ones(3, np.float32)).result
    np.testing.assert_allclose(_flat(result), _clipped_sum(values, 1.0) / 4, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_no_noise_and_no_clipping_are_the_uniform_mean_bit_for_bit(scale):
    process, mean = _process(max_norm=math.inf, cohort_size=5), fc.aggregators.as_process(fc.aggregators.mean(), VALUE)
    values, ones = _draw(3, 5, scale), np.ones(5, np.float32)
    expected = mean.next(mean.initialize(), values, ones).result
    reference.assert_same_bits(process.next(process.initialize(), values, ones).result, expected)


def test_noise_has_the_stated_deviation_and_is_normal_and_independent(noisy):
    state, zeros, draws = noisy.initialize(), {name: np.zeros(2000, np.float32) for name in ("w", "b")}, []
    for number in (8, 0, 3):
        output = noisy.next(state, [zeros] * number, np.ones(number, np.float32))
        np.testing.assert_allclose(output.measurements["noise_stddev"], 2.0 * 3.0 / 8)
        np.testing.assert_array_equal(jax.random.key_data(output.state["key"]), jax.random.key_data(state["key"]))
        state = output.state
        draws += [np.float64(output.result[name]) / (2.0 * 3.0 / 8) for name in ("w", "b")]
    assert state["round_num"] == 3
    # Of 12,000 draws the deviation is known to 0.65 %, a correlation of 2,000 pairs to 2.2 %.
    assert abs(np.std(np.concatenate(draws)) - 1) < 4 * 0.0065
    assert scipy.stats.kstest(np.concatenate(draws), "norm").pvalue > 0.001
    correlations = np.corrcoef(draws)[np.triu_indices(len(draws), 1)]
    assert np.abs(correlations).max() < 4 * 0.0224


def test_noise_is_added_to_the_sum(noisy):
    ones = [{name: np.full(2000, 1e-3, np.float32) for name in ("w", "b")}] * 8
    zeros = jax.tree.map(np.zeros_like, ones)
    weights, state = np.ones(8, np.float32), noisy.initialize()
    with_value, without = (noisy.next(state, values, weights).result for values in (ones, zeros))
    reference.assert_close(jax.tree.map(jnp.subtract, with_value, without), ones[0], rtol=0, atol=1e-6)


def test_same_key_gives_the_same_noise_and_another_another(noisy):
    value = {"w": "float32[5]"}
    first, again, other = (_process(value, noise_multiplier=1.0, key=key).next for key in (KEY, KEY, jax.random.key(4)))
    start = _process(value, noise_multiplier=1.0).initialize()
    reference.assert_same_bits(first(start, [], []).result, again(start, [], []).result)
    changed = other(_process(value, noise_multiplier=1.0, key=jax.random.key(4)).initialize(), [], []).result["w"]
    assert (changed != first(start, [], []).result["w"]).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_result_has_the_dtype_of_the_value(dtype):
    process = _process(dtype, max_norm=8.0)
    output = process.next(process.initialize(), jnp.array([1, 2, 5], dtype), np.ones(3, np.float32))
    assert output.result.dtype == dtype and output.result == 2.0


def test_half_precision_is_clipped_and_summed_in_single_precision():
    process = _process("bfloat16[2]", max_norm=1.0, cohort_size=1000)
    values = jnp.ones((1000, 2), "bfloat16")
    result = process.next(process.initialize(), values, np.ones(1000, np.float32)).result
    np.testing.assert_allclose(np.float32(result), np.sqrt(0.5), rtol=2**-8)


def test_gradient_of_a_clipped_value_and_of_zero():
    next = _process("float32[2]", max_norm=1.0, cohort_size=2).next.as_function()
    state = _process("float32[2]", max_norm=1.0, cohort_size=2).initialize()
    slope = jax.grad(lambda v: next(state, v, jnp.ones(2)).result[0])(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(slope, [[0.5 * 16 / 125, -0.5 * 12 / 125], [0.5, 0.0]], atol=1e-6)


# Adaptive clipping


def test_adaptive_norm_follows_the_quantile_without_noise():
    norm = AdaptiveNorm(initial=1.0, target_quantile=0.75, learning_rate=0.5)
    process = _process("float32[2]", max_norm=norm, cohort_size=4)
    values = np.array([[0.5, 0], [0, 2], [3, 0], [0, -4]], np.float32)
    state, expected = process.initialize(), 1.0
    for _ in range(12):
        output = process.next(state, values, np.ones(4, np.float32))
        np.testing.assert_allclose(output.measurements["max_norm"], expected, rtol=1e-5)
        scaled = values * np.minimum(1, expected / np.linalg.norm(values, axis=1, keepdims=True))
        np.testing.assert_allclose(output.result, scaled.sum(0) / 4, rtol=1e-5, atol=1e-6)
        below = np.mean(np.linalg.norm(values, axis=1) <= expected)
        state, expected = output.state, expected * np.exp(-0.5 * (below - 0.75))
    assert 2.9 < expected < 3.6


def test_arithmetic_steps_are_those_of_tff():
    """TFF's test of its adaptive query: the norm goes from 1 by 2/3 to 5/3; the mean divides the sums by 3."""
    process = _process("float32", max_norm=AdaptiveNorm(1.0, 1.0, 1.0, geometric_update=False), cohort_size=3)
    state = process.initialize()
    for total, norm in [(0.5 + 1 + 1, 1.0), (0.5 + 1.5 + 5 / 3, 5 / 3)]:
        output = process.next(state, [0.5, 1.5, 2.0], np.ones(3, np.float32))
        np.testing.assert_allclose([output.result, output.measurements["max_norm"]], [total / 3, norm], rtol=1e-6)
        state = output.state


def test_an_arithmetic_norm_below_zero_sends_nothing():
    norm = AdaptiveNorm(-1.0, 0.5, 1.0, geometric_update=False)
    process = _process("float32", max_norm=norm, noise_multiplier=1.0, cohort_size=100)
    output = process.next(process.initialize(), [3.0], [1.0])
    assert output.result == 0.0 == output.measurements["max_norm"] == output.measurements["noise_stddev"]


def test_count_and_sum_share_the_noise():
    """A client moves the sum by C and the centred count by 1/2; together that is a Gaussian with the multiplier z."""
    z, m, stddev = 0.8, 50, 1.25
    norm = AdaptiveNorm(2.0, noise_stddev=stddev)
    process = _process("float32[20000]", max_norm=norm, noise_multiplier=z, cohort_size=m)
    output = process.next(process.initialize(), [], [])
    on_sum = float(output.measurements["noise_stddev"]) * m / 2.0
    np.testing.assert_allclose(on_sum**-2 + (2 * stddev) ** -2, z**-2, rtol=1e-5)
    np.testing.assert_allclose(np.std(np.float64(output.result)) * m / 2.0, on_sum, rtol=0.02)


def test_count_is_noised_by_draws_of_its_own():
    m, stddev, rate = 100, 7.0, 0.3
    norm = AdaptiveNorm(initial=1.0, target_quantile=0.5, learning_rate=rate, noise_stddev=stddev)
    process = _process("float32", max_norm=norm, noise_multiplier=1.0, cohort_size=m)
    state, noises, results = process.initialize(), [], []
    for _ in range(300):
        before = float(state["estimate"]["estimate"])
        output = process.next(state, [], [])
        state = output.state
        noises.append(-np.log(float(state["estimate"]["estimate"]) / before) / rate * m / stddev)
        results.append(float(output.result) / float(output.measurements["noise_stddev"]))
    assert scipy.stats.kstest(noises, "norm").pvalue > 0.001
    assert scipy.stats.kstest(results, "norm").pvalue > 0.001
    assert abs(np.corrcoef(noises, results)[0, 1]) < 4 / np.sqrt(300)


def test_default_noise_of_the_count_is_a_twentieth_of_the_cohort():
    process = _process("float32", max_norm=AdaptiveNorm(2.0), noise_multiplier=np.int64(1), cohort_size=np.int32(100))
    stddev = process.next(process.initialize(), [], []).measurements["noise_stddev"]
    np.testing.assert_allclose(stddev, 2.0 / 100 * (1 - 10.0**-2) ** -0.5, rtol=1e-6)


def test_clients_that_send_nothing_are_not_counted():
    process = _process("float32", max_norm=AdaptiveNorm(1.0), cohort_size=2)
    values = np.array([0.5, 9.0, np.nan], np.float32)
    state = process.next(process.initialize(), values, np.array([1, 0, 1], np.float32)).state
    expected = np.exp(-0.2 * ((0.5 + 0.5 / 2) - 0.5))
    np.testing.assert_allclose(state["estimate"]["estimate"], expected, rtol=1e-6)


# In a round


def _learning(aggregator):
    model = reference.linear_model()
    return fc.algorithms.fed_avg(model, optax.sgd(0.1), aggregator=aggregator, key=jax.random.key(0))


CLIENTS = reference.make_clients((5, 3, 2, 4))


@pytest.fixture(scope="module")
def learning():
    return _learning(private_mean(1.0, 1.0, 4, key=KEY))


@pytest.mark.parametrize("ids", [[], ["e"], ["f"]], ids=["nobody", "an empty client", "a client that diverges"])
def test_noise_counts_over_nobody(learning, ids):
    clients = CLIENTS | reference.make_clients((1, 1, 1, 1, 0, 2))
    clients["f"]["x"][0, 0] = np.inf
    start = learning.initialize()
    state, metrics = learning.next(start, reference.cohort(clients, ids))
    noise = jax.tree.map(jnp.subtract, start.weights, state.weights)
    np.testing.assert_allclose(fc.trees.norm(noise), metrics["aggregator"]["mean_value"]["norm"], rtol=1e-4)
    assert metrics["aggregator"]["mean_value"]["norm"] > 0.1
    assert state.aggregator["round_num"] == 1 and metrics["finalizer"] == {"update_non_finite": 0}
    again, _ = learning.next(state, reference.cohort(clients, ids))
    first, second = (b.weights["kernel"] - a.weights["kernel"] for a, b in ((start, state), (state, again)))
    assert (first != second).all()


def test_thirty_rounds_are_compiled_once():
    process = _learning(private_mean(AdaptiveNorm(noise_stddev=1.0), 1.0, 4, key=KEY))
    state, counts, random = process.initialize(), [], np.random.default_rng(0)
    structure = jax.tree.structure(state), fc.types.type_of(state)
    with compilations() as seen:
        for number in range(30):
            clients = reference.make_clients(tuple(random.permutation([5, 5, 4, 4]).tolist()), number)
            state, _ = process.next(state, reference.cohort(clients))
            counts.append(len(seen))
    assert counts[-1] == counts[0] > 0
    assert (jax.tree.structure(state), fc.types.type_of(state)) == structure and state.aggregator["round_num"] == 30


def test_wrapping_keeps_that_it_always_releases():
    aggregator = private_mean(1.0, 1.0, 4, key=KEY)
    assert aggregator.always_releases and fc.aggregators.quantize(8, aggregator, key=KEY).always_releases


# Arguments


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"max_norm": 0}, ValueError, r"\(max_norm=...\) must be .* positive .*, got 0; write max_norm=1.0"),
        ({"max_norm": -1.0}, ValueError, "got -1.0; write max_norm=1.0"),
        ({"max_norm": math.nan}, ValueError, "got nan"),
        ({"max_norm": math.inf}, ValueError, "with which the noise is finite, got inf"),
        ({"max_norm": 1e38, "noise_multiplier": 10}, ValueError, "with which the noise is finite"),
        ({"max_norm": 1e-60}, ValueError, "positive float32 number"),
        ({"max_norm": 1e60, "noise_multiplier": 0}, ValueError, "positive float32 number"),
        ({"max_norm": "1"}, TypeError, "an AdaptiveNorm, or a positive"),
        ({"max_norm": True}, TypeError, "got True"),
        ({"max_norm": fc.aggregators.quantile_estimate(1.0, 0.5, 0.2)}, TypeError, "write max_norm=fc.aggregators.Ad"),
        ({"max_norm": AdaptiveNorm(initial=0, noise_stddev=1.0)}, ValueError, r"quantile_estimate\(initial=...\)"),
        ({"max_norm": AdaptiveNorm(noise_stddev=0.5)}, ValueError, "half of the noise multiplier, 0.5, .*got 0.5"),
        ({"max_norm": AdaptiveNorm()}, ValueError, r"got 0.2; write AdaptiveNorm\(noise_stddev=2.0\)"),
        ({"noise_multiplier": -1}, ValueError, "must be at least 0 and finite, got -1; write noise_multiplier=1.0"),
        ({"noise_multiplier": math.inf}, ValueError, "must be at least 0 and finite, got inf"),
        ({"noise_multiplier": None}, TypeError, "must be at least 0 and finite, got None"),
        ({"cohort_size": 0}, ValueError, r"private_mean\(cohort_size=...\) must be at least 1 and finite, got 0"),
        ({"cohort_size": "all"}, TypeError, "got 'all'; write the number of clients in a round"),
        ({"key": 0}, TypeError, r"private_mean\(key=...\) must be one JAX key, got 0; write key=jax.random.key\(0\)"),
        ({"key": jax.random.split(KEY)}, TypeError, "must be one JAX key, got key<fry>"),
    ],
)
def test_refuses(change, error, message):
    with pytest.raises(error, match=message):
        private_mean(**{"max_norm": 1.0, "noise_multiplier": 1.0, "cohort_size": 4, "key": KEY} | change)


@pytest.mark.parametrize("value", ["int32[2]", "complex64", {"w": "float32", "n": "int32"}, "float32*"])
def test_refuses_what_is_no_float(value):
    with pytest.raises(TypeError, match="private_mean takes floats, got"):
        _process(value)
