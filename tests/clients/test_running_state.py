"""The running state of a model through local training, against NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from fedjax_core.clients import local_trainer, training_step
from fedjax_core.contracts import ModelWeights, Predicted, Running

CLIENTS = {"a": np.float32([[1], [3], [8], [2], [5]]), "b": np.zeros((0, 1), np.float32), "c": np.float32([[4], [6]])}


def centering(running="average") -> fc.Model:
    """`w (x - mean)`, in training with the batch's own mean, of which a running average is kept."""

    def predict(weights, batch, key=None, training=False, mask=None):
        if not training:
            return weights.trainable["w"] * (batch["x"] - weights.non_trainable["mean"][None])
        mean = jnp.mean(batch["x"], axis=0, where=mask[:, None])
        moved = {"mean": 0.5 * weights.non_trainable["mean"] + 0.5 * mean}
        return Predicted(weights.trainable["w"] * (batch["x"] - mean[None]), moved)

    return fc.Model(
        init=lambda key: ModelWeights({"w": jnp.ones((1, 1))}, {"mean": jnp.full((1,), 7.0)}),
        predict=predict,
        loss=lambda predictions, batch: jnp.sum(predictions**2, axis=1),
        metrics={},
        batch_type=fc.types.parse_type("<x=float32[?,1]>"),
        running=running,
    )


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


def oracle(x):
    """Weight and running mean after two epochs in batches of two, which cross epochs."""
    stream, w, mean = np.concatenate([x, x]).astype(np.float64)[:, 0], 1.0, 7.0
    for i in range(0, len(stream), 2):
        batch = stream[i : i + 2]
        centered = batch - batch.mean()
        w, mean = w - 0.01 * np.mean(2 * w * centered**2), 0.5 * mean + 0.5 * batch.mean()
    return w, mean


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
