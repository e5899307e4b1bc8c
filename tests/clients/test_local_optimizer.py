"""Optimizers that exchange auxiliary variables, step by step against NumPy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_core.clients import LocalOptimizer, local_optimizer, proximal_optimizer, scaffold_optimizer

WEIGHTS = {"w": jnp.array([1.0, -2.0]), "b": (jnp.array(0.5),)}
RATE = 0.25


def run(optimizer: LocalOptimizer, state, weights, gradients):
    """The steps that these gradients, the same for every entry, give."""
    for gradient in gradients:
        state, weights = optimizer.step(
            state, jax.tree.map(lambda w, g=gradient: jnp.full_like(w, g), weights), weights
        )
    return state, weights


def assert_close(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-6), actual, expected)


def test_an_optax_transformation_keeps_its_state_over_rounds():
    transformation = optax.sgd(RATE, momentum=0.5)
    optimizer = local_optimizer(transformation)
    state = optimizer.start_round(optimizer.init(WEIGHTS), {})
    state, weights = run(optimizer, state, WEIGHTS, [1.0])
    _, weights = run(optimizer, optimizer.start_round(state, {}), weights, [0.0])
    assert_close(weights, jax.tree.map(lambda w: w - RATE * (1 + 0.5), WEIGHTS))
    assert optimizer.collect(state) == {}
    assert local_optimizer(optimizer) is optimizer


def test_the_proximal_reference_is_captured_at_the_first_step():
    optimizer = proximal_optimizer(optax.sgd(RATE), 2.0)
    state = optimizer.start_round(optimizer.init(WEIGHTS), {})
    start = jax.tree.map(lambda w: w + 10, WEIGHTS)
    state, weights = run(optimizer, state, start, [1.0, 3.0])
    # w1 = w0 - r; w2 = w1 - r * (3 + 2 * (w1 - w0))
    assert_close(weights, jax.tree.map(lambda w: w - RATE - RATE * (3 - 2 * RATE), start))
    state = optimizer.start_round(state, {})
    _, again = run(optimizer, state, weights, [1.0])
    assert_close(again, jax.tree.map(lambda w: w - RATE, weights))


def test_a_strength_of_zero_changes_nothing():
    gradients = [1.0, -2.0, 0.5]
    plain, proximal = local_optimizer(optax.adam(0.1)), proximal_optimizer(optax.adam(0.1), 0)
    _, expected = run(plain, plain.init(WEIGHTS), WEIGHTS, gradients)
    _, weights = run(proximal, proximal.init(WEIGHTS), WEIGHTS, gradients)
    jax.tree.map(np.testing.assert_array_equal, weights, expected)


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf"), "0.1", True, None])
def test_proximal_strength_is_checked(strength):
    with pytest.raises(ValueError, match=r"strength=...\) must be a finite number of at least 0, got .*; use strength"):
        proximal_optimizer(optax.sgd(RATE), strength)


def test_scaffold_corrects_gradients_and_collects_their_mean():
    optimizer = scaffold_optimizer(optax.sgd(RATE))
    correction = jax.tree.map(lambda w: np.full_like(w, 4.0), WEIGHTS)
    plain = {"w": correction["w"], "b": [correction["b"][0]]}  # as another container, from a message
    state = optimizer.start_round(optimizer.init(WEIGHTS), {"scaffold": {"correction": plain}})
    state, weights = run(optimizer, state, WEIGHTS, [1.0, 2.0, 6.0])
    assert_close(weights, jax.tree.map(lambda w: w - RATE * (9 + 3 * 4), WEIGHTS))
    assert_close(
        optimizer.collect(state), {"scaffold": {"control": jax.tree.map(lambda w: jnp.full_like(w, 3), WEIGHTS)}}
    )
    state = optimizer.start_round(state, {})  # keeps the correction, forgets the gradients
    assert optimizer.collect(state) == {}
    state, again = run(optimizer, state, weights, [1.0])
    assert_close(again, jax.tree.map(lambda w: w - RATE * 5, weights))
    assert_close(optimizer.collect(state)["scaffold"]["control"], jax.tree.map(jnp.ones_like, WEIGHTS))


def test_the_control_variate_under_sgd_is_option_two_of_the_paper():
    optimizer = scaffold_optimizer(optax.sgd(RATE))
    own, shared = 0.75, -1.5
    correction = jax.tree.map(lambda w: jnp.full_like(w, shared - own), WEIGHTS)
    state = optimizer.start_round(optimizer.init(WEIGHTS), {"scaffold": {"correction": correction}})
    state, weights = run(optimizer, state, WEIGHTS, [1.0, -2.0, 0.25, 3.0])
    expected = jax.tree.map(lambda x, y: own - shared + (x - y) / (4 * RATE), WEIGHTS, weights)
    assert_close(optimizer.collect(state)["scaffold"]["control"], expected)


def test_optimizers_wrap_one_another():
    wrapped = proximal_optimizer(scaffold_optimizer(optax.sgd(RATE)), 2.0)
    correction = jax.tree.map(lambda w: jnp.full_like(w, 4.0), WEIGHTS)
    state = wrapped.start_round(wrapped.init(WEIGHTS), {"scaffold": {"correction": correction}})
    state, weights = run(wrapped, state, WEIGHTS, [1.0, 1.0])
    assert_close(weights, jax.tree.map(lambda w: w - RATE * (5 + 5 - 2 * RATE * 5), WEIGHTS))
    assert set(wrapped.collect(state)) == {"scaffold"}


@pytest.mark.parametrize(
    "variable, message",
    [
        ({"delta": 1.0}, r"is \{\"correction\": c - c_i\}, got \['delta'\]"),
        (3.0, r"is \{\"correction\": c - c_i\}, got float"),
        ({"correction": {"w": np.zeros(2, np.float32)}}, "got no leaf 'b.0'"),
    ],
)
def test_scaffold_refuses_another_variable(variable, message):
    optimizer = scaffold_optimizer(optax.sgd(RATE))
    with pytest.raises(ValueError, match=message):
        optimizer.start_round(optimizer.init(WEIGHTS), {"scaffold": variable})


@pytest.mark.parametrize("optimizer", [optax.sgd(RATE), proximal_optimizer(optax.sgd(RATE), 1.0)])
def test_a_variable_that_nobody_takes_is_refused(optimizer):
    optimizer = local_optimizer(optimizer)
    with pytest.raises(ValueError, match=r"no auxiliary variable 'scaffold'; wrap it .*scaffold_optimizer"):
        optimizer.start_round(optimizer.init(WEIGHTS), {"scaffold": {}})


def test_what_is_no_optimizer_is_refused():
    for make in (local_optimizer, scaffold_optimizer, lambda o: proximal_optimizer(o, 1.0)):
        with pytest.raises(TypeError, match=r"optimizer is an optax\.GradientTransformation, got 0\.1"):
            make(0.1)


def test_steps_keep_the_types_of_low_precision_weights():
    class Weights(NamedTuple):
        w: jax.Array

    weights = Weights(jnp.ones(2, "bfloat16"))
    optimizer = proximal_optimizer(scaffold_optimizer(optax.sgd(RATE)), 0.5)
    state, moved = optimizer.step(optimizer.init(weights), weights, weights)
    assert moved.w.dtype == jnp.bfloat16
    again = jax.eval_shape(optimizer.step, state, weights, moved)
    assert jax.tree.map(lambda x: x.dtype, again) == jax.tree.map(lambda x: x.dtype, (state, moved))
