"""The loss of one batch in training."""

from collections.abc import Callable

import jax.numpy as jnp

from fedjax_core.clients._coupling import warn_of_coupled_rows
from fedjax_core.clients._measuring import with_trainable
from fedjax_core.contracts import Model
from fedjax_core.model_calls import losses, predicted


def summed_loss(model: Model) -> Callable:
    """The sum of the losses of a batch's examples, in training; as `training_loss`."""

    warn_of_coupled_rows(model, training=True)

    def loss(trainable, weights, batch, mask, key):
        output = predicted(model, with_trainable(weights, trainable), batch, mask, key, training=True)
        return jnp.sum(jnp.where(mask, losses(model, output.predictions, batch, mask), 0)), output

    return loss


def training_loss(model: Model) -> Callable:
    """The mean loss of a batch's examples, in training: what a step of local training takes the gradient of.

    Args:
      model: the model.

    Returns:
      `(trainable, weights, batch, mask, key) -> (loss, predicted)`, of the weights with this trainable part; the loss
      is a scalar, zero for a batch without examples, and `predicted` a `contracts.Predicted`. Padding is not in the
      mean, but a model without `mask` sees it: fill it with an example before you take a gradient, see
      `ClientBatches.filled`.

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
