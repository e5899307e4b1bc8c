"""Server optimizers that need the training loss of the round, and those that need more than a server has."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import fedjax_core as fc
from fedjax_core.algorithms import apply_optimizer, broadcast, compose, fed_avg, on_part
from fedjax_core.contracts import ClientResult
from fedjax_core.templates import ProcessCompositionError
from tests import learning_references as reference

KEY = jax.random.key(8)
MODEL = reference.linear_model()
CLIENTS = reference.make_clients((7, 0, 4))
PLATEAU = optax.chain(optax.sgd(1.5), optax.contrib.reduce_on_plateau(factor=0.5, patience=0, rtol=0.5))


def private():
    return fc.aggregators.private_mean(max_norm=1.0, noise_multiplier=0.1, cohort_size=3, key=KEY)


@pytest.mark.parametrize("optimizer", [PLATEAU, optax.polyak_sgd(max_learning_rate=2.0)], ids=["plateau", "polyak"])
def test_value_is_the_mean_training_loss_of_the_round(optimizer):
    process = fed_avg(MODEL, optax.sgd(0.3), server_optimizer=optimizer, key=KEY)
    state = process.initialize()
    weights = state.weights
    optimizer_state = optimizer.init(weights)
    for _ in range(4):
        state, metrics = process.next(state, reference.cohort(CLIENTS))
        update, measured = reference.fed_avg_update(reference.as_float64(weights), CLIENTS, reference.SGD(0.3), 3, 1)
        update = jax.tree.map(jnp.float32, update)
        loss = jnp.float32(measured["loss"])
        step, optimizer_state = optimizer.update(update, optimizer_state, weights, value=loss, grad=update)
        weights = optax.apply_updates(weights, step)
        np.testing.assert_allclose(metrics["client_work"]["train"]["loss"], loss, rtol=1e-5)
        reference.assert_close(state.weights, weights, rtol=1e-4, atol=1e-5)
    if optimizer is PLATEAU:
        assert state.finalizer[1].scale < 1  # it saw a loss that stood still


def test_it_is_handed_on_to_the_part_that_moves():
    work = fc.clients.local_training(MODEL, optax.sgd(0.3), fc.algorithms.metrics_process(MODEL))
    finalizer = on_part(lambda path: True, apply_optimizer(PLATEAU))
    parts = compose(MODEL, broadcast(), work, fc.aggregators.mean(), finalizer, key=KEY)
    whole = fed_avg(MODEL, optax.sgd(0.3), server_optimizer=PLATEAU, key=KEY)
    states = [process.next(process.initialize(), reference.cohort(CLIENTS)).state for process in (parts, whole)]
    reference.assert_same_bits(states[0].weights, states[1].weights)


@pytest.mark.parametrize(
    "optimizer", [optax.lbfgs(), optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5))]
)
def test_value_fn_is_refused_when_the_process_is_built(optimizer):
    with pytest.raises(
        ProcessCompositionError, match=r"asks for `value_fn`.* holds no examples; use it on the clients"
    ):
        fed_avg(MODEL, optax.sgd(0.3), server_optimizer=optimizer, key=KEY)


def test_value_beside_noise_is_refused_and_only_where_it_is_asked_for():
    with pytest.raises(
        ProcessCompositionError, match=r"asks for `value`.* without the noise .*server_optimizer that does not need"
    ):
        fed_avg(MODEL, optax.sgd(0.3), server_optimizer=PLATEAU, aggregator=private(), key=KEY)
    injected = optax.inject_hyperparams(optax.adam)(0.1)
    fed_avg(MODEL, optax.sgd(0.3), server_optimizer=injected, aggregator=private(), key=KEY)


def test_value_of_clients_that_measure_no_loss_is_refused():
    @fc.federated_computation(fc.at_clients({"mine": "int32"}))
    def total(statistics):
        return fc.federated_sum(statistics)

    process = fc.templates.AggregationProcess(
        fc.federated_computation(lambda: fc.federated_value((), fc.SERVER)),
        fc.federated_computation(
            lambda state, value: fc.templates.MeasuredProcessOutput(
                state, total(value), fc.federated_value((), fc.SERVER)
            ),
            fc.at_server(()),
            fc.at_clients({"mine": "int32"}),
        ),
    )

    def work(weights, data, key):
        return ClientResult(jax.tree.map(jnp.ones_like, weights), jnp.float32(1), {"mine": data.num_examples})

    work = fc.clients.client_work(work, process)
    for optimizer, refused in ((optax.sgd(1.0), False), (PLATEAU, True)):
        parts = (MODEL, broadcast(), work, fc.aggregators.mean(), apply_optimizer(optimizer))
        if refused:
            with pytest.raises(ProcessCompositionError, match=r"the clients measure <mine=int32>; let the client_work"):
                compose(*parts, key=KEY)
        else:
            compose(*parts, key=KEY)


def test_a_plain_optimizer_leaves_the_round_as_it_is():
    work = fc.clients.local_training(MODEL, optax.sgd(0.3), fc.algorithms.metrics_process(MODEL))
    plain = apply_optimizer(optax.sgd(1.0))
    narrow = plain._replace(next=lambda state, weights, update: plain.next(state, weights, update))
    plans = [
        compose(MODEL, broadcast(), work, fc.aggregators.mean(), finalizer, key=KEY).next.describe()
        for finalizer in (plain, narrow)
    ]
    assert plans[0] == plans[1]


def test_a_local_optimizer_is_no_server_optimizer():
    with pytest.raises(TypeError, match=r"got a LocalOptimizer, which trains clients; write optax\.sgd"):
        apply_optimizer(fc.clients.local_optimizer(optax.sgd(1.0)))


def test_a_finalizer_that_hands_no_value_on_is_told_so():
    plateau = apply_optimizer(PLATEAU)
    narrow = plateau._replace(next=lambda state, weights, update: plateau.next(state, weights, update))
    work = fc.clients.local_training(MODEL, optax.sgd(0.3), fc.algorithms.metrics_process(MODEL))
    with pytest.raises(ProcessCompositionError, match=r"pass it on: inner.next\(state, weights, update, value\)"):
        compose(MODEL, broadcast(), work, fc.aggregators.mean(), narrow, key=KEY)
