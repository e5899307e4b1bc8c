"""Clipping by a fixed and by an estimated norm."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.aggregators import as_process, clip_by_norm, mean, quantile_estimate, sum, zero_large
from fedjax_core.templates import EstimationProcess
from tests import robust_references as reference

VALUE = {"w": "float32[3]", "b": "float32"}
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def fixed():
    return as_process(clip_by_norm(1.5), VALUE)


@pytest.fixture(scope="module")
def neutral():
    return as_process(clip_by_norm(INF), VALUE)


@pytest.fixture(scope="module")
def adaptive():
    return as_process(clip_by_norm(quantile_estimate(1.0, 0.8, 0.2)), VALUE)


@pytest.fixture(scope="module")
def plain():
    return as_process(mean(), VALUE)


def _draw(seed, number=6):
    random = np.random.default_rng(seed)
    sizes = random.lognormal(0.0, 1.0, number)
    values = [{"w": (s * random.normal(size=3)).astype(np.float32), "b": np.float32(random.normal())} for s in sizes]
    return values, random.integers(1, 5, number).astype(np.float32)


def _assert_result(output, values, weights):
    for name, expected in reference.mean(values, weights).items():
        np.testing.assert_allclose(output.result[name], expected, rtol=2e-5, atol=1e-6)


def _same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("seed", range(4))
def test_fixed_norm_agrees_with_the_oracle(fixed, seed):
    values, weights = _draw(seed)
    output = fixed.next(fixed.initialize(), values, weights)
    clipped, number = reference.clip(values, reference.Fixed(1.5))
    assert 0 < number < 6
    _assert_result(output, clipped, weights)
    assert output.measurements["num_clipped"] == number and output.measurements["num_non_finite"] == 0
    assert output.measurements["max_norm"] == 1.5
    assert output.measurements["inner"]["mean_weight"]["total"] == weights.sum()


def test_adaptive_norm_agrees_with_the_oracle_over_rounds(adaptive):
    state, bound = adaptive.initialize(), reference.Quantile(1.0, 0.8, 0.2)
    for seed in range(8):
        values, weights = _draw(seed)
        np.testing.assert_allclose(state["max_norm"]["estimate"], bound.estimate, rtol=1e-5)
        state, result, measurements = adaptive.next(state, values, weights)
        np.testing.assert_allclose(measurements["max_norm"], bound.estimate, rtol=1e-5)
        clipped, number = reference.clip(values, bound)
        for name, expected in reference.mean(clipped, weights).items():
            np.testing.assert_allclose(result[name], expected, rtol=2e-5, atol=1e-6)
        assert measurements["num_clipped"] == number


def test_infinity_is_the_inner_aggregator_bit_for_bit(neutral, plain):
    for seed in range(3):
        values, weights = _draw(seed)
        values[0]["w"][:] = [-0.0, 1e18, 1e-40]
        expected, output = plain.next((), values, weights), neutral.next(neutral.initialize(), values, weights)
        _same(output.result, expected.result)
        _same(output.measurements["inner"], expected.measurements)
        assert output.measurements["num_clipped"] == 0


@pytest.mark.parametrize("wrong", [NAN, INF, -INF])
def test_a_client_that_is_not_finite_is_left_out_and_counted(adaptive, wrong):
    values, weights = _draw(3)
    expected = adaptive.next(adaptive.initialize(), values[2:], weights[2:])
    values[0]["w"][1] = wrong
    weights[1] = wrong
    output = adaptive.next(adaptive.initialize(), values, weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), output.result, expected.result)
    _same(output.state, expected.state)
    assert output.measurements["num_non_finite"] == 2
    assert output.measurements["num_clipped"] == expected.measurements["num_clipped"]


def test_a_client_without_weight_tells_the_estimate_nothing(adaptive):
    values, weights = _draw(4)
    expected = adaptive.next(adaptive.initialize(), values[2:], weights[2:])
    weights[:2] = 0
    _same(adaptive.next(adaptive.initialize(), values, weights).state, expected.state)


def test_nobody(adaptive):
    output = adaptive.next(adaptive.initialize(), [], [])
    _same(output.state, adaptive.initialize())
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(output.result))


@pytest.mark.parametrize("large", [[1e30, 0, 0], [1e38, 1e38, 0]])
def test_a_norm_whose_squares_overflow_is_clipped(fixed, large):
    values = [{"w": np.float32(w), "b": np.float32(0)} for w in (large, [0.5, 0.5, 0.5])]
    output = fixed.next(fixed.initialize(), values, np.ones(2, np.float32))
    clipped = 1.5 * np.float64(large) / np.linalg.norm(np.float64(large))
    np.testing.assert_allclose(output.result["w"], (clipped + 0.5) / 2, rtol=1e-6)
    assert output.measurements["num_clipped"] == 1 and output.measurements["num_non_finite"] == 0


def test_a_client_whose_norm_float32_cannot_hold_is_left_out(fixed):
    values = [{"w": np.float32(w), "b": np.float32(0)} for w in ([3e38, 3e38, 3e38], [0.5, 0.5, 0.5])]
    output = fixed.next(fixed.initialize(), values, np.ones(2, np.float32))
    np.testing.assert_array_equal(output.result["w"], np.full(3, 0.5))
    assert output.measurements["num_clipped"] == 0 and output.measurements["num_non_finite"] == 1


def test_the_norm_is_of_all_leaves_and_dtypes_stay():
    process = as_process(clip_by_norm(5.0, sum()), {"a": "bfloat16", "b": "float32"})
    value = {"a": jnp.bfloat16(6), "b": np.float32(8)}
    output = process.next(process.initialize(), [value], [1.0])
    assert output.result["a"] == 3 and output.result["b"] == 4
    assert (output.result["a"].dtype, output.result["b"].dtype) == (jnp.bfloat16, np.float32)


def test_gradients_are_those_of_clipping():
    process = as_process(clip_by_norm(1.0, sum()), "float32[2]")
    next = process.next.as_function()

    def first_entry(values):
        return next(process.initialize(), values, jnp.ones(len(values))).result[0]

    values = jnp.array([[0.0, 0.0], [0.3, 0.4], [3.0, 4.0], [jnp.nan, 1.0]])
    expected = [[1, 0], [1, 0], [16 / 125, -12 / 125], [0, 0]]  # (I - u u') / |v| where it is clipped
    np.testing.assert_allclose(jax.grad(first_entry)(values), expected, atol=1e-6)


def test_gradients_under_infinity_are_those_of_the_inner():
    process = as_process(clip_by_norm(INF, sum()), "float32[2]")
    next = process.next.as_function()
    gradient = jax.grad(lambda v: next(process.initialize(), v, jnp.ones(2)).result[0])(jnp.array([[0.0, 0], [3, 4]]))
    np.testing.assert_array_equal(gradient, [[1, 0], [1, 0]])


def test_a_wrapped_aggregator_keeps_whether_it_always_releases():
    assert clip_by_norm(1.0, mean()._replace(always_releases=True)).always_releases
    assert not clip_by_norm(1.0).always_releases


def test_type_signature(adaptive):
    assert str(adaptive.next.type_signature) == (
        "(<state=<inner=<>,max_norm=<estimate=float32>>@SERVER,value={<b=float32,w=float32[3]>}@CLIENTS,"
        "weight={float32}@CLIENTS> -> <state=<inner=<>,max_norm=<estimate=float32>>@SERVER,"
        "result=<b=float32,w=float32[3]>@SERVER,measurements=<inner=<mean_value=<norm=float32>,"
        "mean_weight=<num_zero=int32,total=float32>>,max_norm=float32,num_clipped=int32,num_non_finite=int32>@SERVER>)"
    )


@pytest.mark.parametrize(
    "wrong, error",
    [(0.0, ValueError), (-1.0, ValueError), (NAN, ValueError), (True, TypeError), ("1", TypeError), (None, TypeError)],
)
def test_wrong_norms_are_refused(wrong, error):
    with pytest.raises(error, match=r"clip_by_norm\(max_norm=\.\.\.\) must be positive.* to disable clipping leave"):
        clip_by_norm(wrong)


def test_the_norm_moves_by_steps_of_tff_and_back():
    """From 1 by 2/3 to 5/3, as in TFF's test: two of three clients are above 1, and all should be below."""
    estimate = quantile_estimate(1.0, 1.0, 1.0, geometric_update=False)
    process = as_process(clip_by_norm(estimate, sum()), "float32")
    state = process.initialize()
    for expected, bound in [(0.5 + 1 + 1, 1.0), (0.5 + 1.5 + 5 / 3, 5 / 3), (4.0, 2.0)]:
        output = process.next(state, [0.5, 1.5, 2.0], np.ones(3, np.float32))
        np.testing.assert_allclose(output.result, expected, rtol=1e-6)
        np.testing.assert_allclose(output.measurements["max_norm"], bound, rtol=1e-6)
        state = output.state


