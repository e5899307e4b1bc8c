"""One step of local training, for simulated clients and real ones."""

from collections.abc import Callable

import jax

from fedjax_core.clients._local_optimizer import LocalOptimizer
from fedjax_core.clients._loss import training_loss
from fedjax_core.clients._measuring import trainable_of, with_running, with_trainable
from fedjax_core.contracts import Model


def training_step(model: Model, optimizer: LocalOptimizer) -> Callable:
    """A step along the gradient of a batch's mean loss.

    Args:
      model: the model.
      optimizer: from `local_optimizer`.

    Returns:
      `(weights, state, batch, mask, key) -> (weights, state, predictions)`, a pure JAX function: `state` is the
      optimizer's, and the predictions are those of the weights before the step, in training. Running state that the
      model returns is in the weights after it.

    Example:

    >>> import jax.numpy as jnp, optax, fedjax_core as fc
    >>> model, optimizer = fc.models.logistic_regression(2, 2), fc.clients.local_optimizer(optax.sgd(1.0))
    >>> weights = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    >>> batch, mask = {"x": jnp.eye(2), "y": jnp.array([0, 1])}, jnp.array([True, False])
    >>> weights, *_ = training_step(model, optimizer)(weights, optimizer.init(weights), batch, mask, None)
    >>> print(weights["bias"])
    [ 0.5 -0.5]
    """
    loss = training_loss(model)
    with_gradient = jax.value_and_grad(loss, has_aux=True)

    def step(weights, state, batch, mask, key):
        before = trainable_of(weights)
        (value, output), gradient = with_gradient(before, weights, batch, mask, key)
        state, after = optimizer.step(
            state,
            gradient,
            before,
            value=value,
            grad=gradient,
            value_fn=lambda trainable: loss(trainable, weights, batch, mask, key)[0],
        )
        return with_running(with_trainable(weights, after), output.non_trainable), state, output.predictions

    return step
