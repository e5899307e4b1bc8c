"""The extreme entries of a pytree."""

import math

import jax
import jax.numpy as jnp

from fedjax_core import trees


def largest_entry(tree) -> jax.Array:
    r"""The largest absolute entry :math:`\max_i |x_i|`, the L-infinity norm, float32 `[]`; 0 without entries.

    Example:
      >>> print(largest_entry({"w": jnp.array([3.0, -4.0]), "n": 2}))
      4.0
    """
    return trees.norm(tree, math.inf)


def smallest_entry(tree) -> jax.Array:
    r"""The smallest absolute entry :math:`\min_i |x_i|`, float32 `[]`; infinity without entries.

    Example:
      >>> print(smallest_entry({"w": jnp.array([3.0, -4.0]), "n": 2}))
      2.0
    """
    sizes = [jnp.min(_magnitudes(jnp.asarray(leaf)), initial=jnp.inf) for leaf in jax.tree.leaves(tree)]
    return jnp.min(jnp.array([jnp.inf, *sizes], jnp.float32))


def _magnitudes(leaf: jax.Array) -> jax.Array:
    """Absolute values; those of integers in float32, where the lowest integer has one too."""
    return jnp.abs(leaf if jnp.iscomplexobj(leaf) else leaf.astype(jnp.float32))
