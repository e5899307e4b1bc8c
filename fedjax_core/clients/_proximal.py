"""FedProx's pull towards the weights at the start of the round."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedjax_core import _checks, trees


class ProximalState(NamedTuple):
    """The state of `proximal`.

    Attributes:
      reference: the weights that the round began with.
    """

    reference: Any


def proximal(strength: float) -> optax.GradientTransformation:
    r"""Pulls the weights towards those that the round began with, as FedProx does.

    It adds :math:`\mu (w - w_0)` to the gradient, which becomes that of :math:`f(w) + \frac{\mu}{2} \|w - w_0\|^2`.
    Put it in front of an optimizer: `optax.chain(fc.clients.proximal(0.1), optax.sgd(0.02))`. The weights
    :math:`w_0` are those given to `init`. Simulated clients and a `participant.TrainingManager` both set them again in
    every round, although the manager keeps the other state of its optimizer from round to round.

    An optimizer behind it that reads `value` or `value_fn` gets those of :math:`f`, without the pull.

    Args:
      strength: :math:`\mu`, at least 0; with 0 nothing changes. A number, or a scalar from
        `optax.inject_hyperparams`.

    Returns:
      An optax transformation.

    Raises:
      ValueError: `strength` is a number that is negative or not finite.
      TypeError: `strength` is not a number.

    Example:

    >>> optimizer = optax.chain(proximal(1.0), optax.sgd(0.5))
    >>> weights = jnp.float32(4)
    >>> state = optimizer.init(weights)
    >>> for _ in range(3):
    ...     updates, state = optimizer.update(jnp.float32(1), state, weights)
    ...     weights = optax.apply_updates(weights, updates)
    >>> print(weights)
    3.125

    References:
      Li et al. 2020, Federated Optimization in Heterogeneous Networks, algorithm 2.
    """
    _check_strength(strength)

    def init(params):
        return ProximalState(params)

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(
                "proximal needs the weights, got params=None; write optimizer.update(gradient, state, weights)"
            )
        pull = jax.tree.map(lambda w, r: (strength * (w - r)).astype(w.dtype), params, state.reference)
        return trees.add(updates, pull), state

    return optax.GradientTransformation(init, update)


def restarted(state: optax.OptState, optimizer: optax.GradientTransformation, weights: optax.Params) -> optax.OptState:
    """An optimizer's state at the start of a round: the parts of `proximal` start afresh, all others are kept."""
    if not any(map(_is_proximal, jax.tree.leaves(state, is_leaf=_is_proximal))):
        return state
    fresh = optimizer.init(weights)
    return jax.tree.map(lambda old, new: new if _is_proximal(old) else old, state, fresh, is_leaf=_is_proximal)


def _is_proximal(state: Any) -> bool:
    return isinstance(state, ProximalState)


def _check_strength(strength: Any):
    if isinstance(strength, jax.Array) and strength.shape == () and jnp.issubdtype(strength.dtype, jnp.floating):
        return
    _checks.checked_number("proximal(strength=...)", strength, _checks.NOT_NEGATIVE, "write proximal(strength=0.1)")
