"""Optax's extended transformations at a client, against a plain optax loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import fedjax_core as fc
from fedjax_core.clients import local_trainer, scaffold_optimizer
from tests import learning_references as reference
from tests.marks import with_slow

MODEL = reference.linear_model()
CLIENTS = reference.make_clients((7, 0, 4))
WEIGHTS = MODEL.init(jax.random.key(2))
DATA = fc.at_clients(fc.types.SequenceType(MODEL.batch_type))

OPTIMIZERS = {
    "polyak_sgd": optax.polyak_sgd(max_learning_rate=0.5),
    "reduce_on_plateau": optax.chain(optax.sgd(0.3), optax.contrib.reduce_on_plateau(factor=0.5, patience=0)),
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=15)),
    "lbfgs": optax.lbfgs(memory_size=3),
}


def answers(optimizer, lanes: int, epochs: int = 3):
    """The result of every client's training."""
    train = local_trainer(MODEL, optimizer)

    @fc.federated_computation(fc.at_server(fc.clients.weights_type(MODEL)), DATA)
    def trained(weights, data):
        keys = fc.federated_split_key(fc.federated_value(jax.random.key(1), fc.SERVER))
        return fc.federated_map(train, fc.federated_broadcast(weights), data, keys)

    run = trained.with_config(fc.EngineConfig(lanes=lanes, devices=1))
    return run(WEIGHTS, reference.cohort(CLIENTS, num_epochs=epochs))


def plain_loop(optimizer, batches, tilt=None):
    """The same steps as optax documents them: `value_fn` is exactly the mean loss of the batch."""
    weights, state = WEIGHTS, optimizer.init(WEIGHTS)

    @jax.jit
    def step(weights, state, batch):
        def value_fn(w):
            tilted = 0.0 if tilt is None else sum(jax.tree.leaves(jax.tree.map(lambda c, x: jnp.sum(c * x), tilt, w)))
            return MODEL.loss(MODEL.predict(w, batch), batch).mean() + tilted

        value, gradient = jax.value_and_grad(value_fn)(weights)
        updates, state = optimizer.update(gradient, state, weights, value=value, grad=gradient, value_fn=value_fn)
        return optax.apply_updates(weights, updates), state

    for batch in batches:
        weights, state = step(weights, state, jax.tree.map(lambda x: jnp.asarray(x, x.dtype), batch))
    return weights


def float32(batches):
    return [{"x": batch["x"].astype(np.float32), "y": batch["y"]} for batch in batches]


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("name", with_slow(OPTIMIZERS, {"backtracking", "lbfgs"}))  # long to compile
def test_each_equals_a_plain_optax_loop_on_any_lanes(name, lanes):
    result = answers(OPTIMIZERS[name], lanes)
    for i, client in enumerate(CLIENTS.values()):
        weights = plain_loop(OPTIMIZERS[name], float32(reference.batches(client, 3, 3)))
        update = jax.tree.map(lambda u, i=i: u[i], result.update)
        expected = jax.tree.map(jnp.subtract, WEIGHTS, weights)
        reference.assert_close(update, expected, rtol=2e-4, atol=2e-5)
    assert not any(np.any(leaf[1]) for leaf in jax.tree.leaves(result.update))  # a client without examples
    assert fc.trees.norm(result.update) > 0.1


def test_the_value_of_a_partial_batch_is_the_mean_over_its_examples():
    """The rates that `polyak_sgd` takes from a batch of one example, padded to three."""
    optimizer = optax.polyak_sgd(max_learning_rate=10.0)
    result = answers(optimizer, lanes=1, epochs=1)
    weights = plain_loop(optimizer, float32(reference.batches(CLIENTS["a"], 3, 1)))
    update = jax.tree.map(lambda u: u[0], result.update)
    reference.assert_close(update, jax.tree.map(jnp.subtract, WEIGHTS, weights), rtol=2e-4, atol=2e-5)


def test_a_line_search_inside_scaffold_searches_the_corrected_loss():
    inner = OPTIMIZERS["backtracking"]
    correction = jax.tree.map(lambda w: 0.05 * jnp.ones_like(w), WEIGHTS)
    optimizer = scaffold_optimizer(inner)
    step = jax.jit(fc.clients.training_step(MODEL, optimizer))
    batches = float32(reference.batches(CLIENTS["a"], 3, 2))
    state = optimizer.start_round(optimizer.init(WEIGHTS), {"scaffold": {"correction": correction}}, WEIGHTS)
    weights = WEIGHTS
    for batch in batches:
        weights, state, _ = step(weights, state, batch, jnp.ones(len(batch["y"]), bool), None)
    reference.assert_close(weights, plain_loop(inner, batches, tilt=correction), rtol=1e-4, atol=1e-5)
