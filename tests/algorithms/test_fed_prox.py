"""FedProx against NumPy float64 and the fixed points of two quadratics."""

import jax
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.algorithms import fed_avg, fed_prox
from tests import learning_references as reference

KEY = jax.random.key(9)
MODEL = reference.linear_model()
CLIENTS = reference.make_clients((7, 0, 4))


@pytest.mark.parametrize(
    ("strength", "fixed_point", "rounds"), [(0.0, 2.4113390587, 60), (1.0, 2.3150430636, 60), (10.0, 1.6544983783, 250)]
)
def test_it_ends_where_the_pull_and_the_clients_agree(strength, fixed_point, rounds):
    """Ten full steps of rate .05 on a = (1, 4), b = (10, -1)."""
    process = fed_prox(reference.quadratic_model(), optax.sgd(0.05), strength=strength, key=KEY)
    cohort, state = reference.quadratic_cohort([0, 1]), process.initialize()
    for _ in range(rounds):
        state, _ = process.next(state, cohort)
    np.testing.assert_allclose(state.weights, fixed_point, rtol=2e-5)


@pytest.mark.parametrize("lanes", [1, 3])
def test_two_rounds_by_a_function_of_the_round_agree_with_the_oracle(lanes):
    process = fed_prox(MODEL, lambda round_num: optax.sgd(0.4 * 0.5**round_num), strength=0.5, key=KEY)
    process = process.with_config(fc.EngineConfig(lanes=lanes, devices=1))
    state = process.initialize()
    weights = reference.as_float64(state.weights)
    for rate in (0.4, 0.2):
        state, _ = process.next(state, reference.cohort(CLIENTS, num_epochs=2))
        update, _ = reference.fed_avg_update(weights, CLIENTS, reference.SGD(rate, pull=0.5), 3, 2)
        weights = jax.tree.map(np.subtract, weights, update)
        reference.assert_close(state.weights, weights)


@pytest.mark.slow
def test_a_strength_of_zero_is_fed_avg():
    cohort = reference.cohort(CLIENTS, num_epochs=2)
    states = [
        process.next(process.initialize(), cohort).state
        for process in (fed_prox(MODEL, optax.adam(0.1), strength=0, key=KEY), fed_avg(MODEL, optax.adam(0.1), key=KEY))
    ]
    reference.assert_close(states[0].weights, states[1].weights, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "error", "message"),
    [
        (optax.lbfgs(), TypeError, "asks for `value` or `value_fn`, which are those of the loss without the pull"),
        (optax.polyak_sgd(), TypeError, "asks for `value` or `value_fn`"),
        (
            fc.clients.scaffold_optimizer(optax.sgd(0.1)),
            TypeError,
            r"got a LocalOptimizer; put the pull into it, optax.chain",
        ),
        (0.1, TypeError, r"client_optimizer must be an optax.GradientTransformation, got 0.1"),
        (optax.sgd, TypeError, "got the function sgd"),
    ],
    ids=["lbfgs", "polyak", "scaffold", "number", "uncalled"],
)
def test_what_cannot_be_pulled_is_refused(optimizer, error, message):
    with pytest.raises(error, match=message):
        fed_prox(MODEL, optimizer, strength=0.1, key=KEY)


def test_the_strength_is_checked():
    with pytest.raises(ValueError, match=r"strength=...\) must be at least 0 and finite, got -1"):
        fed_prox(MODEL, optax.sgd(0.1), strength=-1, key=KEY)
