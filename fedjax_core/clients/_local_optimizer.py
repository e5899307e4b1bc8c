"""Optimizers of a real participant, which exchange auxiliary variables with the server."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_core import trees
from fedjax_core.clients._training import check_optimizer


class LocalOptimizer(NamedTuple):
    """How a participant moves its weights, and what it exchanges with the server to do so: pure functions.

    `step` is traced by JAX; the others run once a round, on arrays. One optimizer wraps another by calling it,
    and takes from the auxiliary variables those that bear its name:

    ```python
    def clipped_optimizer(optimizer, max_norm):
        inner = local_optimizer(optimizer)
        def step(state, gradient, weights):
            return inner.step(state, trees.clip_by_norm(max_norm, gradient), weights)
        return inner._replace(step=step)
    ```

    Attributes:
      init: `(weights) -> state`; the weights are the trainable ones, always.
      start_round: `(state, aux_var) -> state`, with the server's variables by name, a dict of pytrees.
      step: `(state, gradient, weights) -> (state, weights)`.
      collect: `(state) -> aux_var`, the variables by name for the server, after the round's last step.
    """

    init: Callable
    start_round: Callable
    step: Callable
    collect: Callable


def local_optimizer(optimizer: optax.GradientTransformation | LocalOptimizer) -> LocalOptimizer:
    """An optax transformation as a `LocalOptimizer` without auxiliary variables.

    Its state, such as momentum, lives on from round to round.

    Args:
      optimizer: any optax transformation; a `LocalOptimizer` is returned as it is.

    Returns:
      A `LocalOptimizer`. Its `start_round` raises `ValueError` for any auxiliary variable.

    Raises:
      TypeError: it is neither.

    Example:

    >>> optimizer = local_optimizer(optax.sgd(0.5))
    >>> state = optimizer.start_round(optimizer.init(jnp.ones(2)), {})
    >>> state, weights = optimizer.step(state, jnp.array([1.0, -1.0]), jnp.ones(2))
    >>> print(weights, optimizer.collect(state))
    [0.5 1.5] {}
    """
    if isinstance(optimizer, LocalOptimizer):
        return optimizer
    check_optimizer(optimizer, "optimizer", "optax.sgd(0.02)")

    def start_round(state, aux_var):
        if aux_var:
            raise ValueError(
                f"the optimizer takes no auxiliary variable {min(aux_var)!r}; wrap it in the one that does, for "
                "example fc.clients.scaffold_optimizer(optax.sgd(0.02)), or send `aux_var={}`"
            )
        return state

    def step(state, gradient, weights):
        updates, state = optimizer.update(gradient, state, weights)
        return state, optax.apply_updates(weights, updates)

    return LocalOptimizer(optimizer.init, start_round, step, lambda state: {})


class _ProximalState(NamedTuple):
    """
    Attributes:
      inner: the wrapped optimizer's.
      reference: the weights before the round's first step.
      started: bool `[]`, whether that step is done.
    """

    inner: Any
    reference: Any
    started: jax.Array


def proximal_optimizer(optimizer: optax.GradientTransformation | LocalOptimizer, strength: float) -> LocalOptimizer:
    r"""Pulls the weights back to where the round began, as FedProx does.

    The gradient of the loss :math:`f(w) + \frac{\mu}{2} \|w - w_0\|^2`, where :math:`w_0` are the weights
    before the round's first step. It exchanges no variables of its own.

    Args:
      optimizer: takes that gradient.
      strength: :math:`\mu`, at least 0; 0 changes nothing.

    Returns:
      A `LocalOptimizer`.

    Raises:
      TypeError: `optimizer` is none.
      ValueError: `strength` is negative or not finite.

    Example:

    >>> optimizer = proximal_optimizer(optax.sgd(0.5), strength=1.0)
    >>> state, weights = optimizer.init(jnp.float32(4)), jnp.float32(4)
    >>> for _ in range(3):
    ...     state, weights = optimizer.step(state, jnp.float32(1), weights)
    >>> print(weights)
    3.125

    References:
      Li et al. 2020, Federated Optimization in Heterogeneous Networks, algorithm 2.
    """
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength < math.inf:
        raise ValueError(
            f"proximal_optimizer(strength=...) must be a finite number of at least 0, got {strength!r}; "
            "use strength=0.1"
        )
    inner = local_optimizer(optimizer)

    def init(weights):
        return _ProximalState(inner.init(weights), weights, jnp.array(False))

    def start_round(state, aux_var):
        return state._replace(inner=inner.start_round(state.inner, aux_var), started=jnp.array(False))

    def step(state, gradient, weights):
        reference = trees.where(state.started, state.reference, weights)
        pulled = jax.tree.map(lambda g, w, r: g + strength * (w - r), gradient, weights, reference)
        inner_state, moved = inner.step(state.inner, pulled, weights)
        return _ProximalState(inner_state, reference, jnp.array(True)), moved

    return LocalOptimizer(init, start_round, step, lambda state: inner.collect(state.inner))


class _ScaffoldState(NamedTuple):
    """
    Attributes:
      inner: the wrapped optimizer's.
      correction: what is added to every gradient.
      total: the sum of this round's gradients, not corrected.
      num_steps: int32 `[]`, how many they are.
    """

    inner: Any
    correction: Any
    total: Any
    num_steps: jax.Array


def scaffold_optimizer(optimizer: optax.GradientTransformation | LocalOptimizer) -> LocalOptimizer:
    r"""Corrects every gradient for how this participant differs from the others, as SCAFFOLD does.

    The gradient becomes :math:`g - c_i + c`. The server keeps the control variates: :math:`c_i` of every
    participant, and :math:`c`, their mean. It exchanges one variable, `scaffold`:

    * received, `{"correction": c - c_i}`, a pytree like the weights; zero at first, and kept where a request
      has none;
    * collected, `{"control": c_i}`, the participant's new control variate: the mean of the gradients that the
      round's steps took, before correction, which under SGD is the paper's option II. Left out where the
      round had no step.

    Args:
      optimizer: takes the corrected gradient.

    Returns:
      A `LocalOptimizer`. Its `start_round` raises `ValueError` where the correction is not like the weights.

    Raises:
      TypeError: `optimizer` is none.

    Example:

    >>> optimizer = scaffold_optimizer(optax.sgd(0.5))
    >>> state = optimizer.init(jnp.float32(1))
    >>> state = optimizer.start_round(state, {"scaffold": {"correction": jnp.float32(2)}})
    >>> state, weights = optimizer.step(state, jnp.float32(1), jnp.float32(1))
    >>> print(weights, optimizer.collect(state)["scaffold"]["control"])
    -0.5 1.0

    References:
      Karimireddy et al. 2020, SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, algorithm 1,
      option II.
    """
    inner = local_optimizer(optimizer)

    def init(weights):
        zeros = trees.zeros_like(weights)
        return _ScaffoldState(inner.init(weights), zeros, zeros, jnp.int32(0))

    def start_round(state, aux_var):
        others = {name: variable for name, variable in aux_var.items() if name != "scaffold"}
        correction = state.correction
        if "scaffold" in aux_var:
            correction = jax.tree.map(jnp.array, _correction(aux_var["scaffold"], like=state.correction))
        zeros = trees.zeros_like(state.total)
        return _ScaffoldState(inner.start_round(state.inner, others), correction, zeros, jnp.int32(0))

    def step(state, gradient, weights):
        inner_state, moved = inner.step(state.inner, trees.add(gradient, state.correction), weights)
        total = trees.add(state.total, gradient)
        return _ScaffoldState(inner_state, state.correction, total, state.num_steps + 1), moved

    def collect(state):
        own = {}
        if int(state.num_steps):
            own = {"scaffold": {"control": trees.divide(state.total, state.num_steps)}}
        return {**inner.collect(state.inner), **own}

    return LocalOptimizer(init, start_round, step, collect)


def _correction(variable: Any, like: Any) -> Any:
    if not isinstance(variable, Mapping) or set(variable) != {"correction"}:
        found = sorted(map(str, variable)) if isinstance(variable, Mapping) else type(variable).__name__
        raise ValueError(f'the auxiliary variable "scaffold" is {{"correction": c - c_i}}, got {found}')
    return trees.match(variable["correction"], like)
