"""What the adapters of linen, nnx, Keras and equinox modules have in common."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import fedjax_core as fc
from fedjax_core import models, trees
from fedjax_core.model_calls import predicted

KEY = jax.random.key(0)
VALUES = {"x": "float32[?,1]", "y": "int32[?]"}
ROWS = {"x": "float32[?,90]", "y": "float32[?,90]"}


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))


class LinenDropout(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        return nn.Dropout(0.5, deterministic=deterministic)(x)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.BatchNorm(1, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(1, 3, rngs=rngs)

    def __call__(self, x):
        return self.dense(self.dropout(self.norm(x)))


def linen():
    return models.from_linen, LinenNet(), LinenDropout()


def of_nnx():
    return models.from_nnx, NnxNet, lambda rngs: nnx.Dropout(0.5, rngs=rngs)


def of_keras():
    keras = pytest.importorskip("keras")
    layers = [keras.layers.BatchNormalization(), keras.layers.Dropout(0.5), keras.layers.Dense(3)]
    net = keras.Sequential([keras.Input((1,)), *layers])
    return models.from_keras, net, keras.Sequential([keras.Input((90,)), keras.layers.Dropout(0.5)])


def of_equinox():
    eqx = pytest.importorskip("equinox")

    def net(key):
        norm = eqx.nn.BatchNorm(1, "batch", mode="batch")
        return eqx.nn.Sequential([norm, eqx.nn.Dropout(0.5), eqx.nn.Linear(1, 3, key=key)])

    return models.from_equinox, eqx.nn.make_with_state(net), lambda key: eqx.nn.Dropout(0.5)


@pytest.fixture(scope="module", params=[linen, of_nnx, of_keras, of_equinox])
def library(request):
    """An adapter and two modules for it: a batch normalization with dropout, and dropout alone."""
    with jax.numpy_rank_promotion("allow"):  # Keras's own code, called by itself, adds arrays of different ranks
        return request.param()


@pytest.fixture
def adapted(library):
    adapt, net, _ = library
    return functools.partial(adapt, net, models.cross_entropy(), VALUES)


X = np.array([[0], [3], [6], [9]], np.float32)


def trained(model, weights, mask):
    """The result of training on `X`."""
    return predicted(model, weights, {"x": X}, mask, KEY, training=True)


@pytest.mark.parametrize("running", ["average", "keep", "freeze"])
def test_running_state_is_given_unless_it_is_frozen(adapted, running):
    model = adapted(running=running)
    weights = model.init(KEY)
    output = jax.jit(lambda weights: trained(model, weights, jnp.arange(4) < 3))(weights)
    found = sorted(float(leaf.ravel()[0]) for leaf in jax.tree.leaves(output.non_trainable))
    moved = [0.03, 1, 1.05] if adapted.func is models.from_equinox else [0.03, 1.05]  # equinox counts the steps
    np.testing.assert_allclose(found, [] if running == "freeze" else moved, rtol=1e-5)
    assert model.running == ("average" if running == "average" else "keep")
    assert predicted(model, weights, {"x": X}).non_trainable == ()


def test_a_batch_of_padding_alone_leaves_finite_numbers_and_the_running_state(adapted):
    model = adapted()
    weights = model.init(KEY)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient_of(trainable):
        output = trained(model, weights._replace(trainable=trainable), jnp.zeros(4, bool))
        return output.predictions.sum(), output

    gradient, output = gradient_of(weights.trainable)
    assert trees.is_finite((gradient, output.predictions))
    jax.tree.map(np.testing.assert_array_equal, output.non_trainable, weights.non_trainable)


def test_dropout_comes_from_the_key_and_only_in_training(library):
    adapt, _, dropout = library
    model = adapt(dropout, models.squared_error(), ROWS)
    weights, batch = model.init(KEY), {"x": np.ones((2, 90), np.float32)}
    assert weights == {}
    first, again, other = (model.predict(weights, batch, jax.random.key(seed), training=True) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first[0] != first[1]).any()
    assert set(np.unique(first)) == {0, 2}
    np.testing.assert_array_equal(model.predict(weights, batch), batch["x"])
    with pytest.raises(ValueError, match=r"got `key=None`; write `model\.predict\(weights, batch, key"):
        model.predict(weights, batch, training=True)


def test_wrong_arguments_are_refused(adapted):
    with pytest.raises(ValueError, match=r"'image', which is not one of <x=float32\[\?,1\],y=int32\[\?\]>"):
        adapted(inputs="image")
    with pytest.raises(ValueError, match=r'running=\.\.\.\) must be "average", "keep" or "freeze", got \'mean\''):
        adapted(running="mean")


TYPE = {"x": "float32[?,2]", "y": "int32[?]"}


@pytest.mark.parametrize(
    "build",
    [
        lambda loss: fc.models.from_nnx(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), loss, TYPE),
        lambda loss: fc.models.from_nnx(nnx.Linear, loss, TYPE),
        lambda loss: fc.models.from_nnx(lambda rngs: jnp.zeros(2), loss, TYPE),
        lambda loss: fc.models.from_nnx(nn.Dense(3), loss, TYPE),
        lambda loss: fc.models.from_linen(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), loss, TYPE),
        lambda loss: fc.models.from_linen(nn.Dense, loss, TYPE),
        lambda loss: fc.models.from_linen(lambda x: x, loss, TYPE),
    ],
)
def test_what_makes_no_module_of_the_library_is_refused(build):
    with pytest.raises(TypeError, match=r"must be (a function that makes|an instance of) a flax.*, got .*; write from"):
        build(fc.models.cross_entropy())


def test_a_loss_of_optax_is_refused_by_the_adapters():
    loss = optax.softmax_cross_entropy_with_integer_labels
    for build in (
        lambda: fc.models.from_linen(nn.Dense(3), loss, TYPE),
        lambda: fc.models.from_nnx(lambda rngs: nnx.Linear(2, 3, rngs=rngs), loss, TYPE),
    ):
        with pytest.raises(TypeError, match="a model's loss must be a function of the predictions and the batch"):
            build()


@pytest.mark.parametrize("metrics", [fc.metrics.accuracy(), [fc.metrics.accuracy()]])
def test_metrics_without_names_are_refused(metrics):
    with pytest.raises(TypeError, match="the metrics of a model must be a dict"):
        fc.models.mlp(2, 3, 3, metrics=metrics)
