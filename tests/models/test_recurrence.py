import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core.models import _recurrence

CELLS = {"lstm": _recurrence.LSTM, "gru": _recurrence.GRU}


def _case(name, length=6, size=3, width=4):
    cell = CELLS[name]
    random = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(random.normal(size=shape) * 0.5, jnp.float32)

    columns = cell.num_gates * width
    initial = tuple(normal(size, width) for _ in range(cell.num_states))
    return cell, (normal(length, size, columns), normal(width, columns), normal(columns), initial)


def _plain(cell, inputs, kernel, bias, initial):
    def step(carry, inputs_t):
        carry, _ = cell.step(inputs_t, carry[0] @ kernel + bias[None, :], carry)
        return carry, carry[0]

    return jax.lax.scan(step, initial, inputs)[1]


def _assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


@pytest.mark.parametrize("name", CELLS)
def test_values_and_gradients_equal_the_plain_scan(name):
    cell, arguments = _case(name)

    def total(run):
        return lambda arguments: jnp.sin(run(cell, *arguments)).sum()

    _assert_close(_recurrence.recur(cell, *arguments), _plain(cell, *arguments))
    ours, plain = (jax.jit(jax.grad(total(run))) for run in (_recurrence.recur, _plain))
    _assert_close(ours(arguments), plain(arguments))


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_second_derivatives_equal_the_plain_scan(name):
    cell, arguments = _case(name, length=3)

    def squared_gradient(run):
        def total(arguments):
            return jnp.sin(run(cell, *arguments)).sum()

        def squares(arguments):
            return sum((leaf**2).sum() for leaf in jax.tree.leaves(jax.grad(total)(arguments)))

        return jax.jit(jax.grad(squares))

    _assert_close(squared_gradient(_recurrence.recur)(arguments), squared_gradient(_plain)(arguments))


@pytest.mark.parametrize("name", CELLS)
def test_vmap_over_kernels(name):
    cell, (inputs, kernel, bias, initial) = _case(name)
    kernels = jnp.stack([kernel, 2 * kernel])

    @jax.jit
    def gradient(kernel):
        return jax.grad(lambda kernel: _recurrence.recur(cell, inputs, kernel, bias, initial).sum())(kernel)

    _assert_close(jax.jit(jax.vmap(gradient))(kernels), jnp.stack([gradient(kernel), gradient(2 * kernel)]))


def test_lstm_equals_flax():
    module = nn.RNN(nn.OptimizedLSTMCell(4))
    x = np.random.default_rng(1).normal(size=(3, 6, 2)).astype(np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    parts = variables["params"]["cell"]
    inputs = jnp.concatenate([parts[f"i{gate}"]["kernel"] for gate in "ifgo"], axis=1)
    kernel = jnp.concatenate([parts[f"h{gate}"]["kernel"] for gate in "ifgo"], axis=1)
    bias = jnp.concatenate([parts[f"h{gate}"]["bias"] for gate in "ifgo"])
    zeros = jnp.zeros((3, 4))
    ours = _recurrence.recur(_recurrence.LSTM, x.swapaxes(0, 1) @ inputs, kernel, bias, (zeros, zeros))
    np.testing.assert_allclose(ours.swapaxes(0, 1), module.apply(variables, x), rtol=1e-5, atol=1e-6)


def test_gru_equals_flax():
    module = nn.RNN(nn.GRUCell(4, bias_init=nn.initializers.normal(1.0)))
    x = np.random.default_rng(1).normal(size=(3, 6, 2)).astype(np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    parts = variables["params"]["cell"]
    inputs = jnp.concatenate([parts[f"i{gate}"]["kernel"] for gate in "rzn"], axis=1)
    inputs_bias = jnp.concatenate([parts[f"i{gate}"]["bias"] for gate in "rzn"])
    kernel = jnp.concatenate([parts[f"h{gate}"]["kernel"] for gate in "rzn"], axis=1)
    bias = jnp.concatenate([jnp.zeros(8), parts["hn"]["bias"]])
    projected = x.swapaxes(0, 1) @ inputs + inputs_bias[None, None, :]
    ours = _recurrence.recur(_recurrence.GRU, projected, kernel, bias, (jnp.zeros((3, 4)),))
    np.testing.assert_allclose(ours.swapaxes(0, 1), module.apply(variables, x), rtol=1e-5, atol=1e-6)
