"""Sums over very many batches of one client."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fedjax_core as fc
from tests.marks import with_slow

MODEL = fc.models.logistic_regression(1, 2)


def batches(number: int) -> fc.data.FederatedData:
    """One client with `number` batches of one example, and one with three."""
    random = np.random.default_rng(0)
    clients = {}
    for name, size in (("long", number), ("short", 3)):
        x = random.normal(size=(size, 1)).astype(np.float32)
        clients[name] = {"x": x, "y": (x[:, 0] > 0).astype(np.int32)}
    return fc.data.FederatedData.from_clients(clients)


def mean_loss(weights, data: fc.data.FederatedData) -> float:
    """The mean loss of all examples in float64."""
    x = np.concatenate([data[i]["x"] for i in data.client_ids]).astype(np.float64)
    y = np.concatenate([data[i]["y"] for i in data.client_ids])
    scores = x @ np.asarray(weights["kernel"], np.float64) + np.asarray(weights["bias"], np.float64)
    return float((np.logaddexp.reduce(scores, 1) - scores[np.arange(len(y)), y]).mean())


@pytest.mark.parametrize(("number", "lanes"), with_slow([(2**16, 1), (2**16, 2), (2**20, 1)], {(2**20, 1)}))
def test_a_loss_over_many_batches_is_right(number, lanes):
    data = batches(number)
    cohort = data.cohort(data.client_ids, fc.data.Batching(1))
    weights = {"kernel": jnp.array([[0.3, -0.2]]), "bias": jnp.array([0.1, 0.0])}
    evaluate = fc.algorithms.federated_evaluation(MODEL).with_config(fc.EngineConfig(lanes, 1))
    loss = float(evaluate(weights, cohort)["eval"]["loss"])
    assert abs(loss / mean_loss(weights, data) - 1) < 1e-6
    process = fc.algorithms.fed_avg(MODEL, optax.sgd(0.0), key=jax.random.key(0)).with_config(fc.EngineConfig(lanes, 1))
    state = process.set_model_weights(process.initialize(), weights)
    _, metrics = process.next(state, cohort)
    train = metrics["client_work"]["train"]
    assert abs(float(train["loss"]) / mean_loss(weights, data) - 1) < 1e-6
    assert int(train["num_examples"]) == number + 3


def test_the_gradient_of_many_batches_is_right():
    clients = {"long": {"x": np.full((2**16, 1), 0.3, np.float32), "y": np.ones(2**16, np.int32)}}
    data = fc.data.FederatedData.from_clients(clients)
    process = fc.algorithms.fed_sgd(MODEL, server_optimizer=optax.sgd(1.0), key=jax.random.key(0))
    zeros = jax.tree.map(jnp.zeros_like, process.get_model_weights(process.initialize()))
    state = process.set_model_weights(process.initialize(), zeros)
    state, _ = process.next(state, data.cohort(["long"], fc.data.Batching(1)))
    # At zero both classes have the probability 1/2, and one step of length 1 from zero is the gradient itself.
    moved = process.get_model_weights(state)
    np.testing.assert_allclose(moved["kernel"], 0.5 * np.float32(0.3) * np.array([[-1.0, 1.0]]), rtol=1e-6)
    np.testing.assert_allclose(moved["bias"], [-0.5, 0.5], rtol=1e-6)


def test_scaffold_sends_the_mean_gradient_of_many_steps():
    optimizer, weights = fc.clients.scaffold_optimizer(optax.sgd(0.01)), {"w": jnp.zeros(3)}
    gradient = np.array([0.1, -0.7, 1e-9], np.float32)

    @jax.jit
    def after(state, weights):
        def step(_, carry):
            return optimizer.step(carry[0], {"w": jnp.asarray(gradient)}, carry[1])

        return optimizer.collect(jax.lax.fori_loop(0, 2**18, step, (state, weights))[0])

    control = after(optimizer.start_round(optimizer.init(weights), {}, weights), weights)["scaffold"]["control"]
    np.testing.assert_allclose(control["w"], gradient, rtol=1e-6)


def test_a_sum_over_many_batches_is_right_and_small_numbers_are_widened():
    random, number = np.random.default_rng(1), 2**16
    client = {
        "float": (10 ** random.uniform(-6, 6, number)).astype(np.float32),
        "half": np.full(number, 0.1, np.float16),
        "byte": np.full(number, 100, np.int8),
        "flag": random.random(number) < 0.5,
    }
    types = {"float": "float32[?]", "half": "float16[?]", "byte": "int8[?]", "flag": "bool[?]"}

    @fc.federated_computation(fc.at_clients(fc.types.SequenceType(types)))
    def totals(data):
        return fc.federated_map(lambda data: data.sum(), data)

    batched = [{name: array.reshape(-1, 4)[i] for name, array in client.items()} for i in range(number // 4)]
    result = jax.tree.map(lambda x: x[0], totals([batched]))
    assert {name: leaf.dtype.name for name, leaf in result.items()} == {
        "float": "float32",
        "half": "float16",
        "byte": "int32",
        "flag": "int32",
    }
    assert abs(float(result["float"]) / client["float"].astype(np.float64).sum() - 1) < 1e-6
    assert float(result["half"]) == float(np.float16(client["half"].astype(np.float64).sum()))
    assert int(result["byte"]) == 100 * number and int(result["flag"]) == client["flag"].sum()
