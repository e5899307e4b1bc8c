"""Transfers: values from this process to the devices of all processes, and back to the server.

Every process holds the server's values, on the first of its own devices, and computes the same with
them. Nothing but a pass over the clients, and what it leaves, crosses the processes.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_core.engine._config import Layout
from fedjax_core.engine._flat import FlatTree, flatten, unflatten


def shard(arrays: Any, layout: Layout) -> Any:
    """Arrays `[D, ...]` of the local devices, row by row on them; what is there already stays."""
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
    """One pytree of arrays `[1, ...]` per local device as one of arrays `[D, ...]` over all devices."""
    return jax.tree.map(functools.partial(_join_leaves, layout), *parts)


def _join_leaves(layout: Layout, *leaves):
    placed = [jax.device_put(leaf, layout.devices[d]) for d, leaf in zip(layout.local, leaves)]
    shape = (len(layout.devices), *placed[0].shape[1:])
    return jax.make_array_from_single_device_arrays(shape, layout.clients, placed)


def broadcast(values: Any, layout: Layout) -> Any:
    """The server's values as the passes take them: on every device, `FlatTree` where there are several."""
    if len(layout.devices) == 1:
        return values
    flat = _flatten(values)
    if layout.one_process:
        return jax.device_put(flat, layout.broadcast)

    def leaf(x):
        copies = [jax.device_put(x, layout.devices[d]) for d in layout.local]
        return jax.make_array_from_single_device_arrays(x.shape, layout.broadcast, copies)

    return jax.tree.map(leaf, flat)


def to_server(values: Any, layout: Layout) -> Any:
    """What a pass left on all devices (`FlatTree` where there are several), whole, at the server."""
    if len(layout.devices) == 1:
        return values
    if not layout.one_process:
        return _unflatten(jax.tree.map(lambda x: x.addressable_data(0), _gathered(layout)(values)))
    # Device by device: an array that JAX gathers by itself would be a program over all devices.
    leaves, structure = jax.tree.flatten(values)
    parts = [[leaf.addressable_data(d) for d in layout.local] for leaf in leaves]
    return _joined(structure, jax.device_put(parts, layout.server))


@jax.jit
def _flatten(values) -> FlatTree:
    return flatten(values, 0)


@jax.jit
def _unflatten(flat: FlatTree):
    return unflatten(flat)


@functools.partial(jax.jit, static_argnums=0)
def _joined(structure, parts: list):
    """The values from the parts that each device had of them."""
    return unflatten(jax.tree.unflatten(structure, [jnp.concatenate(part) for part in parts]))


# Kept for each layout: a function that is made anew in every call is compiled anew.
@functools.lru_cache(maxsize=8)
def _gathered(layout: Layout):
    return jax.jit(lambda values: values, out_shardings=layout.broadcast)
