import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core.models import layers

GATES = {"lstm": 4, "gru": 3}


def _case(name, dtype=jnp.float32, examples=2, length=5, inputs=3, size=4):
    random = np.random.default_rng(0)
    width = GATES[name] * size
    shapes = [(examples, length, inputs), (inputs, width), (size, width), (width,)] + [(width,)] * (name == "gru")
    return getattr(layers, name), [jnp.asarray(random.normal(size=shape) * 0.5, dtype) for shape in shapes]


def _reference(name, x, kernel, recurrent_kernel, bias, recurrent_bias=0.0):
    """The recurrence in NumPy, float64, one position at a time."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    x, kernel, recurrent_kernel, bias = (np.asarray(a, np.float64) for a in (x, kernel, recurrent_kernel, bias))
    hidden = cell = np.zeros((x.shape[0], recurrent_kernel.shape[0]))
    outputs = []
    for t in range(x.shape[1]):
        inputs = np.split(x[:, t] @ kernel + bias, GATES[name], axis=-1)
        states = np.split(hidden @ recurrent_kernel + np.asarray(recurrent_bias), GATES[name], axis=-1)
        if name == "lstm":
            take, keep, new, give = (a + b for a, b in zip(inputs, states))
            cell = sigmoid(keep) * cell + sigmoid(take) * np.tanh(new)
            hidden = sigmoid(give) * np.tanh(cell)
        else:
            reset, keep = (sigmoid(a + b) for a, b in zip(inputs[:2], states[:2]))
            hidden = (1 - keep) * np.tanh(inputs[2] + reset * states[2]) + keep * hidden
        outputs.append(hidden)
    return np.stack(outputs, axis=1)


@pytest.mark.parametrize("name", GATES)
def test_equals_numpy(name):
    layer, arguments = _case(name)
    np.testing.assert_allclose(layer(*arguments), _reference(name, *arguments), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", GATES)
def test_goes_on_from_a_hidden_state(name):
    layer, (x, *weights) = _case(name)
    whole = layer(x, *weights)
    if name == "gru":
        np.testing.assert_allclose(layer(x[:, 3:], *weights, whole[:, 2]), whole[:, 3:], rtol=1e-5, atol=1e-6)
    else:
        zeros = jnp.zeros_like(whole[:, 0])
        np.testing.assert_allclose(layer(x, *weights, (zeros, zeros)), whole)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", GATES)
def test_half_precision_keeps_its_dtype(name, dtype):
    layer, arguments = _case(name, dtype)
    values, gradient = jax.jit(jax.value_and_grad(lambda a: layer(*a).astype(jnp.float32).sum()))(arguments)
    assert layer(*arguments).dtype == dtype
    assert all(leaf.dtype == dtype for leaf in gradient)
    np.testing.assert_allclose(values, _reference(name, *arguments).sum(), rtol=0.05, atol=0.3)


@pytest.mark.parametrize("name", GATES)
def test_batch_may_be_empty_or_symbolic(name):
    layer, (x, *weights) = _case(name)
    assert layer(x[:0], *weights).shape == (0, 5, 4)
    gradient = jax.jit(jax.grad(lambda x: jnp.sin(layer(x, *weights)).sum()))
    (size,) = jax.export.symbolic_shape("b")
    exported = jax.export.export(gradient)(jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype))
    np.testing.assert_allclose(exported.call(x), gradient(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", GATES)
def test_refuses_shapes_that_do_not_fit(name):
    layer, (x, kernel, *others) = _case(name)
    for arguments in ((x[0], kernel), (x, kernel[:-1]), (x, kernel[:, :-1])):
        with pytest.raises(ValueError, match=f"{name} takes a sequence"):
            layer(*arguments, *others)
