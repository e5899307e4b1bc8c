"""Local training: some epochs of a first-order optimizer on a client's own batches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_core import trees
from fedjax_core.clients._measuring import measure, no_statistics, trainable_of, with_trainable
from fedjax_core.clients._weighting import Weighting, check_weighting, client_weight
from fedjax_core.clients._work import client_work
from fedjax_core.contracts import ClientResult, ClientWork, Model, losses, model_metrics, predicted
from fedjax_core.templates import AggregationProcess


class _Carry(NamedTuple):
    """Local training between two steps.

    Attributes:
      trainable: the client's weights.
      optimizer: the optimizer's state.
      statistics: of all batches so far, each measured before its step.
      num_examples: float32 `[]`.
      step: int32 `[]`.
    """

    trainable: optax.Params
    optimizer: optax.OptState
    statistics: dict
    num_examples: jax.Array
    step: jax.Array


def local_training(
    model: Model,
    optimizer: optax.GradientTransformation,
    metrics_process: AggregationProcess,
    *,
    weighting: Weighting = "examples",
) -> ClientWork:
    """A client trains on its batches, one optimizer step each, and answers initial minus trained weights.

    The gradient is that of the mean loss over a batch's examples. Metrics are those of the training
    predictions, each batch measured before its step.

    Args:
      model: the model.
      optimizer: any optax transformation; every client starts with a fresh state.
      metrics_process: combines the clients' statistics.
      weighting: "examples" (the number processed: 4 examples for 3 epochs weigh 12), "uniform", or
        a function of the client's finalized metrics, a dict by name, that gives a scalar. A client
        without examples weighs zero.

    Returns:
      A `ClientWork`.

    Raises:
      TypeError: the optimizer is no optax transformation, or `weighting` is of a wrong kind.
      ValueError: `weighting` is another string.

    Example:

    >>> import optax, fedjax_core as fc
    >>> model = fc.models.logistic_regression(2, 3)
    >>> work = local_training(model, optax.sgd(0.1), fc.algorithms.metrics_process(model), weighting="uniform")
    >>> type(work).__name__
    'ClientWork'

    References:
      McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data,
      algorithm 1 (ClientUpdate).
    """
    check_optimizer(optimizer, "client_optimizer", "optax.sgd(0.02)")
    check_weighting(weighting)
    metrics = model_metrics(model)
    step = _training_step(model, optimizer, metrics)
    start = no_statistics(model)

    def train(weights, data, key):
        initial = trainable_of(weights)
        carry = _Carry(initial, optimizer.init(initial), start, jnp.float32(0), jnp.int32(0))
        end = data.filled().reduce(carry, lambda c, batch, mask: step(c, weights, batch, mask, key))
        weight = client_weight(weighting, metrics, end.statistics, end.num_examples)
        return ClientResult(trees.subtract(initial, end.trainable), weight, end.statistics)

    return client_work(train, metrics_process)


def mean_gradient(model: Model):
    """The gradient of the mean loss over a batch's examples, in training.

    Args:
      model: the model.

    Returns:
      `(trainable, weights, batch, mask, key) -> (gradient, predictions)` at the weights with this trainable
      part. Padding is not in the mean, but the model sees it: fill it with an example, see `ClientBatches.filled`.

    Example:

    >>> import fedjax_core as fc
    >>> model = fc.models.logistic_regression(2, 2)
    >>> weights = model.init(jax.random.key(0))
    >>> batch = {"x": jnp.ones((2, 2)), "y": jnp.array([0, 1])}
    >>> gradient, _ = mean_gradient(model)(weights, weights, batch, jnp.array([True, False]), None)
    >>> print(gradient["bias"])
    [-0.5  0.5]
    """

    def loss(trainable, weights, batch, mask, key):
        predictions = predicted(model, with_trainable(weights, trainable), batch, mask, key, training=True).predictions
        return mean_over(mask, losses(model, predictions, batch, mask)), predictions

    return jax.grad(loss, has_aux=True)


def _training_step(model: Model, optimizer, metrics):
    gradient_of = mean_gradient(model)

    def step(carry: _Carry, weights, batch, mask, key) -> _Carry:
        key = jax.random.fold_in(key, carry.step)
        gradient, predictions = gradient_of(carry.trainable, weights, batch, mask, key)
        updates, optimizer_state = optimizer.update(gradient, carry.optimizer, carry.trainable)
        return _Carry(
            optax.apply_updates(carry.trainable, updates),
            optimizer_state,
            trees.add(carry.statistics, measure(metrics, predictions, batch, mask)),
            carry.num_examples + jnp.sum(mask, dtype=jnp.float32),
            carry.step + 1,
        )

    return step


def mean_over(mask, losses):
    """The mean loss over the examples of a batch; zero for a batch without any."""
    return jnp.sum(jnp.where(mask, losses, 0)) / jnp.maximum(jnp.sum(mask), 1).astype(losses.dtype)


def check_optimizer(optimizer, argument: str, repaired: str):
    """Refuses what is no optax transformation.

    Raises:
      TypeError: with the argument's name and the repaired call.

    Example:

    >>> check_optimizer(0.1, "client_optimizer", "optax.sgd(0.1)")
    Traceback (most recent call last):
    TypeError: client_optimizer is an optax.GradientTransformation, got 0.1; write optax.sgd(0.1)
    """
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(f"{argument} is an optax.GradientTransformation, got {optimizer!r}; write {repaired}")
