"""SCAFFOLD's control variates, as an optimizer that exchanges them with the server."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_core import trees
from fedjax_core.clients._local_optimizer import LocalOptimizer, local_optimizer


class _ScaffoldState(NamedTuple):
    """The state of `scaffold_optimizer`.

    Attributes:
      inner: the state of the wrapped optimizer.
      correction: added to every gradient.
      total: the sum of this round's gradients before correction, in two words: a round may take a million steps.
      num_steps: int32 `[]`, the number of these gradients.
    """

    inner: Any
    correction: Any
    total: trees.CompensatedSum
    num_steps: jax.Array


def scaffold_optimizer(optimizer: optax.GradientTransformation | LocalOptimizer) -> LocalOptimizer:
    r"""Corrects every gradient for the difference between this client and the others, as SCAFFOLD does.

    The gradient becomes :math:`g - c_i + c`. The server keeps the control variates: :math:`c_i` for every client, and
    their mean :math:`c`. The optimizer exchanges one variable, `scaffold`:

    * It receives `{"correction": c - c_i}`, a pytree like the weights. The correction is zero at first, and stays as
      it is if a request has none.
    * It sends `{"control": c_i}`, the client's new control variate: the mean, before correction, of the gradients of
      the round's steps. With SGD this is the paper's option II. It is zero after a round without a step.

    Optax's extended transformations get `value` and `value_fn` of the corrected loss,
    :math:`f(w) + \langle c - c_i, w \rangle`.

    Args:
      optimizer: takes the corrected gradient.

    Returns:
      A `LocalOptimizer`. Its `start_round` raises `ValueError` if the correction does not match the weights.

    Raises:
      TypeError: `optimizer` is neither an optax transformation nor a `LocalOptimizer`.

    Example:

    >>> optimizer, weights = scaffold_optimizer(optax.sgd(0.5)), jnp.float32(1)
    >>> state = optimizer.start_round(optimizer.init(weights), {"scaffold": {"correction": jnp.float32(2)}}, weights)
    >>> state, weights = optimizer.step(state, jnp.float32(1), weights)
    >>> print(weights, optimizer.collect(state)["scaffold"]["control"])
    -0.5 1.0

    References:
      Karimireddy et al. 2020, SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, algorithm 1,
      option II.
    """
    inner = local_optimizer(optimizer)

    def init(weights):
        zeros = trees.zeros_like(weights)
        return _ScaffoldState(inner.init(weights), zeros, trees.compensated_zero(weights), jnp.int32(0))

    def start_round(state, aux_var, weights):
        others = {name: variable for name, variable in aux_var.items() if name != "scaffold"}
        correction = state.correction
        if "scaffold" in aux_var:
            correction = jax.tree.map(jnp.array, _correction(aux_var["scaffold"], like=state.correction))
        zeros = trees.zeros_like(state.total)
        return _ScaffoldState(inner.start_round(state.inner, others, weights), correction, zeros, jnp.int32(0))

    def step(state, gradient, weights, **extra):
        corrected = trees.add(gradient, state.correction)
        inner_state, moved = inner.step(state.inner, corrected, weights, **_tilted(extra, state.correction, weights))
        total = trees.compensated_add(state.total, gradient)
        return _ScaffoldState(inner_state, state.correction, total, state.num_steps + 1), moved

    def collect(state):
        mean = trees.divide(state.total.high, jnp.maximum(state.num_steps, 1))
        control = jax.tree.map(lambda g, c: g.astype(c.dtype), mean, state.correction)
        return {**inner.collect(state.inner), "scaffold": {"control": control}}

    return LocalOptimizer(init, start_round, step, collect)


def _tilted(extra: dict[str, Any], correction: Any, weights: Any) -> dict[str, Any]:
    """The extra arguments of an extended transformation, for the corrected loss and thus the corrected gradient."""
    if not extra:
        return {}

    def tilt(w):
        return sum(jax.tree.leaves(jax.tree.map(lambda c, x: jnp.sum(c * x), correction, w)))

    value_fn: Callable = extra["value_fn"]
    return {
        "value": extra["value"] + tilt(weights),
        "grad": trees.add(extra["grad"], correction),
        "value_fn": lambda w: value_fn(w) + tilt(w),
    }


def _correction(variable: Any, like: Any) -> Any:
    if not isinstance(variable, Mapping) or set(variable) != {"correction"}:
        found = sorted(map(str, variable)) if isinstance(variable, Mapping) else type(variable).__name__
        raise ValueError(
            f'the auxiliary variable "scaffold" must be {{"correction": c - c_i}}, got {found}; write '
            'aux_var={"scaffold": {"correction": correction}}'
        )
    return trees.match(variable["correction"], like)
