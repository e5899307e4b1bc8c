"""A pytree of many arrays as a few, mostly one, since every array that crosses devices costs time of its own."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FlatTree:
    """A pytree, flattened.

    Attributes:
      joined: arrays `[*lead, N]`, in order of their first leaves: one of uint32 for the bits of all keys and
        numbers of 32 bits, and one for every other dtype; `N` is at least one, since JAX does not split an
        array without entries over devices.
      form: `(tree structure, (shape of the bits behind lead, dtype) of each leaf, number of leading dimensions)`.
    """

    joined: tuple
    form: tuple = dataclasses.field(metadata={"static": True})


def flatten(tree: Any, lead: int) -> FlatTree:
    """Joins the bits of the leaves; their first `lead` dimensions are the same and stay.

    Example:

    >>> flatten({"a": jnp.ones((2, 3)), "b": jnp.ones((2,)), "c": jnp.ones((2, 1), int)}, 1).joined[0].shape
    (2, 5)
    """
    leaves, structure = jax.tree.flatten(tree)
    bits = [_bits(leaf) for leaf in leaves]
    groups: dict[Any, list] = {}
    for x in bits:
        groups.setdefault(x.dtype, []).append(x.reshape(*x.shape[:lead], math.prod(x.shape[lead:])))
    joined = tuple(_concatenated(group, lead) for group in groups.values())
    return FlatTree(joined, (structure, tuple((x.shape[lead:], leaf.dtype) for x, leaf in zip(bits, leaves)), lead))


def _concatenated(group: list, lead: int):
    joined = jnp.concatenate(group, axis=lead)
    return joined if joined.shape[lead] else jnp.zeros((*joined.shape[:lead], 1), joined.dtype)


def unflatten(flat: FlatTree) -> Any:
    """The pytree that was flattened.

    Example:

    >>> unflatten(flatten({"a": jnp.ones((2, 3)), "b": jnp.zeros(4)}, 0))["b"].tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    structure, forms, lead = flat.form
    arrays = {array.dtype: array for array in flat.joined}
    taken = dict.fromkeys(arrays, 0)
    leaves = []
    for shape, dtype in forms:
        carrier = _carrier(dtype)
        start, size = taken[carrier], math.prod(shape)
        part = lax.slice_in_dim(arrays[carrier], start, start + size, axis=lead)
        leaves.append(_from_bits(part.reshape(*part.shape[:lead], *shape), dtype))
        taken[carrier] += size
    return jax.tree.unflatten(structure, leaves)


def _bits(leaf):
    if _is_key(leaf.dtype):
        return jax.random.key_data(leaf)
    return lax.bitcast_convert_type(leaf, _carrier(leaf.dtype))


def _from_bits(bits, dtype):
    if _is_key(dtype):
        return jax.random.wrap_key_data(bits, dtype=dtype)
    return lax.bitcast_convert_type(bits, dtype)


def _carrier(dtype) -> jnp.dtype:
    """The dtype in which a leaf is joined to others."""
    is_word = dtype.itemsize == 4 and jnp.issubdtype(dtype, jnp.number)
    return jnp.dtype(jnp.uint32) if is_word or _is_key(dtype) else dtype


def _is_key(dtype) -> bool:
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)
