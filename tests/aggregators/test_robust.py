"""The recommended stack by itself, and in a complete round of learning."""

import math

import jax
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.aggregators import as_process, mean, measure, robust
from tests import learning_references as learning
from tests import robust_references as reference

VALUE = {"w": "float32[3]", "b": "float32"}
KEY = jax.random.key(3)
MODEL = learning.linear_model()
CLIENTS = learning.make_clients((7, 1, 0, 3, 12, 5, 2, 4, 9))


class Stack:
    """The stack in NumPy: zeroing, then clipping, then the mean."""

    def __init__(self, zeroing=True, clipping=True):
        self.largest = reference.Quantile(10.0, 0.98, math.log(10.0)) if zeroing else reference.Fixed(math.inf)
        self.norm = reference.Quantile(1.0, 0.8, 0.2) if clipping else reference.Fixed(math.inf)

    def next(self, values, weights):
        zeroed, num_zeroed = reference.zero(values, self.largest, multiplier=2.0, increment=1.0)
        clipped, num_clipped = reference.clip(zeroed, self.norm)
        return reference.mean(clipped, weights), num_zeroed, num_clipped


def _draw(seed, number=7):
    """Updates, some of them far too large."""
    random = np.random.default_rng(seed)
    sizes = random.choice([0.5, 3.0, 30.0, 1e6], number, p=[0.4, 0.3, 0.2, 0.1])
    values = [{"w": (s * random.normal(size=3)).astype(np.float32), "b": np.float32(random.normal())} for s in sizes]
    return values, random.integers(1, 5, number).astype(np.float32)


@pytest.mark.parametrize("switches", [{}, {"zeroing": False}, {"clipping": False}], ids=str)
def test_agrees_with_the_oracle_over_rounds(switches):
    process, oracle = as_process(robust(**switches), VALUE), Stack(**switches)
    state, zeroed, clipped = process.initialize(), 0, 0
    for seed in range(10):
        values, weights = _draw(seed)
        state, result, measurements = process.next(state, values, weights)
        expected, num_zeroed, num_clipped = oracle.next(values, weights)
        for name, leaf in expected.items():
            np.testing.assert_allclose(result[name], leaf, rtol=5e-5, atol=1e-5 * np.abs(leaf).max())
        clipping = measurements["inner"] if "threshold" in measurements else measurements
        assert measurements.get("num_zeroed", 0) == num_zeroed
        assert clipping.get("num_clipped", 0) == num_clipped
        zeroed, clipped = zeroed + num_zeroed, clipped + num_clipped
    assert (zeroed > 0) == switches.get("zeroing", True) and (clipped > 0) == switches.get("clipping", True)
    if not switches:
        np.testing.assert_allclose(state["threshold"]["estimate"], oracle.largest.estimate, rtol=1e-4)
        np.testing.assert_allclose(state["inner"]["max_norm"]["estimate"], oracle.norm.estimate, rtol=1e-4)


def test_with_both_parts_off_it_is_the_inner():
    inner = mean()
    assert robust(inner, zeroing=False, clipping=False) is inner


def test_first_bounds_are_those_of_the_recommendation():
    process = as_process(robust(), VALUE)
    measurements = process.next(process.initialize(), *_draw(0)).measurements
    assert measurements["threshold"] == 21.0 and measurements["inner"]["max_norm"] == 1.0


@pytest.mark.parametrize("wrong", [{"zeroing": 10.0}, {"clipping": None}])
def test_switches_are_true_or_false(wrong):
    with pytest.raises(TypeError, match=r"must be True or False, .*zero_large\(threshold, clip_by_norm\(max_norm\)\)"):
        robust(**wrong)


@pytest.fixture(scope="module")
def process():
    server = optax.adam(0.1)
    aggregator = robust(measure())
    return fc.algorithms.fed_avg(MODEL, optax.sgd(0.5), server_optimizer=server, aggregator=aggregator, key=KEY)


def _two_rounds(process, next, cohort):
    state = process.initialize()
    for _ in range(2):
        state, metrics = next(state, cohort)
    return state, metrics


@pytest.fixture(scope="module")
def next(process):
    return process.next.with_config(fc.EngineConfig(lanes=2, devices=1))


@pytest.fixture(scope="module")
def expected(process, next):
    return _two_rounds(process, next, learning.cohort(CLIENTS))


@pytest.mark.slow
def test_measurements_of_a_round_nest(expected):
    _, metrics = expected
    aggregator = metrics["aggregator"]
    assert set(aggregator) == {"threshold", "num_zeroed", "num_non_finite", "inner"}
    assert set(aggregator["inner"]) == {"max_norm", "num_clipped", "num_non_finite", "inner"}
    assert set(aggregator["inner"]["inner"]) == {"client_norm", "server_update", "inner"}
    assert set(aggregator["inner"]["inner"]["inner"]) == {"mean_value", "mean_weight"}


@pytest.mark.slow
def test_devices_and_order_and_waves_change_no_bit(process, expected):
    next = process.next.with_config(fc.EngineConfig(lanes=2, devices=4, memory_budget=300))
    learning.assert_same_bits(_two_rounds(process, next, learning.cohort(CLIENTS, list(reversed(CLIENTS)))), expected)


@pytest.mark.slow
def test_lanes_change_nothing(process, expected):
    next = process.next.with_config(fc.EngineConfig(lanes=5, devices=1))
    pairs = zip(_two_rounds(process, next, learning.cohort(CLIENTS)), expected)
    (state, expected_state), (metrics, expected_metrics) = pairs
    learning.assert_close(state._replace(key=0), expected_state._replace(key=0))
    learning.assert_close(metrics, expected_metrics)


def test_thirty_rounds_compile_once_and_empty_ones_move_no_estimate(process, next):
    compiled = []

    def listen(event, duration, **details):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(details.get("fun_name"))

    random = np.random.default_rng(0)
    state, _ = next(process.initialize(), learning.cohort(learning.make_clients([9, 8, 8, 7, 6, 5, 3, 1])))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jit(lambda x: x + 1)(np.ones(3))
        assert compiled.pop()  # so the listener hears what is compiled
        for number in range(30):
            sizes = random.permutation([9, 8, 8, 7, 6, 5, 3, 1]).tolist()
            state, _ = next(state, learning.cohort(learning.make_clients(sizes, number)))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not compiled
    for ids in ([], ["c"]):  # nobody, and somebody without examples
        empty, _ = next(state, learning.cohort(CLIENTS, ids))
        learning.assert_same_bits(empty, state._replace(round_num=state.round_num + 1))
