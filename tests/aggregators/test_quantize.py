"""Compression, and uniform stochastic quantization."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import fedjax_core as fc
from fedjax_core.aggregators import compress, mean, quantize
from fedjax_core.aggregators._quantize import _round, _uniform
from tests import learning_references as reference
from tests.test_traces import compilations

KEY = jax.random.key(5)
VALUE = "float32[40]"


@pytest.fixture(scope="module")
def process():
    return fc.aggregators.as_process(quantize(3, key=KEY), VALUE)


def _draw(seed, number):
    random = np.random.default_rng(seed)
    return random.normal(size=(number, 40)).astype(np.float32)


_rounded = jax.jit(_round, static_argnums=2)


@given(seed=st.integers(0, 50), num_bits=st.sampled_from([1, 2, 5, 8, 16]), scale=st.sampled_from([1e-30, 1.0, 1e30]))
@settings(max_examples=25)
def test_entries_go_to_one_of_the_two_levels_next_to_them(seed, num_bits, scale):
    value = (scale * np.random.default_rng(seed).normal(size=33)).astype(np.float32)
    result = np.float64(_rounded(value, jax.random.key(seed), 2**num_bits - 1))
    low, high = np.float64(value.min()), np.float64(value.max())
    step = (high - low) / (2**num_bits - 1)
    tolerance = 1e-5 * np.abs(value).max()
    assert np.abs(result - value).max() < step + tolerance
    levels = (result - low) / step
    np.testing.assert_allclose(levels * step, np.round(levels) * step, rtol=0, atol=tolerance)
    assert result[value.argmin()] == low and result[value.argmax()] == high


def test_is_unbiased_with_the_variance_of_a_coin():
    value, number = np.linspace(-1.0, 2.0, 61, dtype=np.float32), 20_000
    keys = jax.random.split(KEY, number)
    results = np.float64(jax.vmap(lambda key: _round(jnp.asarray(value), key, 3))(keys))
    fraction = (np.float64(value) + 1) % 1
    deviation = np.sqrt(fraction * (1 - fraction))
    assert (np.abs(results.mean(0) - value) < 4.5 * deviation / np.sqrt(number) + 1e-6).all()
    np.testing.assert_allclose(results.std(0), deviation, atol=0.02)


def test_draws_are_uniform_and_independent():
    draws = np.float64(jax.vmap(lambda key: _uniform(key, (3, 7)))(jax.random.split(KEY, 2000))).reshape(2000, 21)
    assert draws.shape == (2000, 21) and draws.min() >= 0 and draws.max() <= 1
    assert scipy.stats.kstest(draws.ravel(), "uniform").pvalue > 0.001
    assert np.abs(np.corrcoef(draws.T)[np.triu_indices(21, 1)]).max() < 4.5 / np.sqrt(2000)
    fine = np.float64(_uniform(KEY, (5000,)))
    assert scipy.stats.kstest(fine, "uniform").pvalue > 0.001


@pytest.mark.parametrize("other", [1, 3, 1024, 4096])
def test_two_draws_are_independent_however_far_apart(other):
    def pair(key):
        return _uniform(key, (4097,))[jnp.array([0, other])]

    first, second = np.asarray(jax.vmap(pair)(jax.random.split(KEY, 3000))).T
    counts, _, _ = np.histogram2d(first, second, bins=8, range=[[0, 1], [0, 1]])
    assert scipy.stats.chisquare(counts.ravel()).pvalue > 0.001


@pytest.mark.parametrize("value", [[0, 0, 0], [-7.0, -7.0], [-3e38, 3e38], [], 2.5], ids=str)
@pytest.mark.parametrize("num_bits", [1, 16])
def test_what_lies_on_the_levels_passes(value, num_bits):
    value = np.asarray(value, np.float32)
    np.testing.assert_array_equal(_rounded(value, KEY, 2**num_bits - 1), value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_does_not_come_out_finite(bad):
    assert not np.isfinite(_rounded(np.array([1, bad, 2], np.float32), KEY, 15)).any()


def test_clients_leaves_and_rounds_draw_for_themselves():
    aggregator = quantize(1, fc.aggregators.sum(), key=KEY)
    process = fc.aggregators.as_process(aggregator, {"a": "float32[64]", "b": "float32[64]"})
    value = np.linspace(0, 1, 64, dtype=np.float32)

    def sent(state, number):
        weights = np.ones(number, np.float32)
        return process.next(state, [{"a": value, "b": value}] * number, weights)

    start = process.initialize()
    one, two = sent(start, 1), sent(start, 2)
    first, second = one.result, fc.trees.subtract(two.result, one.result)
    later = sent(one.state, 1).result
    draws = [tuple(np.asarray(d[name])) for d in (first, second, later) for name in "ab"]
    assert len(set(draws)) == 6
    np.testing.assert_array_equal(jax.random.key_data(one.state["key"]), jax.random.key_data(start["key"]))
    assert one.state["round_num"] == 1


def test_measures_the_bits(process):
    output = process.next(process.initialize(), _draw(0, 5), np.ones(5, np.float32))
    assert output.measurements["num_bits_per_client"] == 3 * 40 + 64
    assert output.measurements["num_bits"] == 5 * (3 * 40 + 64)
    assert output.measurements["inner"]["mean_weight"]["total"] == 5
    nobody = process.next(process.initialize(), [], []).measurements
    assert nobody["num_bits"] == 0 and np.isnan(nobody["num_bits_per_client"])


def test_bits_beyond_an_int32_are_counted():
    many = 3_000_000_000
    process = fc.aggregators.as_process(compress(lambda value, key: (value, float(many)), key=KEY), "float32")
    output = process.next(process.initialize(), np.ones(3, np.float32), np.ones(3, np.float32))
    np.testing.assert_allclose(output.measurements["num_bits"], 3 * many, rtol=1e-6)
    assert output.result == 1.0


@pytest.mark.slow
def test_a_client_draws_the_same_whoever_else_takes_part():
    clients = reference.make_clients((3, 3, 3))
    learning = fc.algorithms.fed_avg(
        reference.linear_model(),
        optax.sgd(0.1),
        aggregator=quantize(2, fc.aggregators.sum(), key=KEY),
        key=jax.random.key(0),
    )
    state = learning.initialize()

    def update(ids):
        return fc.trees.subtract(state.weights, learning.next(state, reference.cohort(clients, ids))[0].weights)

    both = fc.trees.add(update(["a"]), update(["c"]))
    reference.assert_close(update(["c", "a"]), both, rtol=1e-4, atol=1e-5)


def test_half_precision():
    process = fc.aggregators.as_process(quantize(4, key=KEY), "bfloat16[16]")
    value = jnp.linspace(0, 15, 16, dtype="bfloat16")
    result = process.next(process.initialize(), value[None], np.ones(1, np.float32)).result
    assert result.dtype == "bfloat16"
    np.testing.assert_array_equal(np.float32(result), np.arange(16))


def test_thirty_rounds_are_compiled_once_and_learn():
    clients = reference.make_clients((6, 5, 5))
    learning = fc.algorithms.fed_avg(
        reference.linear_model(), optax.sgd(0.3), aggregator=quantize(6, key=KEY), key=jax.random.key(0)
    )
    state, losses, counts = learning.initialize(), [], []
    with compilations() as seen:
        for _ in range(30):
            state, metrics = learning.next(state, reference.cohort(clients))
            losses.append(float(metrics["client_work"]["train"]["loss"]))
            counts.append(len(seen))
    assert counts[-1] == counts[0] and losses[-1] < 0.8 * losses[0]
    assert state.aggregator["round_num"] == 30


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"num_bits": 0}, ValueError, r"\(num_bits=...\) must be an integer from 1 to 16, got 0; write num_bits=8"),
        ({"num_bits": 17}, ValueError, "got 17"),
        ({"num_bits": 2.0}, ValueError, "got 2.0"),
        ({"num_bits": True}, TypeError, "got True"),
        ({"num_bits": "8"}, TypeError, "got '8'"),
        (
            {"inner": mean},
            TypeError,
            r"\(inner=...\) must be an Aggregator, got .*; write inner=fc.aggregators.mean\(\)",
        ),
        ({"key": 1}, TypeError, r"quantize\(key=...\) must be one JAX key, got 1"),
    ],
)
def test_refuses(wrong, error, message):
    with pytest.raises(error, match=message):
        quantize(**{"num_bits": 8, "key": KEY} | wrong)


def test_refuses_what_is_no_compressor():
    with pytest.raises(TypeError, match=r"compress\(round_trip=...\) must be a function .*, got 8; write lambda"):
        compress(8, key=KEY)


@pytest.mark.parametrize("value", ["int32[2]", "complex64", {"w": "float32", "n": "int32"}])
def test_refuses_what_is_no_float(value):
    with pytest.raises(TypeError, match="quantize takes floats, got"):
        fc.aggregators.as_process(quantize(8, key=KEY), value)
