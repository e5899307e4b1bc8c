import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core import models
from fedjax_core.models import layers
from fedjax_core.models.layers import linen
from tests.marks import with_slow

CONVS = {
    "same": ((2, 9, 8, 8), {"features": 5, "kernel_size": (3, 3)}),
    "valid, no bias": ((2, 9, 8, 1), {"features": 5, "kernel_size": (3, 5), "padding": "VALID", "use_bias": False}),
    "one axis": ((2, 9, 3), {"features": 5, "kernel_size": 4, "strides": None}),
    "no batch": ((9, 8, 2), {"features": 5, "kernel_size": (3, 3), "strides": (1, 1)}),
    "two batch axes": ((2, 3, 9, 8, 2), {"features": 5, "kernel_size": (2, 3)}),
    "half precision": ((2, 9, 8, 8), {"features": 5, "kernel_size": (3, 3), "dtype": "bfloat16"}),
}
CELLS = {"optimized": nn.OptimizedLSTMCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}


def _input(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def _equal(ours, flax, x, tolerance=1e-5):
    """The same initial variables, values and gradients."""
    variables = jax.jit(flax.init)(jax.random.key(0), x)
    own = jax.jit(ours.init)(jax.random.key(0), x)
    assert jax.tree.structure(own) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, own, variables)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    results = []
    for module in (ours, flax):

        def total(variables, x, module=module):
            outputs = module.apply(variables, x)
            return jnp.sin(outputs.astype(jnp.float32)).sum(), outputs

        results.append(jax.jit(jax.grad(total, (0, 1), has_aux=True))(variables, x))
    for a, b in zip(*map(jax.tree.leaves, results)):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1, abs(b).max()))


@pytest.mark.parametrize("name", CONVS)
def test_conv_is_flax_conv(name):
    shape, options = CONVS[name]
    _equal(linen.Conv(**options), nn.Conv(**options), _input(*shape), 3e-2 if "dtype" in options else 1e-5)


@pytest.mark.parametrize("name", with_slow(CELLS, {"optimized"}))
def test_rnn_is_flax_rnn(name):
    cell = CELLS[name](4)
    _equal(linen.RNN(cell), nn.RNN(cell), _input(3, 6, 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_rnn_in_half_precision_is_flax_rnn(name):
    cell = CELLS[name](4, dtype="bfloat16")
    _equal(linen.RNN(cell), nn.RNN(cell), _input(3, 6, 2), 3e-2)


def test_rnn_time_first_with_several_batch_axes_is_flax_rnn():
    cell = nn.OptimizedLSTMCell(4)
    _equal(linen.RNN(cell, time_major=True), nn.RNN(cell, time_major=True), _input(6, 2, 3, 2))


class _Net(nn.Module):
    rnn: type

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(7, 3)(tokens)
        for _ in range(2):
            x = self.rnn(nn.OptimizedLSTMCell(4))(x)
        return nn.Dense(7)(x)


@pytest.mark.slow
def test_rnn_inside_of_a_module_has_flax_parameters():
    tokens = jnp.arange(12).reshape(2, 6) % 7
    ours, flax = _Net(linen.RNN), _Net(nn.RNN)
    variables = flax.init(jax.random.key(0), tokens)
    jax.tree.map(np.testing.assert_array_equal, ours.init(jax.random.key(0), tokens), variables)
    np.testing.assert_allclose(ours.apply(variables, tokens), flax.apply(variables, tokens), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_rnn_as_a_model_keeps_the_laws(laws):
    batch_type = {"x": "int32[?,6]", "y": "int32[?,6]"}
    laws.check_model(models.from_linen(_Net(linen.RNN), models.sequence_cross_entropy(), batch_type), 7)


class _Images(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(linen.Conv(8, (3, 3))(x))
        x = layers.max_pool(nn.relu(linen.Conv(4, (3, 3))(x)))
        return nn.Dense(5)(x.reshape(x.shape[0], 4 * 3 * 4))


@pytest.mark.slow
def test_conv_as_a_model_keeps_the_laws(laws):
    model = models.from_linen(_Images(), models.cross_entropy(), {"x": "float32[?,8,6,2]", "y": "int32[?]"})
    laws.check_model(model, 5)
    assert model.predict(laws.initial(model), laws.random_batch(model, 0, 5)).shape == (0, 5)


@pytest.mark.parametrize("options", [{"strides": 2}, {"strides": (1, 2)}, {"padding": "CIRCULAR"}])
def test_conv_refuses_what_it_cannot(options):
    with pytest.raises(ValueError, match=r"[Cc]onv"):
        linen.Conv(5, (3, 3), **options).init(jax.random.key(0), _input(1, 9, 8, 2))


def test_rnn_refuses_other_cells_and_activations():
    with pytest.raises(TypeError, match="SimpleCell"):
        linen.RNN(nn.SimpleCell(4)).init(jax.random.key(0), _input(3, 6, 2))
    with pytest.raises(ValueError, match="activation_fn=tanh"):
        linen.RNN(nn.LSTMCell(4, activation_fn=nn.relu)).init(jax.random.key(0), _input(3, 6, 2))
