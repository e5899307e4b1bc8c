"""A pytree of many arrays as a few: one per dtype, since every array that crosses devices costs time of its own."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flat:
    """A pytree, flattened.

    Attributes:
      joined: one array `[*lead, N]` per dtype, in order of their first leaves; `N` is at least one, since
        JAX does not split an array without entries over devices.
      keys: the leaves that are JAX keys, as they were.
      form: `(tree structure, (shape behind lead, dtype) of each leaf, number of leading dimensions)`.
    """

    joined: tuple
    keys: tuple
    form: tuple = dataclasses.field(metadata={"static": True})


def flatten(tree: Any, lead: int) -> Flat:
    """Joins the leaves of each dtype; their first `lead` dimensions are the same and stay.

    Example:

    >>> flatten({"a": jnp.ones((2, 3)), "b": jnp.ones((2,)), "c": jnp.ones((2, 1), int)}, 1).joined[0].shape
    (2, 4)
    """
    leaves, structure = jax.tree.flatten(tree)
    groups: dict[str, list] = {}
    for leaf in leaves:
        if not _is_key(leaf.dtype):
            groups.setdefault(str(leaf.dtype), []).append(
                leaf.reshape(*leaf.shape[:lead], math.prod(leaf.shape[lead:]))
            )
    joined = tuple(_concatenated(group, lead) for group in groups.values())
    keys = tuple(leaf for leaf in leaves if _is_key(leaf.dtype))
    return Flat(joined, keys, (structure, tuple((leaf.shape[lead:], leaf.dtype) for leaf in leaves), lead))


def _concatenated(group: list, lead: int):
    joined = jnp.concatenate(group, axis=lead)
    return joined if joined.shape[lead] else jnp.zeros((*joined.shape[:lead], 1), joined.dtype)


def unflatten(flat: Flat) -> Any:
    """The pytree that was flattened.

    Example:

    >>> unflatten(flatten({"a": jnp.ones((2, 3)), "b": jnp.zeros(4)}, 0))["b"].tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    structure, forms, lead = flat.form
    dtypes = list(dict.fromkeys(str(dtype) for _, dtype in forms if not _is_key(dtype)))
    taken, keys = dict.fromkeys(dtypes, 0), iter(flat.keys)
    leaves = []
    for shape, dtype in forms:
        if _is_key(dtype):
            leaves.append(next(keys))
            continue
        start, size = taken[str(dtype)], math.prod(shape)
        array = flat.joined[dtypes.index(str(dtype))]
        part = jax.lax.slice_in_dim(array, start, start + size, axis=lead)
        leaves.append(part.reshape(*array.shape[:lead], *shape))
        taken[str(dtype)] += size
    return jax.tree.unflatten(structure, leaves)


def _is_key(dtype) -> bool:
    return jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
