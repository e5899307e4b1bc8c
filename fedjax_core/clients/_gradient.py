"""One gradient over all of a client's examples, at the server's weights."""

import jax
import jax.numpy as jnp

from fedjax_core import trees
from fedjax_core.clients._measuring import measure, no_statistics, trainable_of, with_trainable
from fedjax_core.clients._weighting import Weighting, check_weighting, client_weight
from fedjax_core.clients._work import client_work
from fedjax_core.contracts import ClientResult, ClientWork, Model, losses, model_metrics, predicted
from fedjax_core.templates import AggregationProcess


def local_gradient(
    model: Model, metrics_process: AggregationProcess, *, weighting: Weighting = "examples"
) -> ClientWork:
    """A client answers the gradient of its mean loss, over all its batches, without a local step.

    Args:
      model: the model.
      metrics_process: combines the clients' statistics.
      weighting: as in `local_training`.

    Returns:
      A `ClientWork`; the update of a client is its gradient.

    Raises:
      TypeError: `weighting` is of a wrong kind.
      ValueError: `weighting` is another string.

    Example:

    >>> import fedjax_core as fc
    >>> model = fc.models.logistic_regression(2, 3)
    >>> work = local_gradient(model, fc.algorithms.metrics_process(model))
    >>> type(work).__name__
    'ClientWork'

    References:
      McMahan et al. 2017, Communication-Efficient Learning of Deep Networks from Decentralized Data,
      section 2 (FedSGD).
    """
    check_weighting(weighting)
    metrics = model_metrics(model)
    start = no_statistics(model)

    def total_loss(trainable, weights, batch, mask, key):
        predictions = predicted(model, with_trainable(weights, trainable), batch, mask, key, training=True).predictions
        return jnp.sum(jnp.where(mask, losses(model, predictions, batch, mask), 0)), predictions

    def work(weights, data, key):
        trainable = trainable_of(weights)

        def step(carry, batch, mask):
            gradient, statistics, num_examples, step = carry
            step_key = jax.random.fold_in(key, step)
            new, predictions = jax.grad(total_loss, has_aux=True)(trainable, weights, batch, mask, step_key)
            statistics = trees.add(statistics, measure(metrics, predictions, batch, mask))
            return trees.add(gradient, new), statistics, num_examples + jnp.sum(mask, dtype=jnp.float32), step + 1

        zeros = trees.zeros_like(trainable)
        total, statistics, number, _ = data.filled().reduce((zeros, start, jnp.float32(0), jnp.int32(0)), step)
        weight = client_weight(weighting, metrics, statistics, number)
        return ClientResult(trees.divide(total, jnp.maximum(number, 1)), weight, statistics)

    return client_work(work, metrics_process)
