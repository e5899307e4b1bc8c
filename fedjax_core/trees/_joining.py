"""When the leaves of a pytree are worth being joined to one array."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

_SMALL = 4096  # entries
_MANY = 16  # arrays


def is_small(leaf: Any) -> bool:
    """Whether a leaf is small enough to be joined with others where arrays cost more than their entries.

    XLA compiles a few kernels for each array that a program computes with, and each array that crosses devices takes
    time of its own. A large leaf is not worth the copy in every round.

    Args:
      leaf: a number, an array, a typed key array, or a `jax.ShapeDtypeStruct`.

    Returns:
      Whether it has at most 4096 entries; False if a dimension is symbolic.

    Example:
      >>> is_small(jnp.ones((64, 64))), is_small(jnp.ones((65, 64)))
      (True, False)
    """
    shape = jnp.shape(leaf)
    return all(isinstance(d, int) for d in shape) and math.prod(shape) <= _SMALL


def are_many(leaves: Sequence[Any]) -> bool:
    """Whether small leaves are so many that joining them saves more than it may cost.

    A round of a small model on several CPU devices took 1.4 times as long when its only bias was joined with its losses
    and weights, since XLA then ran the kernels behind the local steps on other threads.

    Example:
      >>> are_many([jnp.ones(3)] * 16), are_many([jnp.ones(3)] * 17)
      (False, True)
    """
    return len(leaves) > _MANY
