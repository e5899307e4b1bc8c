"""Whether a round counts, and which rows of the weights it moves."""

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core import trees, types
from fedjax_core.clients import trainable_of, with_trainable


def weights_by_rows(weight: types.Type, trainable: types.Type) -> bool:
    """Whether the clients' weights tell apart rows, or fields, of the trainable weights.

    They do where there are several, and they are the beginning of the trainable weights, as in `trees.expand`: a
    vector `[k]` for leaves `[k, ...]`, or one number a field.

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
    """The next state: what the slots propose, as far as the round counts.

    Args:
      always_releases: whether the aggregate counts though nobody contributed.
      by_rows: whether the clients' weights tell apart rows of the trainable weights, see `weights_by_rows`.
      state: the state before the round, a `LearningState`.
      proposed: `weights` and the states of the slots after it.
      totals: over the clients, each like a client's weight: `contributing`, int32, how many have a positive one, and
        `weight`, their sum.
      aggregate: what the round aggregated; a NaN or infinity in it refuses the round.

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
    """`new`, but `old` in the rows that the round does not move.

    Args:
      rows: bools like a client's weight, the beginning of `trainable`.
      new: a pytree of arrays.
      old: one of the same structure and shapes.
      trainable: the trainable weights; only their structure is read.

    Returns:
      Where `rows` is one array `[k, ...]`, every leaf that begins with its shape is chosen row by row. Where it has
      several leaves, every part of the structure of `trainable` is chosen field by field. All else is `new`: a
      count of all steps, for example.
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
