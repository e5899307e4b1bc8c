"""The hyperparameters in a state, where `optax.inject_hyperparams` keeps them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_core import trees


class _Place(NamedTuple):
    """The place of a hyperparameter in a state.

    Attributes:
      index: the index of its leaf in the state.
      owner: the path to the value that has the field `hyperparams`.
      names: the path from this field to the hyperparameter.
    """

    index: int
    owner: tuple
    names: tuple


def hyperparams(state: Any) -> dict[str, Any]:
    """The hyperparameters in a state that can be set: those in every field named `hyperparams`.

    `optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)` is an optimizer whose state has such a field. A
    hyperparameter that follows a schedule is not among them, since the next step would compute it again.

    Args:
      state: a pytree.

    Returns:
      A dict of dicts: the key is the first entry of the path to the field, for example `finalizer`, and its dict maps
      names to values. If several fields share this entry, the rest of each path is a further key in between.

    Example:

    >>> import optax
    >>> optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
    >>> hyperparams({"finalizer": optimizer.init(jnp.ones(2)), "round_num": 0})
    {'finalizer': {'learning_rate': Array(0.5, dtype=float32)}}
    """
    leaves, found = jax.tree.leaves(state), {}
    for name, index in _by_name(state).items():
        inner = found
        for part in name[:-1]:
            inner = inner.setdefault(part, {})
        inner[name[-1]] = leaves[index]
    return found


def with_hyperparams(state: Any, values: Mapping[str, Any]) -> Any:
    """The state with new values of some hyperparameters, which keep their shapes and dtypes.

    Args:
      state: a pytree.
      values: the new values, in the dicts that `hyperparams` returns; what is left out stays as it is.

    Raises:
      ValueError: the state has no hyperparameter of that name, or the value has another shape or is a float
        for an integer.

    Example:

    >>> import optax
    >>> optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
    >>> state = with_hyperparams({"finalizer": optimizer.init(jnp.ones(2))}, {"finalizer": {"learning_rate": 0.1}})
    >>> print(state["finalizer"].hyperparams["learning_rate"])
    0.1
    """
    places = _by_name(state)
    leaves, structure = jax.tree.flatten(state)
    for path, value in jax.tree_util.tree_flatten_with_path(values)[0]:
        name = tuple(str(trees.path_entry(key)) for key in path)
        if name not in places:
            known = sorted(map(".".join, places)) or "none"
            raise ValueError(f"the state has no hyperparameter {'.'.join(name)!r}; it has {known}")
        before = leaves[places[name]]
        if jnp.shape(value) != jnp.shape(before):
            raise ValueError(
                f"the hyperparameter {'.'.join(name)!r} has the shape {jnp.shape(before)}, got {jnp.shape(value)}"
            )
        dtype = jnp.result_type(before)
        # The cast to an integer would cut off the fraction: a rate of 0.1 would become 0.
        if jnp.issubdtype(jnp.result_type(value), jnp.inexact) and not jnp.issubdtype(dtype, jnp.inexact):
            raise ValueError(
                f"the hyperparameter {'.'.join(name)!r} is {dtype}, got {value!r}; create the optimizer with "
                f"a float, for example {name[-1]}=1.0 in place of 1"
            )
        leaves[places[name]] = jnp.asarray(value, dtype)
    return structure.unflatten(leaves)


def _by_name(state: Any) -> dict[tuple[str, ...], int]:
    """The index of each hyperparameter's leaf, by the names under which `hyperparams` returns it."""
    places = _places(state)
    owners = {place.owner for place in places}
    named = {}
    for place in places:
        siblings = [owner for owner in owners if owner[:1] == place.owner[:1]]
        between = [".".join(place.owner[1:])] if len(siblings) > 1 and place.owner[1:] else []
        named[(*place.owner[:1], *between, *place.names)] = place.index
    return named


def _places(state: Any) -> list[_Place]:
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    scheduled = {place.owner + place.names[:1] for place in _under(paths, "hyperparams_states")}
    return [place for place in _under(paths, "hyperparams") if place.owner + place.names[:1] not in scheduled]


def _under(paths: list[tuple], field: str) -> list[_Place]:
    """The leaves below a field of this name; the key of a dict is not a field."""
    key = jax.tree_util.GetAttrKey(field)
    found = [(i, path, max(j for j, k in enumerate(path) if k == key)) for i, path in enumerate(paths) if key in path]
    return [_Place(i, _entries(path[:j]), _entries(path[j + 1 :])) for i, path, j in found]


def _entries(path: tuple) -> tuple[str, ...]:
    return tuple(str(trees.path_entry(key)) for key in path)
