"""The extreme entries of a pytree."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def largest_entry(tree) -> jax.Array:
    r"""The largest absolute entry :math:`\max_i |x_i|`, the L-infinity norm, float32 `[]`; 0 without entries.

    Example:
      >>> print(largest_entry({"w": jnp.array([3.0, -4.0]), "n": 2}))
      4.0
    """
    return _extreme(jnp.max, tree, 0.0)


def smallest_entry(tree) -> jax.Array:
    r"""The smallest absolute entry :math:`\min_i |x_i|`, float32 `[]`; infinity without entries.

    Example:
      >>> print(smallest_entry({"w": jnp.array([3.0, -4.0]), "n": 2}))
      2.0
    """
    return _extreme(jnp.min, tree, jnp.inf)


def _extreme(reduce: Callable, tree, initial: float) -> jax.Array:
    sizes = [reduce(_magnitudes(jnp.asarray(leaf)), initial=initial) for leaf in jax.tree.leaves(tree)]
    return reduce(jnp.array([initial, *sizes], jnp.float32))


def _magnitudes(leaf: jax.Array) -> jax.Array:
    """Absolute values; those of integers in float32, where the lowest integer has one too."""
    return jnp.abs(leaf if jnp.iscomplexobj(leaf) else leaf.astype(jnp.float32))
