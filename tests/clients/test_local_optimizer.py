"""Optimizers that exchange auxiliary variables, step by step against NumPy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_core.clients import LocalOptimizer, local_optimizer, proximal, scaffold_optimizer

WEIGHTS = {"w": jnp.array([1.0, -2.0]), "b": (jnp.array(0.5),)}
RATE = 0.25


def proximal_sgd(strength: float):
    return optax.chain(proximal(strength), optax.sgd(RATE))


def start(optimizer: LocalOptimizer, weights, aux_var=None):
    return optimizer.start_round(optimizer.init(weights), aux_var or {}, weights)


def run(optimizer: LocalOptimizer, state, weights, gradients):
    """The steps for these gradients, which are the same for every entry."""
    step = jax.jit(optimizer.step)
    for gradient in gradients:
        state, weights = step(state, jax.tree.map(lambda w, g=gradient: jnp.full_like(w, g), weights), weights)
    return state, weights


def assert_close(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-6), actual, expected)


def test_an_optax_transformation_keeps_its_state_over_rounds():
    transformation = optax.sgd(RATE, momentum=0.5)
    optimizer = local_optimizer(transformation)
    state, weights = run(optimizer, start(optimizer, WEIGHTS), WEIGHTS, [1.0])
    _, weights = run(optimizer, optimizer.start_round(state, {}, weights), weights, [0.0])
    assert_close(weights, jax.tree.map(lambda w: w - RATE * (1 + 0.5), WEIGHTS))
    assert optimizer.collect(state) == {}
    assert local_optimizer(optimizer) is optimizer


def test_the_proximal_reference_is_that_of_the_round_and_momentum_goes_on():
    optimizer = local_optimizer(optax.chain(proximal(2.0), optax.sgd(RATE, momentum=0.5)))
    state = start(optimizer, WEIGHTS)
    begin = jax.tree.map(lambda w: w + 10, WEIGHTS)
    state = optimizer.start_round(state, {}, begin)
    state, weights = run(optimizer, state, begin, [1.0, 3.0])
    # trace 1, w1 = w0 - r; trace .5 + 3 + 2 (w1 - w0), w2 = w1 - r * trace
    trace = 0.5 + 3 - 2 * RATE
    assert_close(weights, jax.tree.map(lambda w: w - RATE - RATE * trace, begin))
    _, again = run(optimizer, optimizer.start_round(state, {}, weights), weights, [1.0])
    assert_close(again, jax.tree.map(lambda w: w - RATE * (1 + trace / 2), weights))


def test_proximal_is_found_inside_masked_transformations():
    masked = optax.masked(proximal(2.0), {"w": True, "b": (False,)})
    optimizer = local_optimizer(optax.chain(masked, optax.sgd(RATE)))
    begin = jax.tree.map(lambda w: w + 10, WEIGHTS)
    state = optimizer.start_round(start(optimizer, WEIGHTS), {}, begin)
    _, weights = run(optimizer, state, begin, [1.0, 1.0])
    assert_close(weights["w"], begin["w"] - RATE - RATE * (1 - 2 * RATE))
    assert_close(weights["b"], (begin["b"][0] - 2 * RATE,))


def test_proximal_is_pulled_by_an_injected_strength():
    optimizer = local_optimizer(optax.chain(optax.inject_hyperparams(proximal)(strength=2.0), optax.sgd(RATE)))
    _, weights = run(optimizer, start(optimizer, WEIGHTS), WEIGHTS, [1.0, 1.0])
    _, expected = run(
        local_optimizer(proximal_sgd(2.0)), start(local_optimizer(proximal_sgd(2.0)), WEIGHTS), WEIGHTS, [1.0, 1.0]
    )
    assert_close(weights, expected)


def test_a_strength_of_zero_changes_nothing():
    gradients = [1.0, -2.0, 0.5]
    plain, pulled = (local_optimizer(o) for o in (optax.adam(0.1), optax.chain(proximal(0), optax.adam(0.1))))
    _, expected = run(plain, start(plain, WEIGHTS), WEIGHTS, gradients)
    _, weights = run(pulled, start(pulled, WEIGHTS), WEIGHTS, gradients)
    jax.tree.map(np.testing.assert_array_equal, weights, expected)


_REFUSED = r"strength=...\) must be at least 0 and finite, got .*; write proximal\(strength=0.1\)"


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_proximal_strength_is_finite_and_not_negative(strength):
    with pytest.raises(ValueError, match=_REFUSED):
        proximal(strength)


@pytest.mark.parametrize("strength", ["0.1", True, None, np.ones(2)])
def test_proximal_strength_is_a_number(strength):
    with pytest.raises(TypeError, match=_REFUSED):
        proximal(strength)


def test_proximal_needs_the_weights():
    pull = proximal(0.1)
    with pytest.raises(ValueError, match=r"write optimizer\.update\(gradient, state, weights\)"):
        pull.update(WEIGHTS, pull.init(WEIGHTS))


def test_scaffold_corrects_gradients_and_collects_their_mean():
    optimizer = scaffold_optimizer(optax.sgd(RATE))
    correction = jax.tree.map(lambda w: np.full_like(w, 4.0), WEIGHTS)
    plain = {"w": correction["w"], "b": [correction["b"][0]]}  # as another container, from a message
    state = start(optimizer, WEIGHTS, {"scaffold": {"correction": plain}})
    state, weights = run(optimizer, state, WEIGHTS, [1.0, 2.0, 6.0])
    assert_close(weights, jax.tree.map(lambda w: w - RATE * (9 + 3 * 4), WEIGHTS))
    assert_close(
        optimizer.collect(state), {"scaffold": {"control": jax.tree.map(lambda w: jnp.full_like(w, 3), WEIGHTS)}}
    )
    state = optimizer.start_round(state, {}, weights)  # keeps the correction, forgets the gradients
    assert_close(optimizer.collect(state)["scaffold"]["control"], jax.tree.map(jnp.zeros_like, WEIGHTS))
    state, again = run(optimizer, state, weights, [1.0])
    assert_close(again, jax.tree.map(lambda w: w - RATE * 5, weights))
    assert_close(optimizer.collect(state)["scaffold"]["control"], jax.tree.map(jnp.ones_like, WEIGHTS))


def test_the_control_variate_under_sgd_is_option_two_of_the_paper():
    optimizer = scaffold_optimizer(optax.sgd(RATE))
    own, shared = 0.75, -1.5
    correction = jax.tree.map(lambda w: jnp.full_like(w, shared - own), WEIGHTS)
    state = start(optimizer, WEIGHTS, {"scaffold": {"correction": correction}})
    state, weights = run(optimizer, state, WEIGHTS, [1.0, -2.0, 0.25, 3.0])
    expected = jax.tree.map(lambda x, y: own - shared + (x - y) / (4 * RATE), WEIGHTS, weights)
    assert_close(optimizer.collect(state)["scaffold"]["control"], expected)


def test_the_control_variate_of_many_steps_in_low_precision_is_their_mean():
    weights = jnp.zeros(2, jnp.bfloat16)
    optimizer = scaffold_optimizer(optax.sgd(RATE))

    def step(carry, _):
        state, moved = carry
        return optimizer.step(state, jnp.ones_like(weights), moved), None

    (state, _), _ = jax.lax.scan(step, (start(optimizer, weights), weights), length=1000)
    control = optimizer.collect(state)["scaffold"]["control"]
    assert control.dtype == jnp.bfloat16 and control.tolist() == [1.0, 1.0]


def test_a_pull_inside_scaffold_is_not_in_the_control_variate():
    optimizer = scaffold_optimizer(proximal_sgd(2.0))
    correction = jax.tree.map(lambda w: jnp.full_like(w, 4.0), WEIGHTS)
    state = start(optimizer, WEIGHTS, {"scaffold": {"correction": correction}})
    state, weights = run(optimizer, state, WEIGHTS, [1.0, 1.0])
    assert_close(weights, jax.tree.map(lambda w: w - RATE * (5 + 5 - 2 * RATE * 5), WEIGHTS))
    assert_close(optimizer.collect(state)["scaffold"]["control"], jax.tree.map(jnp.ones_like, WEIGHTS))


@pytest.mark.parametrize(
    "make",
    [
        lambda: local_optimizer(optax.adam(0.1)),
        lambda: local_optimizer(optax.chain(proximal(1.0), optax.sgd(RATE, momentum=0.5))),
        lambda: scaffold_optimizer(proximal_sgd(1.0)),
    ],
    ids=["adam", "proximal", "scaffold"],
)
def test_all_four_functions_are_traced_with_one_structure(make):
    optimizer = make()
    aux_var = {"scaffold": {"correction": WEIGHTS}} if optimizer.collect(optimizer.init(WEIGHTS)) else {}

    @jax.jit
    def rounds(weights, gradients, aux_var):
        def one_round(carry, gradient):
            state, weights = carry
            state = optimizer.start_round(state, aux_var, weights)
            state, weights = jax.lax.fori_loop(
                0, 3, lambda i, c: optimizer.step(c[0], gradient, c[1]), (state, weights)
            )
            return (state, weights), optimizer.collect(state)

        return jax.lax.scan(one_round, (optimizer.init(weights), weights), gradients)

    gradients = jax.tree.map(lambda w: jnp.stack([w, 2 * w]), WEIGHTS)
    (_, weights), collected = rounds(WEIGHTS, gradients, aux_var)
    state, expected = optimizer.init(WEIGHTS), WEIGHTS
    for i in range(2):
        state = optimizer.start_round(state, aux_var, expected)
        for _ in range(3):
            state, expected = optimizer.step(state, jax.tree.map(lambda g, i=i: g[i], gradients), expected)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], collected), optimizer.collect(state))
    assert_close(weights, expected)


def test_a_step_without_extra_arguments_is_not_given_them():
    def step(state, gradient, weights):
        return state, jax.tree.map(jnp.subtract, weights, gradient)

    own = LocalOptimizer(lambda weights: (), lambda state, aux_var, weights: state, step, lambda state: {})
    _, weights = local_optimizer(own).step((), WEIGHTS, WEIGHTS, value=1.0, grad=WEIGHTS, value_fn=None)
    assert_close(weights, jax.tree.map(jnp.zeros_like, WEIGHTS))


@pytest.mark.parametrize(
    "variable, message",
    [
        ({"delta": 1.0}, r"must be \{\"correction\": c - c_i\}, got \['delta'\]"),
        (3.0, r"must be \{\"correction\": c - c_i\}, got float"),
        ({"correction": {"w": np.zeros(2, np.float32)}}, "got no leaf 'b.0'"),
    ],
)
def test_scaffold_refuses_another_variable(variable, message):
    with pytest.raises(ValueError, match=message):
        start(scaffold_optimizer(optax.sgd(RATE)), WEIGHTS, {"scaffold": variable})


@pytest.mark.parametrize("optimizer", [optax.sgd(RATE), proximal_sgd(1.0)], ids=["sgd", "proximal"])
def test_a_variable_that_nobody_takes_is_refused(optimizer):
    with pytest.raises(ValueError, match=r"no auxiliary variables, got 'scaffold'; wrap it .*scaffold_optimizer"):
        start(local_optimizer(optimizer), WEIGHTS, {"scaffold": {}})


def test_what_is_no_optimizer_is_refused():
    for make in (local_optimizer, scaffold_optimizer):
        with pytest.raises(TypeError, match=r"optimizer must be an optax\.GradientTransformation, got 0\.1"):
            make(0.1)


def test_steps_keep_the_types_of_low_precision_weights():
    class Weights(NamedTuple):
        w: jax.Array

    weights = Weights(jnp.ones(2, "bfloat16"))
    optimizer = scaffold_optimizer(proximal_sgd(0.5))
    state, moved = optimizer.step(optimizer.init(weights), weights, weights)
    assert moved.w.dtype == jnp.bfloat16
    again = jax.eval_shape(optimizer.step, state, weights, moved)
    assert jax.tree.map(lambda x: x.dtype, again) == jax.tree.map(lambda x: x.dtype, (state, moved))
