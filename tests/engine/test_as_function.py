"""The traced entry: pure functions under jit, grad, vmap and scan, equal to calls."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import example, given, settings

import fedjax_core as fc
from fedjax_core.data import Batching, FederatedData
from tests import cohorts, references

OPTIMIZER = optax.sgd(0.05, momentum=0.9)


def loss(weights, batch, mask):
    errors = jnp.where(mask, batch["x"] @ weights - batch["y"], 0.0)
    return jnp.sum(errors**2) / 2 / jnp.sum(mask)  # 0 / 0 on a batch that is all padding


def local_train(weights, data):
    def step(carry, batch, mask):
        weights, state, n = carry
        updates, state = OPTIMIZER.update(jax.grad(loss)(weights, batch, mask), state)
        return optax.apply_updates(weights, updates), state, n + jnp.sum(mask, dtype=jnp.float32)

    weights, _, n = data.reduce((weights, OPTIMIZER.init(weights), 0.0), step)
    return weights, n


@fc.federated_computation(fc.at_server("float32[2]"), fc.at_server("key<fry>"), fc.at_clients(cohorts.DATA))
def next_round(weights, key, data):
    trained, n = fc.federated_map(local_train, fc.federated_broadcast(weights), data)
    noise = fc.federated_map(lambda k: 1e-3 * jax.random.normal(k, (2,)), fc.federated_split_key(key))
    noisy = fc.federated_map(jnp.add, trained, noise)
    return fc.federated_mean(noisy, n), fc.federated_collect(fc.federated_client_index())


KEY, WEIGHTS = jax.random.key(2), jnp.array([0.5, 0.25])
function = jax.jit(next_round.as_function())


@settings(max_examples=5)
@given(cohorts.ragged_sizes)
@example([0])
@example([0, 0, 3])
@example([])
def test_a_packed_cohort_gives_what_a_call_gives(sizes):
    cohort = cohorts.make_cohort(cohorts.make_population(sizes))
    expected, found = next_round(WEIGHTS, KEY, cohort), function(WEIGHTS, KEY, fc.pack_cohort(cohort))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[1], expected[1])


def rounds(number: int) -> list:
    clients = cohorts.make_population([4, 9, 1, 0, 6, 12, 3])
    rng = np.random.default_rng(0)
    return [cohorts.make_cohort(clients, rng.choice(list(clients), 4, replace=False).tolist()) for _ in range(number)]


@pytest.mark.slow
def test_a_scan_of_ten_rounds_is_ten_calls():
    drawn = rounds(10)
    weights = WEIGHTS
    for number, cohort in enumerate(drawn):
        weights, _ = next_round(weights, jax.random.fold_in(KEY, number), cohort)

    def step(weights, xs):
        number, cohort = xs
        return next_round.as_function()(weights, jax.random.fold_in(KEY, number), cohort)

    scanned, _ = jax.jit(lambda w, c: jax.lax.scan(step, w, (jnp.arange(10), c)))(WEIGHTS, fc.stack_cohorts(drawn))
    np.testing.assert_allclose(scanned, weights, rtol=1e-6, atol=1e-6)


def test_a_scan_with_one_cohort_closed_over():
    cohort = rounds(1)[0]
    packed, weights = fc.pack_cohort(cohort), WEIGHTS
    for _ in range(10):
        weights, _ = next_round(weights, KEY, cohort)
    run = next_round.as_function()
    scanned, _ = jax.lax.scan(lambda w, _: (run(w, KEY, packed)[0], None), WEIGHTS, length=10)
    np.testing.assert_allclose(scanned, weights, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_vmap_over_weights_and_over_cohorts():
    drawn = rounds(3)
    stacked = jnp.stack([WEIGHTS, 2 * WEIGHTS])
    by_weights, _ = jax.vmap(next_round.as_function(), (0, None, None))(stacked, KEY, fc.pack_cohort(drawn[0]))
    np.testing.assert_allclose(by_weights[1], next_round(2 * WEIGHTS, KEY, drawn[0])[0], rtol=1e-5)
    by_cohort, _ = jax.vmap(next_round.as_function(), (None, None, 0))(WEIGHTS, KEY, fc.stack_cohorts(drawn))
    for found, cohort in zip(by_cohort, drawn):
        np.testing.assert_allclose(found, next_round(WEIGHTS, KEY, cohort)[0], rtol=1e-5)


def test_gradients_are_finite_and_agree_with_differences():
    cohort = cohorts.make_cohort(cohorts.make_population([5, 0, 1, 9, 0]))
    packed = fc.pack_cohort(cohort)

    def objective(weights):
        return jnp.sum(next_round.as_function()(weights, KEY, packed)[0] ** 2)

    gradient = jax.grad(objective)(WEIGHTS)
    assert np.isfinite(gradient).all()
    for direction in np.eye(2, dtype=np.float32):
        step = 1e-2
        difference = (objective(WEIGHTS + step * direction) - objective(WEIGHTS - step * direction)) / (2 * step)
        np.testing.assert_allclose(gradient @ direction, difference, rtol=2e-3)


def test_closed_form_of_broadcast_map_and_weighted_mean():
    @fc.federated_computation(fc.at_server("float32"), fc.at_clients("float32"), fc.at_clients("float32"))
    def risk(theta, values, weights):
        losses = fc.federated_map(lambda t, v: (t - v) ** 3, fc.federated_broadcast(theta), values)
        return fc.federated_mean(losses, weights)

    values, weights = np.array([1.0, 4.0, -2.0], np.float32), np.array([1.0, 2.0, 5.0], np.float32)
    theta, run = 3.0, risk.as_function()
    mean = lambda x: references.weighted_mean(x, weights)  # noqa: E731
    np.testing.assert_allclose(run(theta, values, weights), mean((theta - values) ** 3), rtol=1e-5)
    np.testing.assert_allclose(jax.grad(run)(theta, values, weights), mean(3 * (theta - values) ** 2), rtol=1e-5)
    second = jax.grad(jax.grad(run))(theta, values, weights)
    np.testing.assert_allclose(second, mean(6 * (theta - values)), rtol=1e-5)
    by_value = jax.grad(run, 1)(theta, values, weights)
    np.testing.assert_allclose(by_value, -3 * (theta - values) ** 2 * weights / weights.sum(), rtol=1e-5)
    by_weight = jax.grad(run, 2)(theta, values, weights)
    expected = ((theta - values) ** 3 - mean((theta - values) ** 3)) / weights.sum()
    np.testing.assert_allclose(by_weight, expected, rtol=1e-4)
    hessian = jax.hessian(run, 1)(theta, values, weights)
    np.testing.assert_allclose(hessian, np.diag(6 * (theta - values) * weights / weights.sum()), rtol=1e-5, atol=1e-6)


def test_several_passes_and_all_aggregates():
    @fc.federated_computation(fc.at_clients("float32"))
    def standardize(values):
        mean = fc.federated_mean(values)
        centered = fc.federated_map(jnp.subtract, values, fc.federated_broadcast(mean))
        deviation = fc.federated_map(jnp.sqrt, fc.federated_mean(fc.federated_map(jnp.square, centered)))
        scaled = fc.federated_map(jnp.divide, centered, fc.federated_broadcast(deviation))
        collected, total = fc.federated_collect(values), fc.federated_sum(scaled)
        late = fc.federated_map(lambda c, d: c + d, collected, deviation)
        return scaled, fc.federated_max(scaled), fc.federated_min(scaled), total, late

    values = np.array([1.0, 2.0, 6.0], np.float32)
    exact = (values - values.mean()) / values.std()
    for found in (standardize(values), standardize.as_function()(values), jax.jit(standardize.as_function())(values)):
        np.testing.assert_allclose(found[0], exact, rtol=1e-5)
        np.testing.assert_allclose(found[1:4], (exact.max(), exact.min(), 0), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[4], values + values.std(), rtol=1e-5)
    scaled, largest, smallest, total, late = standardize.as_function()(np.zeros(0, np.float32))
    assert scaled.shape == late.shape == (0,) and (largest, smallest, total) == (-np.inf, np.inf, 0)


def test_stacked_cohorts_of_different_batch_sizes():
    clients = cohorts.make_population([5, 9])
    drawn = [cohorts.make_cohort(clients, batch_size=n) for n in (2, 4)]
    stacked = fc.stack_cohorts(drawn)
    assert stacked.value.index.shape == (2, 5, 2, 4)
    for k, cohort in enumerate(drawn):
        found, _ = function(WEIGHTS, KEY, jax.tree.map(lambda x, k=k: x[k], stacked))
        np.testing.assert_allclose(found, next_round(WEIGHTS, KEY, cohort)[0], rtol=1e-5)


def test_an_index_but_no_examples_of_every_step():
    packed = fc.pack_cohort(cohorts.make_cohort(cohorts.make_population([4] * 20 + [400])))
    assert packed.value.examples["x"].shape == (1 + 480, 2) and packed.value.index.shape == (100, 21, 4)


def test_what_cannot_be_packed():
    clients = cohorts.make_population([5, 9])
    with pytest.raises(TypeError, match=r"expected a cohort, got list; make one with data.cohort"):
        fc.pack_cohort([1.0])
    with pytest.raises(ValueError, match=r"equally many clients, got \[2, 1\]"):
        fc.stack_cohorts([cohorts.make_cohort(clients), cohorts.make_cohort(clients, ["client0"])])
    with pytest.raises(ValueError, match=r"equally many clients, got \[\]"):
        fc.stack_cohorts([])
    other = FederatedData.from_clients({"a": {"x": np.ones((2, 3), np.float32)}}).cohort(["a", "a"], Batching(2))
    with pytest.raises(
        TypeError, match=r"stacked cohorts must have clients of one type, got .* and <x=float32\[\?,3\]>\*"
    ):
        fc.stack_cohorts([cohorts.make_cohort(clients), other])
    with pytest.raises(TypeError, match=r"argument 'data': expected clients of .*, got <x=float32\[\?,3\]>\*"):
        function(WEIGHTS, KEY, fc.pack_cohort(other))
    with pytest.raises(TypeError, match=r"argument 'weights': expected float32\[2\], got float32\[3\]"):
        function(jnp.zeros(3), KEY, fc.pack_cohort(cohorts.make_cohort(clients)))


def test_calls_on_tracers_name_as_function():
    packed = rounds(1)[0]
    for transform in (jax.jit, jax.grad, jax.vmap):
        with pytest.raises(TypeError, match=r"has placements .*write next_round.as_function\(\).*pack_cohort"):
            transform(lambda w: next_round(w, KEY, packed)[0][0])(WEIGHTS)
