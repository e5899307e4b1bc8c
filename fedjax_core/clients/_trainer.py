"""Local training of one client: optimizer steps on its own batches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_core import trees
from fedjax_core.clients._evaluation import accumulator
from fedjax_core.clients._local_optimizer import LocalOptimizer, local_optimizer
from fedjax_core.clients._measuring import (
    has_running_state,
    running_of,
    running_result,
    trainable_of,
    with_running,
    with_trainable,
)
from fedjax_core.clients._step import training_step
from fedjax_core.contracts import Model
from fedjax_core.templates import with_hyperparams


class Trained(NamedTuple):
    """The result of a client's local training.

    Attributes:
      update: initial minus trained weights, a pytree like the trainable weights.
      num_examples: float32 `[]`, the number of examples processed: 4 examples in 3 epochs count as 12.
      statistics: the metrics' statistics of the training predictions by name; each batch is measured before its step.
      aux_var: the optimizer's variables for the server by name; `{}` for an optax transformation.
      running: a `contracts.Running` with the model's running state after the last step if the server averages it;
        otherwise `()`.
    """

    update: Any
    num_examples: jax.Array
    statistics: dict[str, Any]
    aux_var: dict[str, Any]
    running: Any


class _Carry(NamedTuple):
    """A client's values between two steps.

    Attributes:
      trainable: the client's trainable weights.
      running: the model's running state; `()` if training does not change any.
      optimizer: the optimizer's state.
      metrics: the metrics' running sums over all batches so far.
      num_examples: int32 `[]`, the number of examples so far.
      step: int32 `[]`, the number of steps so far.
    """

    trainable: optax.Params
    running: Any
    optimizer: optax.OptState
    metrics: trees.CompensatedSum
    num_examples: jax.Array
    step: jax.Array


def local_trainer(model: Model, optimizer: optax.GradientTransformation | LocalOptimizer) -> Callable[..., Trained]:
    """Makes the function that trains a model on one client, with one optimizer step per batch.

    `local_training` uses it as the work of a round. Use it in your own client work, for example to give each client
    the auxiliary variables of its `LocalOptimizer`.

    Args:
      model: the model.
      optimizer: an optax transformation, extended ones included, or a `LocalOptimizer`. Every call starts with a fresh
        state.

    Returns:
      `(weights, data, key, aux_var=None, hyperparams=None) -> Trained`, a pure JAX function. `data` is a
      `ClientBatches`, `aux_var` is passed to the optimizer's `start_round`, and `hyperparams` replace those in the
      optimizer's fresh state (see `templates.with_hyperparams`).

    Raises:
      TypeError: `optimizer` is neither an optax transformation nor a `LocalOptimizer`, or the model does not take
        batches of its `batch_type`.

    Example: the norm of each client's update.

    >>> import numpy as np, fedjax_core as fc
    >>> model = fc.models.logistic_regression(2, 2)
    >>> train = local_trainer(model, optax.sgd(0.5))
    >>> weights_type, batches = fc.clients.weights_type(model), fc.types.SequenceType(model.batch_type)
    >>> @fc.federated_computation(fc.at_server(weights_type), fc.at_clients(batches))
    ... def norms(weights, data):
    ...     keys = fc.federated_split_key(fc.federated_value(jax.random.key(0), fc.SERVER))
    ...     trained = fc.federated_map(train, fc.federated_broadcast(weights), data, keys)
    ...     return fc.federated_map(fc.trees.norm, trained.update)
    >>> weights = {"bias": np.zeros(2, np.float32), "kernel": np.zeros((2, 2), np.float32)}
    >>> clients = [{"x": np.eye(2, dtype=np.float32), "y": np.array([0, 1], np.int32)}]
    >>> print(norms(weights, clients))
    [0.25]
    """
    optimizer = local_optimizer(optimizer)
    step, metrics = training_step(model, optimizer), accumulator(model)
    moves = has_running_state(model)

    def train(weights, data, key, aux_var=None, hyperparams=None) -> Trained:
        initial = trainable_of(weights)
        state = with_hyperparams(optimizer.init(initial), hyperparams or {})
        state = optimizer.start_round(state, aux_var or {}, initial)

        def one_step(carry: _Carry, batch, mask) -> _Carry:
            now = with_running(with_trainable(weights, carry.trainable), carry.running)
            step_key = jax.random.fold_in(key, carry.step)
            after, optimizer_state, predictions = step(now, carry.optimizer, batch, mask, step_key)
            return _Carry(
                trainable_of(after),
                running_of(after, moves),
                optimizer_state,
                metrics.add(carry.metrics, predictions, batch, mask),
                carry.num_examples + jnp.sum(mask, dtype=jnp.int32),
                carry.step + 1,
            )

        numbers = jnp.int32(0), jnp.int32(0)
        start = _Carry(initial, running_of(weights, moves), state, metrics.init(), *numbers)
        end = data.filled().reduce(start, one_step)
        # Not a float while it grows: beyond 2**24 one more would not change it.
        num_examples = end.num_examples.astype(jnp.float32)
        return Trained(
            update=trees.subtract(initial, end.trainable),
            num_examples=num_examples,
            statistics=metrics.total(end.metrics),
            aux_var=optimizer.collect(end.optimizer),
            running=running_result(model, end.running, num_examples),
        )

    return train