def test_an_estimate_below_zero_is_a_bound_of_zero():
    """With a bound of -1 the update 3 would become -1."""
    estimate = quantile_estimate(-1.0, 0.5, 1.0, geometric_update=False)
    for aggregator, name in [(clip_by_norm(estimate, sum()), "max_norm"), (zero_large(estimate, sum()), "threshold")]:
        process = as_process(aggregator, "float32[2]")
        output = process.next(process.initialize(), np.float32([[3.0, 4.0], [0.0, 0.0]]), np.ones(2, np.float32))
        assert output.result.tolist() == [0.0, 0.0] and output.measurements[name] == 0.0


@pytest.mark.parametrize("order", [1, 2.0, np.float32(INF)])
def test_orders_agree_with_numpy(order):
    process = as_process(clip_by_norm(1.5, sum(), order=order), VALUE)
    values, _ = _draw(0)
    flat = np.array([[*value["w"], value["b"]] for value in values], np.float64)
    factors = np.minimum(1, 1.5 / np.linalg.norm(flat, order, axis=1))
    assert 0 < np.sum(factors < 1) < len(values)
    output = process.next(process.initialize(), values, np.ones(len(values), np.float32))
    found = [*output.result["w"], output.result["b"]]
    np.testing.assert_allclose(found, (flat * factors[:, None]).sum(0), rtol=2e-5, atol=1e-6)
    assert output.measurements["num_clipped"] == np.sum(factors < 1)


