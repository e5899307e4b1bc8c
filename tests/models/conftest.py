"""The laws that every model keeps, and random batches for it."""

import functools
import types as python_types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_core import trees, types
from fedjax_core.contracts import ModelWeights
from fedjax_core.model_calls import losses, predicted


def random_batch(model, size, num_labels, seed=0):
    """A batch of `size` examples: normal floats, integers below `num_labels`."""
    random = np.random.default_rng(seed)

    def leaf(tensor):
        shape = (size, *tensor.shape[1:])
        if jnp.issubdtype(tensor.dtype, jnp.integer):
            return random.integers(0, num_labels, shape).astype(tensor.dtype)
        return random.normal(size=shape).astype(tensor.dtype)

    return jax.tree.map(leaf, types.tree_of_types(model.batch_type))


def symbolic_batch(model):
    """The batch of a model with one symbol for its leading dimensions."""
    (size,) = jax.export.symbolic_shape("b")
    return jax.tree.map(
        lambda tensor: jax.ShapeDtypeStruct((size, *tensor.shape[1:]), tensor.dtype),
        types.tree_of_types(model.batch_type),
    )


def split(weights):
    """The trainable weights, and a function that completes them to all weights."""
    if isinstance(weights, ModelWeights):
        return weights.trainable, lambda trainable: weights._replace(trainable=trainable)
    return weights, lambda trainable: trainable


def check_symbolic(model, key=None, training=False):
    """Prediction, loss and gradient trace for a batch of unknown size, with the right shapes."""
    weights = jax.eval_shape(model.init, jax.random.key(0))
    batch = symbolic_batch(model)
    size = jax.tree.leaves(batch)[0].shape[0]

    result = jax.eval_shape(lambda w, b: evaluate(model, w, b, key, training), weights, batch)
    assert jax.eval_shape(model.loss, result["predictions"], batch).shape == (size,)
    trainable, _ = split(weights)
    jax.tree.map(_check_same_array, result["gradient"], trainable)


def _check_same_array(a, b):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)


def initial(model, seed=0):
    """The model's initial weights."""
    return jax.jit(model.init)(jax.random.key(seed))


def evaluate(model, weights, batch, key=None, training=False):
    """Predictions, the mean loss, and its gradient by the trainable weights."""
    trainable, whole = split(weights)

    def mean(trainable):
        predictions = predicted(model, whole(trainable), batch, None, key, training).predictions
        return losses(model, predictions, batch).mean(), predictions

    (loss, predictions), gradient = jax.value_and_grad(mean, has_aux=True)(trainable)
    return {"predictions": predictions, "loss": loss, "gradient": gradient}


def check_gradient(run, weights):
    """The gradient is finite, not zero, and a small step along it lowers the loss.

    `run(weights)` is an `evaluate`.
    """
    result = run(weights)
    assert trees.is_finite(result["gradient"])
    assert trees.norm(result["gradient"]) > 0
    trainable, whole = split(weights)
    moved = trees.subtract(trainable, trees.scale(result["gradient"], 1e-3))
    assert run(whole(moved))["loss"] < result["loss"]


def check_model(model, num_labels, size=5):
    """Traces symbolically; the gradient is right; rows do not mix; `vmap` over weights changes nothing."""
    check_symbolic(model)
    batch = random_batch(model, size, num_labels)
    run = functools.partial(evaluate, model)
    alone = jax.jit(run)
    several = jax.jit(jax.vmap(model.init))(jax.random.split(jax.random.key(2), 2))
    together = jax.jit(jax.vmap(run, in_axes=(0, None)))(several, batch)
    for i in range(2):
        weights = jax.tree.map(lambda leaf, i=i: leaf[i], several)
        expected = alone(weights, batch)
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5), together, expected)
    check_gradient(lambda weights: alone(weights, batch), weights)
    backwards = alone(weights, jax.tree.map(lambda leaf: leaf[::-1], batch))
    np.testing.assert_allclose(backwards["predictions"][::-1], expected["predictions"], rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="session")
def laws():
    """The functions of this file."""
    functions = (check_gradient, check_model, check_symbolic, evaluate, initial, random_batch)
    return python_types.SimpleNamespace(**{function.__name__: function for function in functions})
