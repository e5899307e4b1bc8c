"""The average of a model's running state over the clients that updated it."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core.contracts import ModelWeights, Running
from fedjax_core.language import Placed, federated_broadcast, federated_map, federated_sum


def averaged_running(weights: Placed, running: Placed) -> Placed:
    r"""The server's weights with the running state :math:`r + \sum_k n_k (r_k - r) / \sum_k n_k`.

    This averages the changes, weighted by examples, so that what no client changed keeps its bits.

    Args:
      weights: `ModelWeights` at SERVER.
      running: `Running` at CLIENTS, whose state has the type of `weights.non_trainable`.

    Returns:
      `ModelWeights` at SERVER. Nothing changes if there are no examples, and leaves that are not floating point never
      change.
    """
    change, number = federated_sum(federated_map(_change, running, federated_broadcast(weights.non_trainable)))
    return federated_map(_with_change, weights, change, number)


def _change(running: Running, old: Any):
    counts = running.num_examples > 0

    def change(new, old):
        if not jnp.issubdtype(old.dtype, jnp.inexact):
            return ()
        wide = jnp.promote_types(old.dtype, jnp.float32)
        # A selection, not a product with zero: the difference of two infinities is NaN.
        return jnp.where(counts, running.num_examples.astype(wide) * (new.astype(wide) - old.astype(wide)), 0)

    return jax.tree.map(change, running.state, old), running.num_examples


def _with_change(weights: ModelWeights, change: Any, number) -> ModelWeights:
    denominator = jnp.where(number > 0, number, 1)

    def moved(old, change):
        if isinstance(change, tuple):
            return old
        return (old.astype(change.dtype) + change / denominator.astype(change.dtype)).astype(old.dtype)

    return weights._replace(non_trainable=jax.tree.map(moved, weights.non_trainable, change))
