"""Checks and prepares the arguments of a participant: its logger, its aggregator, its optimizer of a round."""

import logging
from collections.abc import Callable
from typing import Any

import jax

from fedjax_core.clients import ClientOptimizer, LocalOptimizer, local_optimizer, map_optimizer
from fedjax_core.contracts import Aggregator
from fedjax_core.templates import hyperparams, with_hyperparams


def logger_of(logger: Any) -> logging.Logger | logging.LoggerAdapter:
    """The logger itself, or the logger of the given name.

    Raises:
      TypeError: `logger` is neither a logger nor a name.
    """
    if isinstance(logger, str):
        return logging.getLogger(logger)
    if isinstance(logger, logging.Logger | logging.LoggerAdapter):
        return logger
    raise TypeError(f"TrainingManager(logger=...) must be a logger or the name of one, got {logger!r}")


def check_aggregator(aggregator: Any):
    """Raises TypeError unless it is an `Aggregator`, or an object whose `prepare` makes an update ready to share."""
    prepares = callable(getattr(aggregator, "prepare", None))
    if isinstance(aggregator, type) or not (isinstance(aggregator, Aggregator) or prepares):
        called = f"; call it: {aggregator.__name__}()" if callable(aggregator) else "; use fc.aggregators.mean()"
        raise TypeError(
            "TrainingManager(aggregator=...) must be an Aggregator or have a `prepare(update, n_steps, n_examples)`, "
            f"got {aggregator!r}{called}"
        )


def round_optimizer(optimizer: ClientOptimizer) -> Callable[[jax.Array], LocalOptimizer]:
    """A function from the number of a round, int32 `[]`, to the optimizer of that round.

    Args:
      optimizer: an optax transformation, a `LocalOptimizer`, or a function of `round_num` that returns one of them.

    Raises:
      TypeError: `optimizer` is none of these.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> optimizer = round_optimizer(lambda round_num: optax.sgd(0.5**round_num))(jnp.int32(2))
      >>> print(optimizer.step(optimizer.init(jnp.ones(2)), jnp.ones(2), jnp.ones(2))[1])
      [0.75 0.75]
    """
    made = map_optimizer(local_optimizer, optimizer, "optimizer")
    if isinstance(made, LocalOptimizer):
        return lambda round_num: made
    return lambda round_num: _with_own_hyperparams(made(round_num))


def _with_own_hyperparams(optimizer: LocalOptimizer) -> LocalOptimizer:
    """The optimizer, which sets its own hyperparameters in the state that it receives from earlier rounds."""

    def start_round(state: Any, aux_var: dict[str, Any], weights: Any) -> Any:
        state = optimizer.start_round(state, aux_var, weights)
        return with_hyperparams(state, hyperparams(optimizer.init(weights)))

    return optimizer._replace(start_round=start_round)
