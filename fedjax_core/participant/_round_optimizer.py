"""The optimizer of a round."""

from collections.abc import Callable
from typing import Any

import jax

from fedjax_core.clients import ClientOptimizer, LocalOptimizer, local_optimizer, map_optimizer
from fedjax_core.templates import hyperparams, with_hyperparams


def round_optimizer(optimizer: ClientOptimizer) -> Callable[[jax.Array], LocalOptimizer]:
    """The function from the number of a round, int32 `[]`, to its optimizer.

    Args:
      optimizer: an optax transformation, a `LocalOptimizer`, or a function of `round_num` that gives one.

    Raises:
      TypeError: it is something else.

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
    """The optimizer with its hyperparameters, where it keeps them in its state, which lives on from earlier rounds."""

    def start_round(state: Any, aux_var: dict[str, Any], weights: Any) -> Any:
        state = optimizer.start_round(state, aux_var, weights)
        return with_hyperparams(state, hyperparams(optimizer.init(weights)))

    return optimizer._replace(start_round=start_round)
