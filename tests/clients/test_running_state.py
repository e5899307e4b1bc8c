"""The running state of a model through local training, against NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.clients import local_trainer, training_step
from fedjax_core.contracts import Running
from tests.running_references import CLIENTS, centering, oracle


def train(model, lanes=1):
    trainer = local_trainer(model, optax.sgd(0.01))
    data = fc.at_clients(fc.types.SequenceType(model.batch_type))

    @fc.federated_computation(fc.at_server(fc.clients.weights_type(model)), data)
    def trained(weights, data):
        keys = fc.federated_split_key(fc.federated_value(jax.random.key(1), fc.SERVER))
        return fc.federated_map(trainer, fc.federated_broadcast(weights), data, keys)

    population = fc.data.from_clients({name: {"x": x} for name, x in CLIENTS.items()})
    cohort = population.cohort(list(CLIENTS), fc.data.Batching(2, 2))
    return trained.with_config(fc.EngineConfig(lanes=lanes, devices=1))(model.init(jax.random.key(0)), cohort)


@pytest.mark.parametrize("lanes", [1, 3])
def test_it_is_carried_from_step_to_step_and_answered_with_its_examples(lanes):
    result = train(centering(), lanes)
    assert isinstance(result.running, Running)
    assert result.running.num_examples.tolist() == [10.0, 0.0, 4.0]
    for i, x in enumerate(CLIENTS.values()):
        w, mean = oracle(x)
        np.testing.assert_allclose(result.update["w"][i, 0, 0], 1 - w, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(result.running.state["mean"][i, 0], mean, rtol=1e-6)


def test_a_kept_state_is_carried_and_not_answered():
    kept, averaged = train(centering("keep")), train(centering())
    assert kept.running == ()
    np.testing.assert_array_equal(kept.update["w"], averaged.update["w"])


def test_a_step_leaves_it_in_the_weights():
    model, optimizer = centering(), fc.clients.local_optimizer(optax.sgd(0.01))
    weights = model.init(jax.random.key(0))
    batch, mask = {"x": jnp.array([[1.0], [3.0], [1e6]])}, jnp.array([True, True, False])
    after, _, _ = training_step(model, optimizer)(weights, optimizer.init(weights.trainable), batch, mask, None)
    np.testing.assert_allclose(after.non_trainable["mean"], [4.5])
    np.testing.assert_allclose(after.trainable["w"], [[1 - 0.01 * 2]], rtol=1e-6)
