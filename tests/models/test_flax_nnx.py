import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_core import models, trees, types
from fedjax_core.contracts import ModelWeights

IMAGES = {"x": "float32[?,8,8,1]", "y": "int32[?]"}


class ConvNet(nnx.Module):
    """Everything that behaves differently in training."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), padding="VALID", rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(36, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        x = nnx.max_pool(x, (2, 2), strides=(2, 2)).reshape(x.shape[0], -1)
        return self.dense(self.dropout(x))


class Recurrent(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(7, 3, rngs=rngs)
        self.recurrent = nnx.RNN(nnx.LSTMCell(3, 4, rngs=rngs))
        self.dense = nnx.Linear(4, 7, rngs=rngs)

    def __call__(self, tokens):
        return self.dense(self.recurrent(self.embed(tokens)))


class Told(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, *, training):
        return self.dense(x) + (1 if training else 0)


def _conv_net():
    return models.from_nnx(ConvNet, models.cross_entropy(), IMAGES)


@pytest.mark.slow
def test_conv_net_keeps_the_laws_of_models(laws):
    laws.check_model(_conv_net(), 3)


@pytest.mark.slow
def test_conv_net_trains_with_a_symbolic_batch(laws):
    model = _conv_net()
    laws.check_symbolic(model, key=jax.random.key(0), training=True)
    batch = laws.random_batch(model, 6, 3)
    run = jax.jit(lambda weights: laws.evaluate(model, weights, batch, jax.random.key(0), training=True))
    laws.check_gradient(run, laws.initial(model))


@pytest.mark.slow
def test_lstm_keeps_the_laws_of_models(laws):
    batch_type = types.parse_type("<x=int32[?,6],y=int32[?,6]>")
    laws.check_model(models.from_nnx(Recurrent, models.sequence_cross_entropy(), batch_type), 7)


def test_weights_are_plain_dicts_without_random_state():
    weights = _conv_net().init(jax.random.key(0))
    assert isinstance(weights, ModelWeights)
    assert sorted(weights.trainable) == ["conv", "dense", "norm"]
    assert sorted(weights.non_trainable) == ["norm"]
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(weights))


def test_evaluation_equals_the_module(laws):
    model = _conv_net()
    weights = laws.initial(model)
    module = ConvNet(nnx.Rngs(jax.random.key(0)))
    module.eval()
    batch = laws.random_batch(model, 6, 3)
    expected = module(batch["x"])
    np.testing.assert_array_equal(model.predict(weights, batch), expected)
    np.testing.assert_array_equal(model.predict(weights, batch, jax.random.key(5)), expected)


def test_training_normalizes_with_the_batch(laws):
    batch_type = {"x": "float32[?,3]", "y": "float32[?,3]"}
    model = models.from_nnx(lambda rngs: nnx.BatchNorm(3, rngs=rngs), models.squared_error(), batch_type)
    weights = laws.initial(model)
    x = np.random.default_rng(0).normal(3, 2, size=(50, 3)).astype(np.float32)
    trained = model.predict(weights, {"x": x}, training=True)
    np.testing.assert_allclose(trained.predictions, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.predict(weights, {"x": x}), x / np.sqrt(1 + 1e-5), rtol=1e-5)


def test_layers_of_a_list_have_integer_keys(laws):
    def create(rngs):
        return nnx.Sequential(nnx.Linear(4, 5, rngs=rngs), nnx.relu, nnx.Linear(5, 3, rngs=rngs))

    model = models.from_nnx(create, models.cross_entropy(), {"x": "float32[?,4]", "y": "int32[?]"})
    weights = laws.initial(model)
    assert list(weights["layers"]) == [0, 2]
    types.type_of(weights)
    laws.check_model(model, 3)


def test_a_module_is_told_whether_it_trains(laws):
    model = models.from_nnx(Told, models.cross_entropy(), {"x": "float32[?,4]", "y": "int32[?]"})
    weights, batch = laws.initial(model), {"x": np.zeros((2, 4), np.float32)}
    assert (model.predict(weights, batch) == 0).all()
    assert (model.predict(weights, batch, training=True) == 1).all()


def test_initial_weights_are_those_of_the_key(laws):
    model = _conv_net()
    first, again, other = (laws.initial(model, seed) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert trees.norm(trees.subtract(first.trainable, other.trainable)) > 0


def test_scans_over_batches_inside_jit(laws):
    model = _conv_net()
    weights = laws.initial(model)
    batch = laws.random_batch(model, 4, 3)

    @jax.jit
    def train(weights):
        def step(trainable, key):
            whole = weights._replace(trainable=trainable)
            gradient = laws.evaluate(model, whole, batch, key, training=True)["gradient"]
            return trees.subtract(trainable, trees.scale(gradient, 0.1)), None

        return jax.lax.scan(step, weights.trainable, jax.random.split(jax.random.key(1), 5))[0]

    trained = train(weights)
    assert trees.is_finite(trained)
    assert jnp.any(trained["dense"]["kernel"] != weights.trainable["dense"]["kernel"])
