"""Optax's extended transformations: which of the extra arguments an optimizer asks for."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_core import types


def asks_for(optimizer: optax.GradientTransformation, weights_type: types.Type, *names: str) -> bool:
    """Whether an optimizer makes no step without these extra arguments, found by tracing one.

    Args:
      optimizer: any optax transformation.
      weights_type: the type of the trainable weights.
      *names: of `value` and `value_fn`.

    Example:

    >>> weights = types.to_type({"w": "float32[3]"})
    >>> [asks_for(o, weights, "value") for o in (optax.sgd(0.1), optax.polyak_sgd())]
    [False, True]
    """
    weights = jax.tree.map(lambda t: jax.ShapeDtypeStruct(t.shape, t.dtype), types.tree_of_types(weights_type))
    # An optimizer that fails with everything fails for another reason, which its first step tells better.
    return not _makes_a_step(optimizer, weights, names) and _makes_a_step(optimizer, weights, ())


def _makes_a_step(optimizer: optax.GradientTransformation, weights: Any, without: tuple[str, ...]) -> bool:
    def step(weights):
        extra = {"value": jnp.float32(0), "grad": weights, "value_fn": _a_loss}
        # An object that no computation can use, in place of an argument left out, which a default could replace.
        extra |= dict.fromkeys(without, object())
        update = optax.with_extra_args_support(optimizer).update
        return update(weights, optimizer.init(weights), weights, **extra)

    try:
        jax.eval_shape(step, weights)
    except Exception:
        return False
    return True


def _a_loss(weights: Any) -> jax.Array:
    return sum((jnp.sum(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(weights)), jnp.float32(0))
