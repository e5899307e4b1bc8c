"""The mean by sums of bounded integers, against the mean in float64."""

import math

import jax
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.aggregators import as_process, mean, quantile_estimate, secure_mean
from tests import learning_references

VALUE = {"w": "float32[3]", "b": "bfloat16"}
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def fixed():
    return as_process(secure_mean(6.0), "float32[3]")


@pytest.fixture(scope="module")
def scalar():
    return as_process(secure_mean(100.0, max_weight=4.0), "float32")


def _draw(number):
    random = np.random.default_rng(0)
    return random.normal(size=(number, 3)).astype(np.float32), random.integers(1, 5, number).astype(np.float32)


def test_agrees_with_the_oracle(fixed):
    values, weights = _draw(40)
    weighted = np.clip(np.float64(values) * weights[:, None], -6, 6)
    clipped = np.sum(np.any(np.abs(values * weights[:, None]) > 6, axis=1))
    output = fixed.next(fixed.initialize(), values, weights)
    np.testing.assert_allclose(output.result, weighted.sum(0) / weights.sum(), rtol=1e-6)
    assert 0 < clipped == output.measurements["num_clipped"] and output.measurements["num_non_finite"] == 0
    assert output.measurements["mean_weight"]["total"] == weights.sum() and output.measurements["bound"] == 6.0
    np.testing.assert_allclose(output.measurements["mean_value"]["norm"], np.linalg.norm(output.result), rtol=1e-6)


def test_order_and_lanes_and_devices_change_no_bit(fixed):
    values, weights = _draw(40)
    expected = fixed.next(fixed.initialize(), values, weights).result
    for lanes, devices, order in [(3, 2, slice(None, None, -1)), (8, 4, slice(None))]:
        next = fixed.next.with_config(fc.EngineConfig(lanes=lanes, devices=devices))
        np.testing.assert_array_equal(next((), values[order], weights[order]).result, expected)


@pytest.mark.parametrize(
    "values, weights, expected, num_clipped, num_non_finite",
    [
        ([1.0, 4.0], [1.0, 2.0], 3.0, 0, 0),
        ([1.0, 4.0, NAN, 9.0], [1.0, 2.0, 1.0, INF], 3.0, 0, 2),
        ([60.0, 4.0], [2.0, 2.0], (100 + 8) / 4, 1, 0),  # 120 is beyond the bound
        ([1.0, 4.0], [1.0, 9.0], (1 + 16) / 5, 1, 0),  # a weight of 9 counts as 4
        ([1.0, 4.0], [1.0, -2.0], 1.0, 1, 0),  # a negative weight counts as zero
        ([1.0, 3e38], [1.0, 3.0], 101 / 4, 1, 0),  # the product overflows
        ([3.0, 5.0], [1e-30, 0.0], 0.0, 0, 0),  # a total of zero, since a weight is rounded to zero
        ([], [], 0.0, 0, 0),
    ],
)
def test_by_hand(scalar, values, weights, expected, num_clipped, num_non_finite):
    output = scalar.next(scalar.initialize(), np.float32(values), np.float32(weights))
    np.testing.assert_allclose(output.result, expected, rtol=1e-6)
    counted = [output.measurements[name] for name in ("num_clipped", "num_non_finite")]
    assert counted == [num_clipped, num_non_finite]
    assert output.measurements["mean_weight"]["num_zero"] == (expected == 0)


def test_rounding_is_within_what_is_measured():
    """The steps of a bound of 100 are 2**-24, which is much for weights about 1e-5."""
    process = as_process(secure_mean(100.0, max_weight=1.0), "float32[100]")
    values, weights = np.random.default_rng(0).random((9, 100), np.float32), np.linspace(1e-5, 2e-5, 9, dtype="float32")
    output = process.next(process.initialize(), values, weights)
    error = np.abs(output.result - np.average(np.float64(values), axis=0, weights=weights)).max()
    rounding = output.measurements["mean_value"]["rounding"]
    np.testing.assert_allclose(rounding, 9 * 2.0**-25 / weights.sum(), rtol=1e-3)
    assert rounding / 10 < error < rounding


