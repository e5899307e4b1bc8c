import flax.linen as nn
import jax
import numpy as np
import pytest

from fedjax_core import models, trees


@pytest.mark.slow
def test_keeps_the_laws_of_models(laws):
    laws.check_model(models.emnist_cnn(5, image_shape=(9, 8, 2)), 5, size=3)


def test_full_size_traces_symbolically_with_the_usual_number_of_weights(laws):
    model = models.emnist_cnn()
    laws.check_symbolic(model)
    weights = jax.eval_shape(model.init, jax.random.key(0))
    assert trees.size(weights) == 320 + 18_496 + 1_179_776 + 7_998


def test_equals_flax_layers(laws):
    model = models.emnist_cnn(7)
    weights = laws.initial(model)
    batch = laws.random_batch(model, 3, 7)

    def flax(weights, x):
        x = nn.relu(nn.Conv(32, (3, 3), padding="VALID").apply({"params": weights["conv1"]}, x))
        x = nn.relu(nn.Conv(64, (3, 3), padding="VALID").apply({"params": weights["conv2"]}, x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2)).reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(128).apply({"params": weights["dense1"]}, x))
        return nn.Dense(7).apply({"params": weights["dense2"]}, x)

    expected = jax.jit(flax)(weights, batch["x"])
    np.testing.assert_allclose(jax.jit(model.predict)(weights, batch), expected, rtol=1e-5, atol=1e-5)


def test_takes_an_empty_batch(laws):
    model = models.emnist_cnn(5, image_shape=(8, 8, 1))
    weights = laws.initial(model)
    assert model.predict(weights, laws.random_batch(model, 0, 5)).shape == (0, 5)


@pytest.mark.parametrize("shape", [(28, 28), (5, 28, 1), (28, 28, 0)])
def test_refuses_shapes_that_are_no_image(shape):
    with pytest.raises(ValueError, match="emnist_cnn"):
        models.emnist_cnn(image_shape=shape)
