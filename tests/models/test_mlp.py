import flax.linen as nn
import jax
import numpy as np
import pytest

from fedjax_core import models


def test_keeps_the_laws_of_models(laws):
    laws.check_model(models.mlp(7, (6, 4), 5), 5)


def test_equals_flax_layers(laws):
    model = models.mlp(7, (6, 4), 5)
    weights = laws.initial(model)
    batch = laws.random_batch(model, 3, 5)
    x = batch["x"]
    for i, units in enumerate((6, 4, 5)):
        x = nn.Dense(units).apply({"params": weights[f"dense_{i}"]}, x)
        x = nn.relu(x) if i < 2 else x
    np.testing.assert_allclose(model.predict(weights, batch), x, rtol=1e-5, atol=1e-6)


def test_one_integer_is_one_hidden_layer():
    weights = models.mlp(7, 6, 5).init(jax.random.key(0))
    assert [layer["kernel"].shape for layer in weights.values()] == [(7, 6), (6, 5)]


def test_layers_get_keys_of_their_own():
    weights = models.mlp(6, (6, 6), 6).init(jax.random.key(0))
    assert (weights["dense_0"]["kernel"] != weights["dense_1"]["kernel"]).any()


def test_refuses_an_empty_layer():
    with pytest.raises(ValueError, match=r"mlp\(hidden=\.\.\.\) must be an integer of at least 1, got 0"):
        models.mlp(7, (6, 0), 5)
