"""Training in one call."""

import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fedjax_core.program._run import Run
from fedjax_core.program._run_end import TrainResult

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _takes_what(
    other: Callable[_Arguments, object],
) -> Callable[[Callable[..., _Result]], Callable[_Arguments, _Result]]:
    """Gives a function the signature of another, except its return type, for editors and `help`."""

    def signed(function: Callable[..., _Result]) -> Callable[_Arguments, _Result]:
        returns = inspect.signature(function).return_annotation
        function.__signature__ = inspect.signature(other).replace(return_annotation=returns)
        return function

    return signed


@_takes_what(Run)
def train(*args, **arguments) -> TrainResult:
    """Builds a run and trains it: `Run(process, train_data, ...).train()`.

    Args:
      *args: the process and the population that cohorts are drawn from.
      **arguments: the other arguments of `Run`; `sampler`, `batching`, `rounds` and `key` are required.

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
    return Run(*args, **arguments).train()
