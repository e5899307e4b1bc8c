import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core import models, trees, types
from fedjax_core.contracts import ModelWeights

IMAGES = {"x": "float32[?,8,8,1]", "y": "int32[?]"}


class ConvNet(nn.Module):
    """Everything that behaves differently in training."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), padding="VALID")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2)).reshape(x.shape[0], -1)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(3)(x)


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(7, 3)(tokens)
        x = nn.RNN(nn.OptimizedLSTMCell(4))(x)
        return nn.Dense(7)(x)


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        return nn.Dropout(0.5, deterministic=deterministic)(x)


class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, training: bool):
        x = nn.Dense(3)(x)
        return x + jax.random.normal(self.make_rng("noise"), x.shape) if training else x


def _conv_net():
    return models.from_linen(ConvNet(), models.cross_entropy(), IMAGES)


def test_conv_net_keeps_the_laws_of_models(laws):
    laws.check_model(_conv_net(), 3)


def test_conv_net_trains_with_a_symbolic_batch(laws):
    model = _conv_net()
    laws.check_symbolic(model, key=jax.random.key(0), training=True)
    batch = laws.random_batch(model, 6, 3)
    run = jax.jit(lambda weights: laws.evaluate(model, weights, batch, jax.random.key(0), training=True))
    laws.check_gradient(run, laws.initial(model))


def test_running_averages_are_no_trainable_weights(laws):
    model = _conv_net()
    weights = laws.initial(model)
    assert isinstance(weights, ModelWeights)
    assert list(weights.non_trainable) == ["batch_stats"]
    assert "batch_stats" not in weights.trainable
    batch = laws.random_batch(model, 6, 3)
    trained = model.predict(weights, batch, jax.random.key(1), training=True)
    assert trained.predictions.shape == (6, 3)
    assert jax.tree.structure(trained.non_trainable) == jax.tree.structure(weights.non_trainable)


def test_evaluation_equals_module_apply(laws):
    model = _conv_net()
    weights = laws.initial(model)
    batch = laws.random_batch(model, 6, 3)
    variables = {"params": weights.trainable, **weights.non_trainable}
    expected = ConvNet().apply(variables, batch["x"], train=False)
    np.testing.assert_array_equal(model.predict(weights, batch), expected)
    np.testing.assert_array_equal(model.predict(weights, batch, jax.random.key(5)), expected)


def test_training_normalizes_with_the_batch(laws):
    class Normalized(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.BatchNorm(use_running_average=not train)(x)

    model = models.from_linen(Normalized(), models.squared_error(), {"x": "float32[?,3]", "y": "float32[?,3]"})
    weights = laws.initial(model)
    x = np.random.default_rng(0).normal(3, 2, size=(50, 3)).astype(np.float32)
    trained = model.predict(weights, {"x": x}, training=True)
    np.testing.assert_allclose(trained.predictions, (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(model.predict(weights, {"x": x}), x / np.sqrt(1 + 1e-5), rtol=1e-5)


def test_a_stream_of_another_name_comes_from_the_key(laws):
    model = models.from_linen(Noisy(), models.cross_entropy(), {"x": "float32[?,4]", "y": "int32[?]"})
    weights, batch = laws.initial(model), {"x": np.ones((2, 4), np.float32)}
    noisy = model.predict(weights, batch, jax.random.key(1), training=True)
    assert (noisy != model.predict(weights, batch)).all()


@pytest.mark.parametrize("module", [Dropped(), Noisy()])
def test_training_without_a_needed_key_is_refused(laws, module):
    model = models.from_linen(module, models.squared_error(), {"x": "float32[?,4]", "y": "float32[?,4]"})
    with pytest.raises(ValueError, match=r"got `key=None`; write `model\.predict\(weights, batch, key"):
        model.predict(laws.initial(model), {"x": np.ones((2, 4), np.float32)}, training=True)


@pytest.mark.slow
def test_lstm_keeps_the_laws_of_models(laws):
    batch_type = types.parse_type("<x=int32[?,6],y=int32[?,6]>")
    laws.check_model(models.from_linen(Recurrent(), models.sequence_cross_entropy(), batch_type), 7)


def test_several_inputs_in_the_order_named(laws):
    class Difference(nn.Module):
        @nn.compact
        def __call__(self, a, b):
            return nn.Dense(3, kernel_init=nn.initializers.ones)(a - b)

    batch_type = {"left": "float32[?,4]", "right": "float32[?,4]", "y": "int32[?]"}
    module = Difference()
    model = models.from_linen(module, models.cross_entropy(), batch_type, inputs=("right", "left"))
    batch = {"left": np.ones((2, 4), np.float32), "right": np.zeros((2, 4), np.float32)}
    assert (model.predict(laws.initial(model), batch) == -4).all()


def test_a_module_without_weights(laws):
    model = models.from_linen(Dropped(), models.squared_error(), {"x": "float32[?,4]", "y": "float32[?,4]"})
    assert laws.initial(model) == {}


def test_initial_weights_are_those_of_the_key(laws):
    model = _conv_net()
    first, again, other = (laws.initial(model, seed) for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert trees.norm(trees.subtract(first.trainable, other.trainable)) > 0


def test_refuses_an_input_of_unknown_rank(laws):
    model = models.from_linen(nn.Dense(3), models.cross_entropy(), "<x=float32[...],y=int32[?]>")
    with pytest.raises(ValueError, match="must give the rank of every input"):
        laws.initial(model)


def test_predicts_inside_jit_with_a_key(laws):
    model = _conv_net()
    weights = laws.initial(model)
    batch = laws.random_batch(model, 4, 3)
    run = jax.jit(lambda key: model.predict(weights, batch, key, training=True).predictions)
    assert jnp.isfinite(run(jax.random.key(0))).all()