def test_a_total_beyond_32_bits():
    process = as_process(secure_mean(1.0), "float32")
    values = np.where(np.arange(3001) % 3, np.float32(1.0), np.float32(-1.0))
    output = process.next(process.initialize(), values, np.ones(3001, np.float32))
    np.testing.assert_allclose(output.result, np.float64(values).mean(), rtol=1e-6)


def test_an_infinite_bound_clips_what_overflows():
    process = as_process(secure_mean(INF), "float32")
    output = process.next(process.initialize(), np.float32([2e38, -2e38, 2e38]), np.float32([1, 1, 2]))
    np.testing.assert_allclose(output.result, float(np.finfo(np.float32).max) / 4, rtol=1e-6)
    assert output.measurements["num_clipped"] == 1


def test_a_tiny_bound():
    process = as_process(secure_mean(1e-25), "float32")
    assert process.next(process.initialize(), [2.0, 3.0], [1.0, 1.0]).result == np.float32(1e-25)


def test_the_bound_adapts():
    """Twice an estimate from 50 by exp(.95) each round, while both clients are above it."""
    process = as_process(secure_mean(), "float32")
    state, values = process.initialize(), [500.0, 700.0]
    for round_num in range(4):
        bound = 100 * math.exp(0.95 * round_num)
        output = process.next(state, values, [1.0, 1.0])
        np.testing.assert_allclose(output.measurements["bound"], bound, rtol=1e-5)
        np.testing.assert_allclose(output.result, np.minimum(values, bound).mean(), rtol=1e-5)
        state = output.state


def test_the_estimate_sees_weighted_values_before_clipping():
    process = as_process(secure_mean(quantile_estimate(1.0, 0.5, 1.0, geometric_update=False)), "float32[2]")
    values = np.float32([[0.2, -0.3], [0.1, 0.0], [9.0, 0.0]])
    state = process.next(process.initialize(), values, np.float32([4.0, 1.0, 0.0])).state
    assert process.next(state, values[:0], []).measurements["bound"] == 1.0  # 1.2 is above, .1 below
    above = process.next(process.initialize(), values[:1], [4.0]).state
    assert process.next(above, values[:0], []).measurements["bound"] == 1.5


def test_only_secure_sums_cross():
    sent = [line.strip() for line in as_process(secure_mean(), VALUE).next.describe().splitlines() if "sends" in line]
    assert len(sent) == 4 and all("federated_secure_sum" in line for line in sent[:3])
    assert sent[3].startswith("per client")


def test_a_round_is_that_of_the_mean():
    model, data = learning_references.linear_model(), learning_references.make_clients((7, 3, 12))
    data = fc.data.from_clients(data)
    cohort = data.cohort(data.client_ids, fc.data.Batching(batch_size=4), key=jax.random.key(1))
    weights = []
    for aggregator in (mean(), secure_mean()):
        process = fc.algorithms.fed_avg(model, optax.sgd(0.1), aggregator=aggregator, key=jax.random.key(0))
        weights.append(process.get_model_weights(process.next(process.initialize(), cohort)[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *weights)


def test_wrong_arguments_are_refused():
    for wrong, error in [(0, ValueError), (NAN, ValueError), ("9", TypeError), (mean(), TypeError)]:
        with pytest.raises(error, match=r"secure_mean\(bound=\.\.\.\) must be .* or secure_mean\(\) for a bound"):
            secure_mean(wrong)
    for wrong, error in [(0, ValueError), (1e38, ValueError), (None, TypeError)]:
        with pytest.raises(error, match=r"secure_mean\(max_weight=\.\.\.\) must be a number from 1e-6 to 2\*\*30"):
            secure_mean(max_weight=wrong)
    with pytest.raises(TypeError, match="secure_mean takes floats, got int32"):
        as_process(secure_mean(), "int32")
    with pytest.raises(TypeError, match="secure_mean takes one weight for each client"):
        as_process(secure_mean(), "float32[2]", "float32[2]")
