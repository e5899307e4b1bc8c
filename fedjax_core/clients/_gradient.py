"""One gradient over all of a client's examples, at the server's weights."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core import trees
from fedjax_core.clients._evaluation import accumulator
from fedjax_core.clients._measuring import has_running_state, running_of, running_result, trainable_of, with_running
from fedjax_core.clients._step import summed_loss
from fedjax_core.clients._weighting import Weighting, check_weighting, client_weight
from fedjax_core.clients._work import client_work
from fedjax_core.contracts import ClientResult, ClientWork, Model
from fedjax_core.templates import AggregationProcess


class _Carry(NamedTuple):
    """A client's values between two batches.

    Attributes:
      gradient: the gradient of the summed loss of all batches so far, in two words.
      running: the model's running state; `()` if training does not change any.
      metrics: the metrics' running sums over all batches so far.
      num_examples: int32 `[]`, the number of examples so far.
      step: int32 `[]`, the number of batches so far.
    """

    gradient: trees.CompensatedSum
    running: Any
    metrics: trees.CompensatedSum
    num_examples: jax.Array
    step: jax.Array


def local_gradient(
    model: Model, metrics_process: AggregationProcess, *, weighting: Weighting = "examples"
) -> ClientWork:
    """Client work that sends the gradient of the mean loss over all of a client's batches, without a local step.

    Args:
      model: the model.
      metrics_process: combines the clients' statistics.
      weighting: as in `local_training`.

    Returns:
      A `ClientWork`; the update of a client is its gradient.

    Raises:
      TypeError: `weighting` is neither a string nor a function.
      ValueError: `weighting` is a string other than "examples" and "uniform".

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
    metrics, moves = accumulator(model), has_running_state(model)
    gradient_of = jax.grad(summed_loss(model), has_aux=True)

    def work(weights, data, key):
        trainable = trainable_of(weights)

        def step(carry: _Carry, batch, mask) -> _Carry:
            now, step_key = with_running(weights, carry.running), jax.random.fold_in(key, carry.step)
            new, output = gradient_of(trainable, now, batch, mask, step_key)
            return _Carry(
                trees.compensated_add(carry.gradient, new),
                output.non_trainable,
                metrics.add(carry.metrics, output.predictions, batch, mask),
                carry.num_examples + jnp.sum(mask, dtype=jnp.int32),
                carry.step + 1,
            )

        numbers = jnp.int32(0), jnp.int32(0)
        start = _Carry(trees.compensated_zero(trainable), running_of(weights, moves), metrics.init(), *numbers)
        end = data.filled().reduce(start, step)
        statistics, num_examples = metrics.total(end.metrics), end.num_examples.astype(jnp.float32)
        weight = client_weight(weighting, metrics, statistics, num_examples)
        mean = trees.divide(end.gradient.high, jnp.maximum(num_examples, 1))
        mean = jax.tree.map(lambda g, w: g.astype(w.dtype), mean, trainable)
        running = running_result(model, end.running, num_examples)
        return ClientResult(mean, weight, statistics, running=running)

    return client_work(work, metrics_process)
