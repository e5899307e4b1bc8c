"""Transfers: values from this process to the devices of all processes, and back to the server.

Every process holds the server's values, on the first of its own devices, and computes the same with
them. Only a pass over the clients, and its results, cross the processes.
"""

import collections
import ctypes
import dataclasses
import functools
import itertools
import math
import operator
import threading
import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fedjax_core import trees
from fedjax_core.engine._config import Layout

_ALIGNMENT = 64
_KEPT = 4


class BufferPool:
    """Hands out uninitialized arrays and takes their memory back when nothing refers to them any more.

    On CPU a device array may be the very memory of the NumPy array that it was made from, so the
    memory is free again only when that device array is gone too. The owner of the memory is therefore
    an object that NumPy views and device arrays keep alive, and its finalizer returns the memory.
    """

    def __init__(self):
        self._free = collections.defaultdict(list)
        # Reentrant: `empty` may start a garbage collection, whose finalizers give memory back in the same thread.
        self._lock = threading.RLock()

    def empty(self, shape: tuple, dtype) -> np.ndarray:
        """An uninitialized array whose memory starts at a multiple of 64 bytes."""
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        if size == 0:
            return np.empty(shape, dtype)
        with self._lock:
            memory = self._free[size].pop() if self._free[size] else np.empty(size + _ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT
        # Not a NumPy array: a view of a view refers only to the array at the bottom, so one in between would die early.
        owner = (ctypes.c_uint8 * size).from_buffer(memory, start)  # pyright: ignore[reportArgumentType]  # NumPy's types lack it
        weakref.finalize(owner, self._give_back, size, memory).atexit = False
        return np.frombuffer(owner, dtype).reshape(shape)  # pyright: ignore[reportCallIssue, reportArgumentType]  # likewise

    def _give_back(self, size: int, memory: np.ndarray):
        with self._lock:
            if len(self._free[size]) < _KEPT:
                self._free[size].append(memory)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FlatTree:
    """A pytree of many small arrays as a few, since every array that crosses devices costs time of its own.

    Attributes:
      arrays: the large leaves as they are, and vectors of the small ones: one of uint32 for the bits of all keys and
        numbers of 32 bits, and one for every other dtype. A vector has at least one entry, since JAX does not split an
        empty array over devices.
      form: `(tree structure, (shape, dtype) of each leaf)`.
    """

    arrays: tuple
    form: tuple = dataclasses.field(metadata={"static": True})


def flatten(tree: Any) -> FlatTree:
    """Joins the bits of the small leaves.

    Example:

    >>> [x.shape for x in flatten({"a": jnp.ones((2, 3)), "b": jnp.ones(2), "c": jnp.zeros((100, 100))}).arrays]
    [(100, 100), (8,)]
    """
    leaves, structure = jax.tree.flatten(tree)
    forms = tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    large, small = _parts(forms)
    vectors = []
    for by_dtype in small.values():
        # By dtype first: XLA compiles a kernel for each cast.
        groups = [jnp.concatenate([leaves[i].reshape(-1) for i in group]) for group in by_dtype.values()]
        vector = jnp.concatenate([_bits(group).reshape(-1) for group in groups])
        vectors.append(vector if vector.size else jnp.zeros(1, vector.dtype))
    return FlatTree((*(leaves[i] for i in large), *vectors), (structure, forms))


def unflatten(flat: FlatTree) -> Any:
    """The pytree that was flattened.

    Example:

    >>> unflatten(flatten({"a": jnp.ones((2, 3)), "b": jnp.zeros(4)}))["b"].tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    structure, forms = flat.form
    large, small = _parts(forms)
    leaves = dict(zip(large, flat.arrays))
    for by_dtype, vector in zip(small.values(), flat.arrays[len(large) :]):
        start = 0
        for dtype, group in by_dtype.items():
            sizes = [math.prod(forms[i][0]) for i in group]
            words = sum(sizes) * math.prod(_words(dtype))
            values = _from_bits(vector[start : start + words].reshape(-1, *_words(dtype)), dtype)
            ends = itertools.accumulate(sizes, initial=0)
            leaves |= {i: values[a : a + n].reshape(forms[i][0]) for i, a, n in zip(group, ends, sizes)}
            start += words
    return structure.unflatten([leaves[i] for i in range(len(forms))])


def _parts(forms: tuple) -> tuple[list[int], dict[Any, dict[Any, list[int]]]]:
    """The large leaves, and the small ones by the dtype of their vector and their own."""
    large, small = [], {}
    for i, (shape, dtype) in enumerate(forms):
        if trees.is_small(jax.ShapeDtypeStruct(shape, dtype)) or _is_key(dtype):
            small.setdefault(_carrier(dtype), {}).setdefault(dtype, []).append(i)
        else:
            large.append(i)
    return large, small


def _words(dtype) -> tuple[int, ...]:
    """The shape of the bits of one entry."""
    return jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct((), dtype)).shape if _is_key(dtype) else ()


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


def shard(arrays: Any, layout: Layout) -> Any:
    """Puts arrays `[D, ...]` on the local devices, one row on each; arrays that are there already stay."""
    if layout.one_process:
        return jax.device_put(arrays, layout.clients)  # on CPU without a copy where a device's part is aligned
    return jax.tree.map(functools.partial(_shard_leaf, layout), arrays)


def _shard_leaf(layout: Layout, leaf):
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _shard_leaf(layout, jax.random.key_data(leaf))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return _join_leaves(layout, *(leaf[i : i + 1] for i in range(len(layout.local))))


def join(parts: list, layout: Layout) -> Any:
    """Joins a pytree of arrays `[1, ...]` per local device into one of arrays `[D, ...]` over all devices."""
    return jax.tree.map(functools.partial(_join_leaves, layout), *parts)


def _join_leaves(layout: Layout, *leaves):
    placed = [jax.device_put(leaf, layout.devices[d]) for d, leaf in zip(layout.local, leaves)]
    shape = (len(layout.devices), *placed[0].shape[1:])
    return jax.make_array_from_single_device_arrays(shape, layout.clients, placed)


def broadcast(values: Any, layout: Layout) -> Any:
    """The server's values as the passes take them: on every device, as a `FlatTree` if there are several."""
    if len(layout.devices) == 1:
        return values
    flat = _flatten(values)
    if layout.one_process:
        return jax.device_put(flat, layout.broadcast)

    def leaf(x):
        copies = [jax.device_put(x, layout.devices[d]) for d in layout.local]
        return jax.make_array_from_single_device_arrays(x.shape, layout.broadcast, copies)

    return jax.tree.map(leaf, flat)


def parts_at_server(values: Any, layout: Layout) -> tuple:
    """The result of a pass at the server: a part for each device, or one part in which theirs follow one another."""
    if len(layout.devices) == 1:
        return (values,)
    if not layout.one_process:
        return (jax.tree.map(lambda x: x.addressable_data(0), _gathered(layout)(values)),)
    # Device by device: if JAX gathered an array, that would be a program over all devices.
    leaves, structure = jax.tree.flatten(values)
    parts = [[leaf.addressable_data(d) for leaf in leaves] for d in layout.local]
    return tuple(jax.tree.unflatten(structure, part) for part in jax.device_put(parts, layout.server))


def to_server(values: Any, layout: Layout) -> Any:
    """The result of a pass, which is on all devices (a `FlatTree` if there are several), whole at the server."""
    return values if len(layout.devices) == 1 else _joined(parts_at_server(values, layout))


@jax.jit
def _flatten(values) -> FlatTree:
    return flatten(values)


def joined(parts: tuple) -> Any:
    """The values of all devices, each leaf with their rows one after another, from `parts_at_server`."""
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *(v for part in parts for v in _device_values(part)))


def _device_values(part) -> list:
    if not isinstance(part, FlatTree):
        return [part]
    number = len(part.arrays[0]) if part.arrays else 1
    return [unflatten(jax.tree.map(operator.itemgetter(d), part)) for d in range(number)]


_joined = jax.jit(joined)


# Kept for each layout: a function that is made anew in every call is compiled anew too.
@functools.lru_cache(maxsize=8)
def _gathered(layout: Layout):
    return jax.jit(lambda values: values, out_shardings=layout.broadcast)
