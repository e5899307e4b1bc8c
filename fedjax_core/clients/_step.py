"""One step of local training, for simulated and real clients, and the loss that it minimizes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_core.clients._coupling import warn_of_coupled_rows
from fedjax_core.clients._local_optimizer import LocalOptimizer
from fedjax_core.clients._measuring import trainable_of, with_running, with_trainable
from fedjax_core.contracts import Model
from fedjax_core.model_calls import losses, predicted


def summed_loss(model: Model) -> Callable:
    """Like `training_loss`, but the sum of the losses of a batch's examples instead of their mean."""

    warn_of_coupled_rows(model, training=True)

    def loss(trainable, weights, batch, mask, key):
        output = predicted(model, with_trainable(weights, trainable), batch, mask, key, training=True)
        return jnp.sum(jnp.where(mask, losses(model, output.predictions, batch, mask), 0)), output

    return loss


def training_loss(model: Model) -> Callable:
    """The mean training loss of a batch's examples, whose gradient a step of local training takes.

    Args:
      model: the model.

    Returns:
      `(trainable, weights, batch, mask, key) -> (loss, predicted)`, for `weights` with `trainable` as their trainable
      part. The loss is a scalar, zero for a batch without examples, and `predicted` is a `contracts.Predicted`.
      Padding does not count in the mean, but a model without `mask` sees it: fill it with an example before you take
      a gradient, see `ClientBatches.filled`.

    Example:

    >>> import jax, fedjax_core as fc
    >>> model = fc.models.logistic_regression(2, 2)
    >>> weights = model.init(jax.random.key(0))
    >>> batch = {"x": jnp.ones((2, 2)), "y": jnp.array([0, 1])}
    >>> gradient_of = jax.grad(training_loss(model), has_aux=True)
    >>> gradient, _ = gradient_of(weights, weights, batch, jnp.array([True, False]), None)
    >>> print(gradient["bias"])
    [-0.5  0.5]
    """
    total = summed_loss(model)

    def loss(trainable, weights, batch, mask, key):
        value, output = total(trainable, weights, batch, mask, key)
        return value / jnp.maximum(jnp.sum(mask), 1).astype(value.dtype), output

    return loss


def training_step(model: Model, optimizer: LocalOptimizer) -> Callable:
    """Makes the function that takes one optimizer step with the gradient of a batch's mean loss.

    Args:
      model: the model.
      optimizer: a `LocalOptimizer`, as `local_optimizer` returns it.

    Returns:
      `(weights, state, batch, mask, key) -> (weights, state, predictions)`, a pure JAX function. `state` is that of
      the optimizer, and the predictions are the training predictions of the weights before the step. The weights after
      the step hold the running state that the model returned.

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