@pytest.mark.parametrize("order, error", [(3, ValueError), (0, ValueError), (NAN, ValueError), ("inf", TypeError)])
def test_other_orders_are_refused(order, error):
    with pytest.raises(error, match=r"clip_by_norm\(order=\.\.\.\) must be 1, 2 or math\.inf, got .* write order=2"):
        clip_by_norm(1.0, order=order)


@pytest.mark.parametrize("wrong", [mean, 1.0, "mean"])
def test_wrong_inner_aggregators_are_refused(wrong):
    with pytest.raises(TypeError, match=r"clip_by_norm\(inner=\.\.\.\)"):
        clip_by_norm(1.0, wrong)


@pytest.mark.parametrize("value", ["int32[2]", {"a": "float32", "n": "int32"}])
def test_values_that_are_not_floating_are_refused(value):
    with pytest.raises(TypeError, match="clip_by_norm takes floating point values"):
        as_process(clip_by_norm(1.0), value)


def _counter(value_type="float32", reported="float32"):
    """An estimation process over other types."""

    @fc.federated_computation
    def initialize():
        return fc.federated_value(np.zeros((), reported), fc.SERVER)

    state = initialize.type_signature.result
    next = fc.federated_computation(lambda state, value: state, state, fc.at_clients(value_type))
    return EstimationProcess(initialize, next, fc.federated_computation(lambda state: state, state))


@pytest.mark.parametrize("types", [("int32", "float32"), ("float32", "int32"), ("float32[2]", "float32")])
def test_estimates_of_something_else_are_refused(types):
    with pytest.raises(TypeError, match=r"must be a number, or an EstimationProcess .*quantile_estimate\(1\.0"):
        clip_by_norm(_counter(*types))


def test_an_estimate_that_returns_more_than_its_state_is_refused():
    inner = quantile_estimate(1.0, 0.5, 0.2)

    @fc.federated_computation(inner.state_type, fc.at_clients("float32"))
    def next(state, value):
        return inner.next(state, value), fc.federated_max(value)

    with pytest.raises(TypeError, match="returns only its state"):
        clip_by_norm(EstimationProcess(inner.initialize, next, inner.report))
