"""A whole round as a pure JAX function: differentiated, scanned."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from tests import learning_references as reference

KEY = jax.random.key(13)
MODEL = reference.linear_model()
CLIENTS = reference.make_clients((5, 3, 0, 4, 7, 1))


@pytest.fixture(scope="module")
def process():
    return fc.algorithms.fed_avg(MODEL, optax.sgd(0.3, momentum=0.9), server_optimizer=optax.adam(0.1), key=KEY)


def test_gradient_with_respect_to_the_initial_weights(process):
    state = process.initialize()
    next = process.next.as_function()
    cohort = fc.pack_cohort(reference.cohort(CLIENTS))
    held_out = {name: jnp.asarray(part) for name, part in reference.make_clients((20,), 9)["a"].items()}

    def loss(weights):
        new, _ = next(state._replace(weights=weights), cohort)
        return MODEL.loss(MODEL.predict(new.weights, held_out), held_out).mean()

    loss = jax.jit(loss)
    slope = jax.grad(loss)(state.weights)
    assert fc.trees.is_finite(slope)
    direction = jax.tree.map(lambda g: g / fc.trees.norm(slope), slope)
    step = jax.tree.map(lambda d: 1e-2 * d, direction)
    ahead, behind = loss(fc.trees.add(state.weights, step)), loss(fc.trees.subtract(state.weights, step))
    np.testing.assert_allclose((ahead - behind) / 2e-2, fc.trees.norm(slope), rtol=2e-2)
    assert fc.trees.norm(slope) > 1e-3


@pytest.mark.slow
def test_gradient_of_a_round_without_examples():
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.3, momentum=0.9), key=KEY)
    state = process.initialize()
    next = process.next.as_function()
    rounds = fc.stack_cohorts([reference.cohort(CLIENTS, ids) for ids in (["c", "c"], ["a", "b"])])
    cohort = jax.tree.map(lambda leaf: leaf[0], rounds)

    def loss(weights):
        new, _ = next(state._replace(weights=weights), cohort)
        return fc.trees.squared_norm(new.weights)

    reference.assert_close(jax.grad(loss)(state.weights), jax.tree.map(lambda w: 2 * w, state.weights))


@pytest.mark.slow
def test_scan_of_ten_rounds_equals_ten_calls(process):
    random = np.random.default_rng(0)
    names = list(CLIENTS)
    cohorts = [reference.cohort(CLIENTS, random.choice(names, 3, replace=False)) for _ in range(10)]
    next = process.next.as_function()
    state, metrics = jax.jit(lambda s, c: jax.lax.scan(lambda s, c: tuple(next(s, c)), s, c))(
        process.initialize(), fc.stack_cohorts(cohorts)
    )
    expected, history = process.initialize(), []
    for cohort in cohorts:
        expected, measured = process.next(expected, cohort)
        history.append(measured)
    key = expected.key
    assert (jax.random.key_data(state.key) == jax.random.key_data(key)).all()
    keyless = [s._replace(key=0) for s in (state, expected)]
    reference.assert_close(*keyless, rtol=1e-6, atol=1e-6)
    stacked = jax.tree.map(lambda *rows: np.stack(rows), *history)
    reference.assert_close(metrics, stacked, rtol=1e-5, atol=1e-6)


def test_evaluation_is_differentiable():
    evaluation = fc.algorithms.federated_evaluation(MODEL).as_function()
    cohort = fc.pack_cohort(reference.cohort(CLIENTS))
    weights = MODEL.init(KEY)
    slope = jax.grad(lambda w: evaluation(w, cohort)["eval"]["loss"])(weights)
    everyone = {name: np.concatenate([c[name] for c in CLIENTS.values()]) for name in ("x", "y")}
    reference.assert_close(slope, reference.gradient(reference.as_float64(weights), everyone))


RATED = {
    "fed_avg": lambda rate: fc.algorithms.fed_avg(MODEL, lambda round_num: optax.sgd(rate, momentum=0.9), key=KEY),
    "a rate in the state": lambda rate: fc.algorithms.fed_avg(
        MODEL, optax.inject_hyperparams(optax.sgd)(learning_rate=rate), key=KEY
    ),
}


@pytest.mark.parametrize("process_of", RATED.values(), ids=RATED)
def test_gradient_past_a_client_of_nan_is_that_without_it(process_of):
    """With respect to the weights, and to the clients' learning rate, which the function closes over."""
    clients = {**CLIENTS, "b": jax.tree.map(lambda leaf: leaf * np.nan if leaf.ndim > 1 else leaf, CLIENTS["b"])}
    spoilt, spared = ["a", "b", "d"], ["a", "c", "d"]
    rounds = fc.stack_cohorts([reference.cohort(clients, ids) for ids in (spoilt, spared)])

    def loss(rate, weights, cohort):
        process = process_of(rate)
        new, metrics = process.next.as_function()(process.initialize()._replace(weights=weights), cohort)
        return fc.trees.squared_norm(new.weights) + metrics["client_work"]["train"]["loss"]

    slope = jax.jit(jax.grad(loss, argnums=(0, 1)))
    cohorts = [jax.tree.map(operator.itemgetter(i), rounds) for i in range(2)]
    found, expected = (slope(0.3, MODEL.init(KEY), cohort) for cohort in cohorts)
    assert fc.trees.norm(expected) > 1e-2
    reference.assert_close(found, expected)
