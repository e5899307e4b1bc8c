"""Whether a round counts, and which rows of the weights it updates."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core import trees, types
from fedjax_core.clients import trainable_of, with_trainable


def weights_by_rows(weight: types.Type, trainable: types.Type) -> bool:
    """Whether a client has a separate weight for each row, or each field, of the trainable weights.

    It has if there are several weights, and they match the beginning of the trainable weights, as in `trees.expand`: a
    vector `[k]` for leaves `[k, ...]`, or one number per field.

    Args:
      weight: the type of a client's weight.
      trainable: the type of the trainable weights.

    Example:

    >>> weights = types.to_type({"b": "float32[3]", "w": "float32[3,4]"})
    >>> [weights_by_rows(types.to_type(weight), weights) for weight in ("float32[3]", "float32", "float32[4]")]
    [True, False, False]
    """
    if isinstance(weight, types.TensorType) and weight.shape == ():
        return False
    try:
        jax.eval_shape(trees.expand, _abstract(weight), _abstract(trainable))
    except ValueError:
        return False
    return True


def _abstract(type_: types.Type) -> Any:
    return jax.tree.map(lambda t: jax.ShapeDtypeStruct(t.shape, t.dtype), types.tree_of_types(type_))


def accept(always_releases: bool, by_rows: bool, state: Any, proposed: dict, totals: dict, aggregate: Any) -> Any:
    """The next state: what the slots propose, where the round counts, and the old state elsewhere.

    Args:
      always_releases: whether the aggregate counts even if no client contributed.
      by_rows: whether a client has a weight for each row of the trainable weights, see `weights_by_rows`.
      state: the state before the round, a `LearningState`.
      proposed: the `weights` and the states of the slots after the round.
      totals: sums over the clients, each structured like a client's weight: `contributing`, int32, the number of
        positive weights, and `weight`, the sum of the weights.
      aggregate: what the round aggregated; with a NaN or infinity in it, the round does not count.

    Returns:
      The new `LearningState`.
    """
    finite = trees.is_finite(aggregate)

    def counts(number, total):
        return finite & (always_releases | (number > 0) & (total != 0))

    rows = jax.tree.map(counts, totals["contributing"], totals["weight"])
    accepted = trees.any_positive(rows)
    new = {name: trees.where(accepted, part, getattr(state, name)) for name, part in proposed.items()}
    if by_rows:
        old, moved = trainable_of(state.weights), trainable_of(new["weights"])
        new["weights"] = with_trainable(new["weights"], choose_rows(rows, moved, old, old))
        new["finalizer"] = choose_rows(rows, new["finalizer"], state.finalizer, old)
    return state._replace(**new, round_num=state.round_num + 1)


def choose_rows(rows, new, old, trainable):
    """`new`, with `old` in the rows that the round does not update.

    Args:
      rows: bools structured like a client's weight, which match the beginning of `trainable`.
      new: a pytree of arrays.
      old: a pytree with the same structure and shapes.
      trainable: the trainable weights; only their structure is read.

    Returns:
      If `rows` is one array `[k, ...]`, the choice is made row by row in every leaf whose shape begins with that of
      `rows`. If `rows` has several leaves, the choice is made field by field in every part with the structure of
      `trainable`. Everything else is `new`, for example a count of all steps.
    """
    structure = jax.tree.structure(trainable)
    by_fields = jax.tree.structure(rows).num_leaves > 1 or not hasattr(rows, "shape")

    def has_fields(node) -> bool:
        return by_fields and jax.tree.structure(node) == structure

    def choose(a, b):
        if by_fields and not has_fields(a):
            return a
        try:
            each = trees.expand(rows, a)
        except ValueError:
            return a
        return jax.tree.map(jnp.where, each, a, b)

    return jax.tree.map(choose, new, old, is_leaf=has_fields)
