"""The private estimate of a quantile."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_core as fc
from fedjax_core.aggregators import quantile_estimate
from fedjax_core.templates import EstimationProcess
from tests import robust_references as reference

KEY = jax.random.key(5)
NAN, INF = math.nan, math.inf


@pytest.fixture(scope="module")
def process():
    return quantile_estimate(initial=2.0, target_quantile=0.75, learning_rate=0.5)


@pytest.fixture(scope="module")
def private():
    return quantile_estimate(2.0, 0.75, 0.5, noise_stddev=3.0, cohort_size=10, key=KEY)


def test_is_an_estimation_process(process, private):
    assert isinstance(process, EstimationProcess)
    assert str(process.next.type_signature) == (
        "(<state=<estimate=float32>@SERVER,value={float32}@CLIENTS> -> <estimate=float32>@SERVER)"
    )
    assert str(process.report.type_signature) == "(<estimate=float32>@SERVER -> float32@SERVER)"
    assert str(private.state_type) == "<estimate=float32,key=key<fry>,round_num=int32>@SERVER"
    assert process.report(process.initialize()) == 2.0


def test_agrees_with_the_oracle_over_rounds(process):
    random, oracle = np.random.default_rng(0), reference.Quantile(2.0, 0.75, 0.5)
    state = process.initialize()
    for _ in range(12):
        values = random.lognormal(1.0, 2.0, 9).astype(np.float32)
        state = process.next(state, values)
        oracle.move(values)
        np.testing.assert_allclose(process.report(state), oracle.estimate, rtol=1e-5)


def test_at_the_estimate_counts_as_below(process):
    state = process.next(process.initialize(), [2.0])
    np.testing.assert_allclose(process.report(state), 2 * math.exp(-0.5 * 0.25), rtol=1e-6)


@pytest.mark.parametrize("values", [[], [NAN] * 9])
def test_nobody_leaves_it_as_it_is(process, values):
    assert process.report(process.next(process.initialize(), values)) == 2.0


def test_missing_numbers_are_left_out_and_infinity_is_above(process):
    some = process.next(process.initialize(), np.float32([1.0, 3.0, INF]))
    with_missing = process.next(process.initialize(), np.float32([1.0, NAN, 3.0, NAN, INF]))
    np.testing.assert_array_equal(some["estimate"], with_missing["estimate"])
    np.testing.assert_allclose(some["estimate"], 2 * math.exp(-0.5 * (1 / 3 - 0.75)), rtol=1e-6)


def test_order_and_lanes_and_devices_change_no_bit(process):
    values = np.random.default_rng(1).lognormal(1.0, 1.0, 40).astype(np.float32)
    expected = process.next(process.initialize(), values)
    for lanes, devices, chosen in [(1, 2, values), (3, 1, values[::-1]), (8, 4, np.roll(values, 7))]:
        next = process.next.with_config(fc.EngineConfig(lanes=lanes, devices=devices))
        np.testing.assert_array_equal(next(process.initialize(), chosen)["estimate"], expected["estimate"])


@pytest.mark.parametrize("target, initial", [(0.2, 1e-3), (0.5, 1e3), (0.9, 1.0)])
def test_converges_to_the_quantile_of_a_fixed_distribution(target, initial):
    process = quantile_estimate(initial, target, 0.2)
    values = np.random.default_rng(2).lognormal(0.0, 1.0, 200).astype(np.float32)
    next = process.next.as_function()

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda state, _: (next(state, values), state["estimate"]), state, length=400)

    _, estimates = run(process.initialize())
    near = estimates[-50:]  # the last steps go back and forth over the quantile
    np.testing.assert_allclose(np.mean(values[:, None] <= np.asarray(near)[None], 0), target, atol=0.02)


def test_fixed_denominator_is_centered(private):
    """A missing client counts as one half, so that a client moves the sum by at most one half."""
    process = quantile_estimate(2.0, 0.75, 0.5, cohort_size=10)
    for values in ([1.0, 1.5, 9.0], [], [NAN, 5.0]):
        given = [v for v in values if not math.isnan(v)]
        below = 0.5 + sum((v <= 2.0) - 0.5 for v in given) / 10
        state = process.next(process.initialize(), np.float32(values))
        np.testing.assert_allclose(process.report(state), 2 * math.exp(-0.5 * (below - 0.75)), rtol=1e-6)


def test_noise_is_unbiased_and_of_the_stated_deviation(private):
    number, values = 4000, jnp.array([1.0, 1.5, 9.0])
    states = {
        "estimate": jnp.full(number, 2.0),
        "key": jax.random.split(jax.random.key(1), number),
        "round_num": jnp.zeros(number, jnp.int32),
    }
    moved = jax.jit(jax.vmap(private.next.as_function(), (0, None)))(states, values)
    below = 0.75 - np.log(np.asarray(moved["estimate"], np.float64) / 2) / 0.5
    deviation = 3.0 / 10
    assert abs(below.mean() - (0.5 + 0.5 / 10)) < 4 * deviation / math.sqrt(number)
    assert abs(below.std() / deviation - 1) < 4 / math.sqrt(2 * number)


def test_noise_differs_from_round_to_round_and_the_key_stays(private):
    state, factors = private.initialize(), []
    for _ in range(3):
        moved = private.next(state, [])
        factors.append(float(moved["estimate"] / state["estimate"]))
        state = moved
    assert len(set(factors)) == 3 and state["round_num"] == 3
    np.testing.assert_array_equal(jax.random.key_data(state["key"]), jax.random.key_data(KEY))
    again = quantile_estimate(2.0, 0.75, 0.5, noise_stddev=3.0, cohort_size=10, key=jax.random.key(5))
    np.testing.assert_array_equal(again.next(again.initialize(), [])["estimate"] / 2, np.float32(factors[0]))


def test_without_noise_the_key_is_not_used():
    process = quantile_estimate(2.0, 0.75, 0.5, key=KEY)
    assert str(process.state_type) == "<estimate=float32>@SERVER"


def test_never_leaves_the_positive_numbers():
    process = quantile_estimate(1.0, 0.5, 100.0)
    low = high = process.initialize()
    for _ in range(4):
        low, high = process.next(low, [0.0]), process.next(high, [INF])
    assert 0 < process.report(low) < 1e-30 and 1e30 < process.report(high) < INF
    for _ in range(2):
        low, high = process.next(low, [1.0]), process.next(high, [1.0])
    assert process.report(low) > 1e-10 and process.report(high) < 1e10


@pytest.mark.parametrize(
    "geometric, expected", [(False, 3.14159 + 2.71828 * 0.61803), (True, 3.14159 * math.exp(2.71828 * 0.61803))]
)
def test_one_step_is_that_of_tff(geometric, expected):
    """Two clients above the estimate; the numbers are those of TFF's test of its quantile estimation."""
    process = quantile_estimate(3.14159, 0.61803, 2.71828, geometric_update=geometric)
    state = process.next(process.initialize(), [4.14159, 5.14159])
    np.testing.assert_allclose(process.report(state), expected, rtol=1e-6)


