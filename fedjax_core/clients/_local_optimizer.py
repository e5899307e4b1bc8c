"""Optimizers for local training: optax transformations, and optimizers that exchange variables with the server."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from fedjax_core.clients._proximal import restarted


class LocalOptimizer(NamedTuple):
    """How a client updates its weights, and which variables it exchanges with the server for this.

    Simulated clients (`local_training`, `local_trainer`) and real ones (`participant.TrainingManager`) use it. Its
    four functions are pure and traced by JAX, and the structure of their results does not depend on values. An
    optimizer wraps another one by calling it, and takes those auxiliary variables that have its own name:

    ```python
    def clipped_optimizer(optimizer, max_norm):
        inner = local_optimizer(optimizer)
        def step(state, gradient, weights, **extra):
            return inner.step(state, trees.clip_by_norm(max_norm, gradient), weights, **extra)
        return inner._replace(step=step)
    ```

    Attributes:
      init: `(weights) -> state`. Here and below, the weights are the trainable weights.
      start_round: `(state, aux_var, weights) -> state`: `aux_var` holds the server's variables, a dict from name to
        pytree, and the weights are those that the round begins with.
      step: `(state, gradient, weights, **extra) -> (state, weights)`. `extra` holds what optax's extended
        transformations take: `value`, the mean loss of the batch at these weights; `grad`, its gradient; and
        `value_fn`, this loss as a pure function of the weights. A step without `**extra` does not get them.
      collect: `(state) -> aux_var`, the variables by name for the server, after the round's last step. After a round
        without a step there is nothing to send: a `TrainingManager` leaves the variables out, and `compose` does not
        include the client.
    """

    init: Callable[[Any], Any]
    start_round: Callable[[Any, dict[str, Any], Any], Any]
    step: Callable[..., tuple[Any, Any]]
    collect: Callable[[Any], dict[str, Any]]


def local_optimizer(
    optimizer: optax.GradientTransformation | LocalOptimizer, argument: str = "optimizer"
) -> LocalOptimizer:
    """Converts an optax transformation to a `LocalOptimizer` without auxiliary variables.

    Its state, such as momentum, lasts from round to round if the caller keeps it, as a `TrainingManager` does; only
    `proximal` starts afresh in every round.

    Args:
      optimizer: any optax transformation. A `LocalOptimizer` is returned with a step that takes `**extra`.
      argument: how an error names the argument.

    Returns:
      A `LocalOptimizer`. The `start_round` of an optax transformation raises `ValueError` for any auxiliary variable.

    Raises:
      TypeError: `optimizer` is neither an optax transformation nor a `LocalOptimizer`.

    Example:

    >>> import jax.numpy as jnp
    >>> optimizer, weights = local_optimizer(optax.sgd(0.5)), jnp.ones(2)
    >>> state = optimizer.start_round(optimizer.init(weights), {}, weights)
    >>> state, weights = optimizer.step(state, jnp.array([1.0, -1.0]), weights)
    >>> print(weights, optimizer.collect(state))
    [0.5 1.5] {}
    """
    if isinstance(optimizer, LocalOptimizer):
        return optimizer if _takes_extra(optimizer.step) else optimizer._replace(step=_without_extra(optimizer.step))
    check_optimizer(optimizer, argument, "optax.sgd(0.02)")
    extended = optax.with_extra_args_support(optimizer)

    def start_round(state, aux_var, weights):
        if aux_var:
            raise ValueError(
                f"the optimizer takes no auxiliary variables, got {min(aux_var)!r}; wrap it in an optimizer that takes "
                "it, for example fc.clients.scaffold_optimizer(optax.sgd(0.02)), or send `aux_var={}`"
            )
        return restarted(state, optimizer, weights)

    def step(state, gradient, weights, **extra):
        updates, state = extended.update(gradient, state, weights, **extra)
        return state, optax.apply_updates(weights, updates)

    return LocalOptimizer(optimizer.init, start_round, step, lambda state: {})


def check_optimizer(optimizer: Any, argument: str, repaired: str):
    """Raises TypeError unless `optimizer` is an optax transformation.

    Args:
      optimizer: the value to check.
      argument: how the error names it.
      repaired: the repaired argument, for the error.

    Example:

    >>> check_optimizer(0.1, "client_optimizer", "optax.sgd(0.1)")
    Traceback (most recent call last):
    TypeError: client_optimizer must be an optax.GradientTransformation, got 0.1; write optax.sgd(0.1)
    """
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(f"{argument} must be an optax.GradientTransformation, got {optimizer!r}; write {repaired}")


def _takes_extra(step: Callable) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(step).parameters.values())


def _without_extra(step: Callable) -> Callable:
    return lambda state, gradient, weights, **extra: step(state, gradient, weights)
