import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core import models, trees


def _small(cell, **changes):
    sizes = {"vocab_size": 7, "embedding_size": 3, "hidden_size": 5, "sequence_length": 6}
    return models.character_model(**sizes, cell=cell, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [pytest.param("lstm", marks=pytest.mark.slow), "gru"])
def test_keeps_the_laws_of_models(laws, cell):
    laws.check_model(_small(cell), 7, size=4)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_full_size_traces_symbolically(laws, cell):
    laws.check_symbolic(models.character_model(cell=cell))


def test_usual_number_of_weights():
    weights = jax.eval_shape(models.character_model().init, jax.random.key(0))
    assert trees.size(weights) == 90 * 8 + (8 + 256 + 1) * 1024 + (256 + 256 + 1) * 1024 + 257 * 90


def _flax_cell(layer):
    """An LSTM layer's weights as those of flax's cell."""
    parts = {name: jnp.split(leaf, 4, axis=-1) for name, leaf in layer.items()}
    cell = {}
    for gate, kernel, recurrent_kernel, bias in zip("ifgo", parts["kernel"], parts["recurrent_kernel"], parts["bias"]):
        cell[f"i{gate}"] = {"kernel": kernel}
        cell[f"h{gate}"] = {"kernel": recurrent_kernel, "bias": bias}
    return cell


def test_values_and_gradients_equal_flax_layers(laws):
    model = _small("lstm")
    weights, batch = laws.initial(model), laws.random_batch(model, 3, 7)

    def flax(weights):
        x = weights["embedding"][batch["x"]]
        for layer in ("layer_0", "layer_1"):
            x = nn.RNN(nn.OptimizedLSTMCell(5)).apply({"params": {"cell": _flax_cell(weights[layer])}}, x)
        return nn.Dense(7).apply({"params": weights["dense"]}, x)

    def ours(weights):
        return model.predict(weights, batch)

    gradients = [jax.jit(jax.grad(lambda weights, run=run: jnp.sin(run(weights)).sum())) for run in (ours, flax)]
    for found, expected in ((jax.jit(ours), jax.jit(flax)), gradients):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found(weights), expected(weights)
        )


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_prediction_depends_on_the_past_only(laws, cell):
    model = _small(cell)
    weights = laws.initial(model)
    x = laws.random_batch(model, 2, 7)["x"]
    changed = x.copy()
    changed[:, 3] = (x[:, 3] + 1) % 7
    predict = jax.jit(model.predict)
    before, after = predict(weights, {"x": x}), predict(weights, {"x": changed})
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert (before[:, 3:] != after[:, 3:]).all(axis=2).all()


def test_padding_is_not_learned(laws):
    model = _small("lstm")
    batch = {"x": np.ones((2, 6), np.int32), "y": np.zeros((2, 6), np.int32)}
    result = jax.jit(lambda weights: laws.evaluate(model, weights, batch))(laws.initial(model))
    assert result["loss"] == 0
    assert trees.norm(result["gradient"]) == 0


def test_without_padding_symbol_every_position_counts(laws):
    batch = {"x": np.ones((2, 6), np.int32), "y": np.zeros((2, 6), np.int32)}
    model = _small("lstm", pad=None)
    predictions = jax.jit(model.predict)(laws.initial(model), batch)
    assert (model.loss(predictions, batch) > 0).all()


def test_forget_gates_start_open(laws):
    bias = laws.initial(_small("lstm"))["layer_1"]["bias"]
    np.testing.assert_array_equal(bias, jnp.repeat(jnp.array([0.0, 1.0, 0.0, 0.0]), 5))


def test_refuses_an_unknown_cell():
    with pytest.raises(ValueError, match="must be 'lstm' or 'gru', got 'rnn'"):
        models.character_model(cell="rnn")
