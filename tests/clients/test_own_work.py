"""Custom client works, written with public names only."""

import jax
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core import trees
from fedjax_core.contracts import ClientResult
from tests import learning_references as reference
from tests.stateful_works import scaffold

KEY = jax.random.key(6)
MODEL = reference.linear_model()
CLIENTS = reference.make_clients((7, 0, 4))


def clipped_training(model, rate, max_norm):
    """SGD with clipped gradients that measures while it trains."""
    metrics, gradient_of = fc.clients.accumulator(model), jax.grad(fc.clients.training_loss(model), has_aux=True)

    def work(weights, data, key):
        def step(carry, batch, mask):
            trained, running = carry
            slope, output = gradient_of(trained, weights, batch, mask, key)
            trained = trees.subtract(trained, trees.scale(trees.clip_by_norm(max_norm, slope), rate))
            return trained, metrics.add(running, output.predictions, batch, mask)

        trained, running = data.filled().reduce((weights, metrics.init()), step)
        statistics = metrics.total(running)
        number = statistics["num_examples"].astype("float32")
        return ClientResult(trees.subtract(weights, trained), number, statistics)

    return fc.clients.client_work(work, fc.algorithms.metrics_process(model))


def composed(model, work):
    server = fc.algorithms.apply_optimizer(optax.sgd(1.0))
    return fc.algorithms.compose(model, fc.algorithms.broadcast(), work, fc.aggregators.mean(), server, key=KEY)


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_work_with_training_metrics_equals_that_of_the_room(lanes):
    own = composed(MODEL, clipped_training(MODEL, 0.3, 0.2))
    room = fc.algorithms.fed_avg(MODEL, optax.chain(optax.clip_by_global_norm(0.2), optax.sgd(0.3)), key=KEY)
    rounds = [
        process.with_config(fc.EngineConfig(lanes=lanes, devices=1)).next(
            process.initialize(), reference.cohort(CLIENTS, num_epochs=2)
        )
        for process in (own, room)
    ]
    (mine, measured), (theirs, expected) = rounds
    reference.assert_close(mine.weights, theirs.weights, rtol=1e-5, atol=1e-6)
    reference.assert_close(measured["client_work"]["train"], expected["client_work"]["train"], rtol=1e-5)


def paper(rounds):
    """x after each round of these clients: algorithm 1 with option II, on a = (1, 4), b = (10, -1), rate .05."""
    a, b, x, c, rows, after = np.array([1.0, 4.0]), np.array([10.0, -1.0]), 0.0, 0.0, np.zeros(2), []
    for ids in rounds:
        ends, changes = [], []
        for i in ids:
            y = x
            for _ in range(10):
                y -= 0.05 * (a[i] * (y - b[i]) - rows[i] + c)
            new = rows[i] - c + (x - y) / (10 * 0.05)
            ends.append(y)
            changes.append(new - rows[i])
            rows[i] = new
        x, c = np.mean(ends), c + np.sum(changes) / 2
        after.append(x)
    return after


@pytest.mark.parametrize("rounds", [[[0, 1]] * 5, [[0], [1], [0], [1], [1], [0, 1]]], ids=["both", "some"])
def test_the_optimizer_of_a_participant_is_scaffold_in_the_simulator(rounds):
    model = reference.quadratic_model()
    process = composed(model, scaffold(model, 0.05, 2, from_optimizer=True))
    state = process.initialize()
    for ids, expected in zip(rounds, paper(rounds)):
        state, _ = process.next(state, reference.quadratic_cohort(ids))
        np.testing.assert_allclose(state.weights, expected, rtol=2e-5)


def test_scaffold_with_one_client_in_turn_ends_at_the_optimum():
    model = reference.quadratic_model()
    process = composed(model, scaffold(model, 0.05, 2, from_optimizer=True))
    state, cohorts = process.initialize(), [reference.quadratic_cohort([i]) for i in (0, 1)]
    for number in range(200):
        state, _ = process.next(state, cohorts[number % 2])
    np.testing.assert_allclose(state.weights, 1.2, rtol=2e-5)
