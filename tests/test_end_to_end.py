"""Complete training on the shipped data, up to an accuracy on held-out data."""

import jax
import numpy as np
import optax
import pytest

import fedjax_core as fc

KEY = jax.random.key(0)
TWO_DEVICES = fc.EngineConfig(devices=2)


def _train(process, data, batching, *, rounds, cohort_size, config=TWO_DEVICES):
    next, state, losses = process.next.with_config(config), process.initialize(), []
    for number in range(rounds):
        clients = fc.data.sample_clients(number, data.client_ids, cohort_size, key=jax.random.fold_in(KEY, 1))
        cohort = data.cohort(clients, batching, key=jax.random.fold_in(KEY, 100 + number))
        state, metrics = next(state, cohort)
        losses.append(float(metrics["client_work"]["train"]["loss"]))
    return process.get_model_weights(state), losses


def test_digits_reach_nine_in_ten_of_the_held_out_examples():
    data = fc.data.digits(num_clients=100, partitioner=fc.data.dirichlet(0.5), key=jax.random.fold_in(KEY, 2))
    data = data.map(lambda examples: {"x": examples["x"].reshape(-1, 64), "y": examples["y"]})
    train, test = data.split_examples(0.8, key=jax.random.fold_in(KEY, 3))
    model = fc.models.mlp(64, 128, 10, metrics={"accuracy": fc.metrics.accuracy()})
    process = fc.algorithms.fed_avg(model, optax.sgd(0.3), key=jax.random.fold_in(KEY, 4))
    batching = fc.data.Batching(batch_size=10, num_epochs=5, shuffle=True)
    weights, losses = _train(process, train, batching, rounds=80, cohort_size=20)
    evaluation = fc.algorithms.federated_evaluation(model).with_config(TWO_DEVICES)
    metrics = evaluation(weights, test.cohort(test.client_ids, fc.data.Batching(100)))["eval"]
    assert metrics["num_examples"] == test.sizes.sum()
    assert metrics["accuracy"] >= 0.9
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


@pytest.mark.slow
def test_shakespeare_predicts_ten_points_better_than_the_most_frequent_character():
    train, test = fc.data.shakespeare("train"), fc.data.shakespeare("test")
    speaking = [i for i, size in zip(test.client_ids, test.sizes) if size]
    held_out = fc.data.sample_clients(0, speaking, 100, key=jax.random.fold_in(KEY, 7))
    model = fc.models.character_model(
        hidden_size=128, num_layers=1, cell="gru", metrics={"accuracy": fc.metrics.token_accuracy()}
    )
    process = fc.algorithms.fed_avg(model, optax.sgd(1.0), key=jax.random.fold_in(KEY, 8))
    batching = fc.data.Batching(batch_size=4, shuffle=True)
    weights, _ = _train(process, train, batching, rounds=20, cohort_size=10)
    evaluation = fc.algorithms.federated_evaluation(model).with_config(TWO_DEVICES)
    metrics = evaluation(weights, test.cohort(held_out, fc.data.Batching(20)))["eval"]
    symbols = np.concatenate([test[i]["y"].ravel() for i in held_out])
    symbols = symbols[symbols != fc.data.shakespeare_vocabulary.pad]
    most_frequent = np.bincount(symbols).max() / len(symbols)
    assert metrics["accuracy"] >= most_frequent + 0.10