@pytest.mark.parametrize("cohort_size", [None, 2])
@pytest.mark.parametrize(
    "initial, target, values, expected",
    [
        (10.0, 0.0, (8.5, 7.25), [9.0, 8.0, 7.5, 7.0, 7.0]),
        (0.0, 1.0, (1.5, 2.75), [1.0, 2.0, 2.5, 3.0, 3.0]),
        (1.0, 0.0, (-0.5, -1.5), [0.0, -1.0, -1.5, -2.0, -2.0]),
    ],
)
def test_arithmetic_steps_follow_the_extremes(initial, target, values, expected, cohort_size):
    """The first two rows are those of TFF's tests; by hand, a step is the fraction of the clients that are beyond."""
    process = quantile_estimate(initial, target, 1.0, geometric_update=False, cohort_size=cohort_size)
    state = process.initialize()
    for estimate in expected:
        state = process.next(state, np.float32(values))
        np.testing.assert_allclose(process.report(state), estimate, rtol=1e-6)


def test_an_arithmetic_estimate_has_the_noise_of_the_count():
    process = quantile_estimate(2.0, 0.75, 0.5, geometric_update=False, noise_stddev=3.0, cohort_size=10, key=KEY)
    geometric = quantile_estimate(2.0, 0.75, 0.5, noise_stddev=3.0, cohort_size=10, key=KEY)
    moved, factor = (p.next(p.initialize(), [1.0])["estimate"] for p in (process, geometric))
    np.testing.assert_allclose(moved - 2.0, np.log(factor / 2.0), rtol=1e-5)


def test_an_arithmetic_estimate_stays_finite():
    process = quantile_estimate(-1.0, 0.5, 3e38, geometric_update=False)
    low = high = process.initialize()
    for _ in range(4):
        low, high = process.next(low, [-INF]), process.next(high, [INF])
    assert -INF < process.report(low) < -3e38 and 3e38 < process.report(high) < INF


def test_a_secure_estimation_has_the_same_result():
    """The numbers of TFF's test: two clients above the estimate, one below."""
    secure, plain = (quantile_estimate(1.0, 0.5, 1.0, secure_estimation=secure) for secure in (True, False))
    states = [secure.initialize(), plain.initialize()]
    for _ in range(3):
        states = [p.next(state, [0.5, NAN, 1.5, 2.5]) for p, state in zip((secure, plain), states)]
        np.testing.assert_array_equal(states[0]["estimate"], states[1]["estimate"])
    assert "federated_secure_sum" in secure.next.describe()


def test_map_makes_a_bound(process):
    @fc.federated_computation(fc.at_server("float32"))
    def doubled(estimate):
        return fc.federated_map(lambda c: 2 * c, estimate)

    assert process.map(doubled).report(process.initialize()) == 4.0


GOOD = {"initial": 1.0, "target_quantile": 0.5, "learning_rate": 0.2}


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        ({"initial": 0.0}, ValueError, r"initial=\.\.\.\) must be positive"),
        ({"initial": 1e-60}, ValueError, "positive and finite in float32"),
        ({"initial": NAN}, ValueError, "initial"),
        ({"initial": "1"}, TypeError, "initial"),
        ({"initial": True}, TypeError, "initial"),
        ({"target_quantile": 1.5}, ValueError, "from 0 to 1"),
        ({"learning_rate": -0.2}, ValueError, "learning_rate"),
        ({"learning_rate": INF}, ValueError, "learning_rate"),
        ({"initial": -INF, "geometric_update": False}, ValueError, r"initial=\.\.\.\) must be finite"),
        ({"geometric_update": "arithmetic"}, TypeError, "write geometric_update=False for arithmetic"),
        ({"noise_stddev": -1.0}, ValueError, "noise_stddev"),
        ({"cohort_size": 0}, ValueError, "cohort_size"),
        ({"noise_stddev": 1.0}, TypeError, "needs a cohort_size"),
        ({"noise_stddev": 1.0, "cohort_size": 10}, TypeError, r"write quantile_estimate.*key=jax\.random\.key"),
        ({"noise_stddev": 1.0, "cohort_size": 10, "key": 7}, TypeError, "one JAX key"),
        ({"key": jax.random.split(KEY)}, TypeError, "one JAX key"),
    ],
)
def test_wrong_arguments_are_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        quantile_estimate(**(GOOD | wrong))
