"""The weighted mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedjax_core as fc

VALUE = {"w": "float32[3]", "b": "float32"}


@pytest.fixture(scope="module")
def process():
    return fc.aggregators.as_process(fc.aggregators.mean(), VALUE)


def _draw(seed, number):
    random = np.random.default_rng(seed)
    values = [{"w": random.normal(size=3).astype(np.float32), "b": np.float32(random.normal())} for _ in range(number)]
    return values, random.integers(0, 5, number).astype(np.float32)


@given(seed=st.integers(0, 100), number=st.integers(1, 8))
@settings(max_examples=15)
def test_agrees_with_the_oracle(process, seed, number):
    values, weights = _draw(seed, number)
    weights[0] += 1
    output = process.next(process.initialize(), values, weights)
    for name in ("w", "b"):
        expected = sum(np.float64(w) * v[name] for w, v in zip(weights, values)) / weights.sum(dtype=np.float64)
        np.testing.assert_allclose(output.result[name], expected, rtol=1e-5, atol=1e-6)
    flat = np.append(output.result["w"], output.result["b"])
    np.testing.assert_allclose(output.measurements["mean_value"]["norm"], np.linalg.norm(flat), rtol=1e-5)
    assert output.measurements["mean_weight"] == {"num_zero": 0, "total": weights.sum()}


def test_is_the_operator_bit_for_bit(process):
    values, weights = _draw(1, 7)

    @fc.federated_computation(fc.at_clients(VALUE), fc.at_clients("float32"))
    def operator(value, weight):
        return fc.federated_mean(value, weight)

    result = process.next(process.initialize(), values, weights).result
    for name, expected in operator(values, weights).items():
        np.testing.assert_array_equal(result[name], expected)


@pytest.mark.parametrize("number", [0, 3])
def test_total_weight_of_zero_gives_zero_and_is_counted(process, number):
    values, _ = _draw(2, number)
    output = process.next(process.initialize(), values, np.zeros(number, np.float32))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(output.result))
    assert output.measurements == {"mean_value": {"norm": 0.0}, "mean_weight": {"num_zero": 1, "total": 0.0}}


def test_a_negative_weight_is_taken_as_it_is(process):
    values = [{"w": np.full(3, v, np.float32), "b": np.float32(v)} for v in (1, 4)]
    result = process.next(process.initialize(), values, [-1.0, 3.0]).result
    assert result["b"] == 5.5 and (result["w"] == 5.5).all()


def test_gradient_is_the_closed_form_and_zero_for_nobody():
    process = fc.aggregators.as_process(fc.aggregators.mean(), "float32")
    mean = process.next.as_function()

    def result(values, weights):
        return mean((), values, weights).result

    values, weights = jnp.array([1.0, 2.0, 5.0]), jnp.array([1.0, 3.0, 0.0])
    by_value, by_weight = jax.grad(result, (0, 1))(values, weights)
    np.testing.assert_allclose(by_value, weights / 4)
    np.testing.assert_allclose(by_weight, (values - 1.75) / 4)
    np.testing.assert_array_equal(jax.grad(result)(values, jnp.zeros(3)), np.zeros(3))


@pytest.mark.parametrize(("dtype", "result"), [("bfloat16", "bfloat16"), ("int32", "float32"), ("float16", "float16")])
def test_dtypes(dtype, result):
    process = fc.aggregators.as_process(fc.aggregators.mean(), dtype)
    output = process.next(process.initialize(), jnp.array([1, 2, 4], dtype), np.array([1, 1, 2], np.float32))
    assert output.result.dtype == result and output.result == 2.75


def test_sums_of_half_precision_are_formed_in_single_precision():
    process = fc.aggregators.as_process(fc.aggregators.mean(), "bfloat16")
    output = process.next(process.initialize(), jnp.ones(1000, "bfloat16"), np.ones(1000, np.float32))
    assert output.result == 1.0


def test_type_signature():
    process = fc.aggregators.as_process(fc.aggregators.mean(), VALUE)
    assert process.is_weighted
    assert str(process.next.type_signature) == (
        "(<state=<>@SERVER,value={<b=float32,w=float32[3]>}@CLIENTS,weight={float32}@CLIENTS> -> "
        "<state=<>@SERVER,result=<b=float32,w=float32[3]>@SERVER,"
        "measurements=<mean_value=<norm=float32>,mean_weight=<num_zero=int32,total=float32>>@SERVER>)"
    )
