"""Debug measurements."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.aggregators import as_process, mean, measure, sum

VALUE = {"w": "float32[3]", "b": "float32"}
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def process():
    return as_process(measure(), VALUE)


def _draw(seed, number):
    random = np.random.default_rng(seed)
    values = [{"w": random.normal(size=3).astype(np.float32), "b": np.float32(random.normal())} for _ in range(number)]
    return values, random.integers(1, 9, number).astype(np.float32)


def _norm(value):
    return np.linalg.norm(np.append(value["w"], value["b"]).astype(np.float64))


@pytest.mark.parametrize("number", [2, 3, 20])
def test_moments_agree_with_the_oracle(process, number):
    values, weights = _draw(number, number)
    found = process.next((), values, weights).measurements["client_norm"]
    norms, w = np.array([_norm(v) for v in values]), np.float64(weights)
    average = np.average(norms, weights=w)
    variance = np.sum(w * (norms - average) ** 2) / (w.sum() - np.sum(w**2) / w.sum())
    np.testing.assert_allclose(found["mean"], average, rtol=1e-5)
    np.testing.assert_allclose(found["stddev"], np.sqrt(variance), rtol=1e-5)


def test_equal_weights_give_the_ordinary_deviation(process):
    values, _ = _draw(1, 9)
    found = process.next((), values, np.full(9, 2.5, np.float32)).measurements["client_norm"]
    norms = [_norm(v) for v in values]
    np.testing.assert_allclose(found["mean"], np.mean(norms), rtol=1e-5)
    np.testing.assert_allclose(found["stddev"], np.std(norms, ddof=1), rtol=1e-5)


def test_a_small_deviation_far_from_zero_does_not_cancel():
    """The norms are 10000 and the next float32; float32 does not distinguish their squares."""
    process = as_process(measure(), "float32")
    values = np.float32(10000) + np.float32([0, 1, 2, 3, 4, 5]) / 256
    found = process.next((), values, np.ones(6, np.float32)).measurements["client_norm"]
    np.testing.assert_allclose(found["stddev"], np.std(values.astype(np.float64), ddof=1), rtol=0.1)


def test_one_weight_that_dominates_leaves_a_finite_deviation():
    process = as_process(measure(), "float32")
    found = process.next((), np.float32([1, 2]), np.float32([1e9, 1])).measurements["client_norm"]
    np.testing.assert_allclose(found["stddev"], np.sqrt(0.5), rtol=1e-5)


def test_of_the_server_update(process):
    values, weights = _draw(2, 5)
    output = process.next((), values, weights)
    entries = np.append(output.result["w"], output.result["b"])
    expected = {"norm": np.linalg.norm(entries), "largest": abs(entries).max(), "smallest": abs(entries).min()}
    assert set(output.measurements["server_update"]) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(output.measurements["server_update"][name], value, rtol=1e-6)


def test_result_and_state_are_those_of_the_inner_bit_for_bit(process):
    plain = as_process(mean(), VALUE)
    values, weights = _draw(3, 6)
    expected, output = plain.next((), values, weights), process.next((), values, weights)
    jax.tree.map(np.testing.assert_array_equal, output.result, expected.result)
    jax.tree.map(np.testing.assert_array_equal, output.measurements["inner"], expected.measurements)
    assert output.state == () and measure(mean()._replace(always_releases=True)).always_releases


def test_who_weighs_nothing_or_is_not_finite_is_left_out(process):
    values, weights = _draw(4, 7)
    expected = process.next((), values[:3], weights[:3]).measurements["client_norm"]
    weights[3] = 0
    values[4]["w"][0], weights[5], values[6]["b"] = NAN, INF, np.float32(-INF)
    found = process.next((), values, weights).measurements["client_norm"]
    for name in ("mean", "stddev"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
    assert found["num_non_finite"] == 3 and expected["num_non_finite"] == 0


@pytest.mark.parametrize("number, mean_is_known", [(0, False), (1, True)])
def test_what_is_not_known_is_nan(process, number, mean_is_known):
    values, weights = _draw(5, number)
    found = process.next((), values, weights).measurements["client_norm"]
    assert math.isnan(found["mean"]) != mean_is_known and math.isnan(found["stddev"])


def test_lanes_and_devices_change_nothing(process):
    values, weights = _draw(6, 13)
    outputs = [
        process.next.with_config(fc.EngineConfig(lanes=lanes, devices=devices))((), values, weights)
        for lanes, devices in [(1, 1), (1, 4), (3, 2)]
    ]
    jax.tree.map(np.testing.assert_array_equal, outputs[1], outputs[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), outputs[2], outputs[0])


def test_integers_and_half_precision():
    process = as_process(measure(sum()), {"n": "int32[2]", "h": "bfloat16"})
    value = {"n": np.int32([[3, -4], [0, 0]]), "h": jnp.zeros(2, "bfloat16")}
    measurements = process.next((), value, np.ones(2, np.float32)).measurements
    assert measurements["client_norm"]["mean"] == 2.5
    assert measurements["server_update"] == {"norm": 5.0, "largest": 4.0, "smallest": 0.0}


def test_wrong_inner_is_refused():
    with pytest.raises(TypeError, match=r"measure\(inner=\.\.\.\)"):
        measure(mean)
