"""Layers with batch statistics, in rounds: padding does not count in them, and running state is averaged."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import fedjax_core as fc
from fedjax_core import models
from fedjax_core.templates import ProcessCompositionError
from tests.marks import with_slow

VALUES = {"x": "float32[?,1]", "y": "float32[?,1]"}
KEY = jax.random.key(0)


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(use_running_average=not train)(x)


def linen(**options):
    return models.from_linen(Normalized(), models.squared_error(), VALUES, **options)


def of_nnx(**options):
    return models.from_nnx(lambda rngs: nnx.BatchNorm(1, rngs=rngs), models.squared_error(), VALUES, **options)


def of_keras(**options):
    keras = pytest.importorskip("keras")
    layer = keras.layers.BatchNormalization(epsilon=1e-5)
    return models.from_keras(keras.Sequential([keras.Input((1,)), layer]), "mse", VALUES, **options)


def of_equinox(**options):
    eqx = pytest.importorskip("equinox")

    def create(key):
        return eqx.nn.make_with_state(eqx.nn.BatchNorm)(1, "batch", mode="batch")

    return models.from_equinox(create, models.squared_error(), VALUES, **options)


def client(*values):
    x = np.array(values, np.float32)[:, None]
    return {"x": x, "y": np.zeros_like(x)}


def after_a_round(model, clients, batching, **config):
    """The weights and the training metrics after a round with client learning rate 0.1."""
    process = fc.algorithms.fed_avg(model, optax.sgd(0.1), key=KEY)
    next_ = process.next.with_config(fc.EngineConfig(devices=1, **config)) if config else process.next
    data = fc.data.from_clients(clients)
    state, metrics = next_(process.initialize(), data.cohort(data.client_ids, batching))
    return process.get_model_weights(state), metrics["client_work"]["train"]


def leaves_named(tree, *names):
    """The leaves of the weights whose paths end in these names, in order."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return [float(leaf[0]) for name in names for path, leaf in paths if name in jax.tree_util.keystr(path[-1:])]


CASES = [(linen, 3, 1), (linen, 4, 4), (linen, 20, 1), (of_nnx, 3, 1), (of_nnx, 4, 1), (of_nnx, 20, 4)]
CASES += [(of_keras, 20, 1), (of_equinox, 20, 4)]


@pytest.mark.parametrize(("model", "batch_size", "lanes"), with_slow(CASES, [*CASES[:2], *CASES[3:5]]))
def test_any_batch_size_gives_the_same_step(model, batch_size, lanes):
    weights, metrics = after_a_round(model(), [client(0, 3, 6)], fc.data.Batching(batch_size), lanes=lanes)
    assert metrics["loss"] == pytest.approx(1.0, rel=1e-4)
    assert leaves_named(weights.trainable, "scale", "gamma", "weight") == [pytest.approx(0.8, rel=1e-4)]
    assert sorted(float(leaf.ravel()[0]) for leaf in jax.tree.leaves(weights.non_trainable))[:1] == [
        pytest.approx(0.03, rel=1e-4)  # .01 of the mean, 3; the variance goes from 1 to 1.05
    ]


@pytest.mark.parametrize(
    ("running", "mean", "variance"), [("average", 0.058, 1.026), ("keep", 0.0, 1.0), ("freeze", 0.0, 1.0)]
)
def test_running_state_is_averaged_by_examples_or_stays(running, mean, variance):
    """Three examples leave a mean of .03 and a variance of 1.05, two equal ones .10 and .99; one client is empty."""
    clients = [client(0, 3, 6), client(10, 10), client()]
    weights, _ = after_a_round(linen(running=running), clients, fc.data.Batching(4))
    np.testing.assert_allclose(leaves_named(weights.non_trainable, "mean", "var"), [mean, variance], rtol=1e-5)


def test_a_client_carries_running_state_from_step_to_step():
    weights, _ = after_a_round(linen(), [client(0, 3, 6)], fc.data.Batching(3, num_epochs=2))
    np.testing.assert_allclose(leaves_named(weights.non_trainable, "mean"), [0.99 * 0.03 + 0.03], rtol=1e-5)


def test_a_private_round_takes_no_running_state():
    private = fc.aggregators.private_mean(1.0, noise_multiplier=1.0, cohort_size=10, key=KEY)
    with pytest.raises(ProcessCompositionError, match='running="freeze"'):
        fc.algorithms.fed_avg(linen(), optax.sgd(0.1), aggregator=private, weighting="uniform", key=KEY)
    frozen = linen(running="freeze")
    fc.algorithms.fed_avg(frozen, optax.sgd(0.1), aggregator=private, weighting="uniform", key=KEY)


def contrastive(predictions, batch, mask):
    """The cross entropy of each row's own label among those of the batch."""
    scores = jnp.where(mask[None, :], predictions @ batch["y"].T, -jnp.inf)
    return jax.nn.logsumexp(scores, axis=1) - jnp.diagonal(scores)


def test_in_batch_negatives_are_those_of_examples():
    """Clients of 5 and 3 examples in batches of 4, against NumPy."""
    model = fc.Model(
        init=lambda key: {"w": jnp.eye(2)},
        predict=lambda weights, batch, key=None, training=False: batch["x"] @ weights["w"],
        loss=contrastive,
        metrics={},
        batch_type=fc.types.to_type({"x": "float32[?,2]", "y": "float32[?,2]"}),
    )
    random = np.random.default_rng(0)
    clients = [{name: random.normal(size=(n, 2)).astype(np.float32) for name in "xy"} for n in (5, 3)]
    batches = [{name: c[name][i : i + 4] for name in "xy"} for c in clients for i in range(0, len(c["x"]), 4)]
    losses = np.concatenate(
        [_own_among_others(b["x"].astype(np.float64) @ b["y"].T.astype(np.float64)) for b in batches]
    )
    data = fc.data.from_clients(clients)
    cohort = data.cohort(data.client_ids, fc.data.Batching(4))
    found = fc.algorithms.federated_evaluation(model)({"w": np.eye(2, dtype=np.float32)}, cohort)
    assert float(found["eval"]["loss"]) == pytest.approx(losses.mean(), rel=1e-5)


def _own_among_others(scores):
    return np.log(np.exp(scores).sum(axis=1)) - np.diagonal(scores)
