"""Training in one call."""

from typing import Any

from fedjax_core.data import FederatedData
from fedjax_core.program._run import Run, TrainResult
from fedjax_core.templates import LearningProcess


def train(process: LearningProcess, train_data: FederatedData, **arguments: Any) -> TrainResult:
    """Trains: `Run(process, train_data, **arguments).train()`.

    Args:
      process: for example `fed_avg(model, optax.sgd(0.1), key=...)`.
      train_data: the population that cohorts are drawn from.
      **arguments: those of `Run`; `sampler`, `batching`, `rounds` and `key` are needed.

    Returns:
      A `TrainResult(state, history, held_out, exports)`.

    Raises:
      TypeError, ValueError, OSError: see `Run` and `Run.train`.

    Example:
      >>> import jax, optax, fedjax_core as fc
      >>> data = fc.data.synthetic_iid(num_clients=20, key=jax.random.key(0))
      >>> model = fc.models.logistic_regression(60, 10)
      >>> process = fc.algorithms.fed_avg(model, optax.sgd(0.1), key=jax.random.key(1))
      >>> batching = fc.data.Batching(batch_size=20)
      >>> result = train(process, data, sampler=5, rounds=3, batching=batching, key=jax.random.key(2))
      >>> loss = result.history.column("client_work/train/loss")
      >>> bool(loss[2] < loss[0])
      True
    """
    return Run(process, train_data, **arguments).train()
