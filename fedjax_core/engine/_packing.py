"""Packing: a ragged cohort as integers over flat examples, a function of the cohort alone.

Clients are sorted by (steps, identity) and cut into blocks of `L` lanes, so that the clients of a
block take nearly the same number of steps. Blocks are dealt to `V` virtual shards, longest first,
each to the shard with the least work; a device owns consecutive shards.

Axis letters: `D` devices, `V` virtual shards, `K` blocks of a device, `L` lanes, `T` steps of a
device, `B` examples of a batch, `R` rows of a device's flat examples, `C` clients.
"""

import dataclasses
import heapq
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_core import trees, types
from fedjax_core.engine._buffers import BufferPool
from fedjax_core.engine._cohort import ClientSequences, Cohort
from fedjax_core.engine._config import Layout
from fedjax_core.language._sequence import is_batched
from fedjax_core.types import Type

_GRID = 1.25
_buffers = BufferPool()


class Blocks(NamedTuple):
    """Which clients run where.

    Attributes:
      clients: per device int64 `[blocks, L]`: positions in the cohort, -1 for nobody.
      first: int32 `[D, V / D]`, a shard's first block on its device.
      count: int32 `[D, V / D]`, its number of blocks.
    """

    clients: tuple[np.ndarray, ...]
    first: np.ndarray
    count: np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedSequences:
    """One sequence argument, packed.

    Attributes:
      examples: pytree of `[D, R, ...]`; row 0 of each device is zeros.
      index: int32 `[D, T, L, B]`, rows of `examples`, 0 for padding.
      first: int32 `[D, K]`, a block's first step.
      common: int32 `[D, K]`, steps that all clients of the block take.
      bound: int32 `[D, K]`, steps that the longest of them takes.
      num_batches: int32 `[D, K, L]`, each client's steps.
      element: the type of a batch.
    """

    examples: Any
    index: Any
    first: Any
    common: Any
    bound: Any
    num_batches: Any
    element: Type = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedClients:
    """A cohort on the devices.

    Attributes:
      value: the clients' value: a pytree of `PackedSequences` and arrays `[D, K, L, ...]`.
      identity: uint32 `[D, K, L, 2]`.
      client_index: int32 `[D, K, L]`.
      valid: bool `[D, K, L]`, False where there is nobody.
      first: int32 `[D, V / D]`, each shard's first block.
      count: int32 `[D, V / D]`, its number of blocks.
      shards: int32 `[D, 1]`, shards of a device (a value, so that the loop over them stays a loop).
    """

    value: Any
    identity: Any
    client_index: Any
    valid: Any
    first: Any
    count: Any
    shards: Any


class Packed(NamedTuple):
    """A cohort ready to run, and where each of its clients is.

    Attributes:
      clients: the arrays, on the devices.
      position: int32 `[C]`, a client's place in the flattened `[D, K, L]`.
    """

    clients: PackedClients
    position: np.ndarray


def size_class(n: int) -> int:
    """The smallest size of a fixed geometric grid (ratio 1.25) that holds `n`.

    Cohorts of the same kind so get arrays of the same shapes, and compile once.
    """
    size = 8
    while size < n:
        size = -int(-size * _GRID // 1)
    return size


def pack(cohort: Cohort, layout: Layout) -> Packed:
    """Packs a cohort for a layout; the result is kept with the cohort."""
    key = (layout.lanes, layout.shards, layout.devices)
    if key not in cohort.packed:
        cohort.packed[key] = _pack(cohort, layout)
    return cohort.packed[key]


def _pack(cohort: Cohort, layout: Layout) -> Packed:
    blocks = deal(_steps(cohort), cohort.identity, layout)
    number = size_class(max(len(b) for b in blocks.clients))
    table = np.full((len(layout.devices), number, layout.lanes), -1, np.int64)
    for d, clients in enumerate(blocks.clients):
        table[d, : len(clients)] = clients
    here = np.maximum(table, 0)

    def rows(array):
        if len(array) == 0:
            return trees.zeros_like(jax.ShapeDtypeStruct((*table.shape, *array.shape[1:]), array.dtype))
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
            return array[here]
        taken = np.asarray(array)[here]
        taken[table < 0] = 0
        return taken

    halves = cohort.identity.view(np.uint32).reshape(-1, 2)
    arrays = PackedClients(
        value=jax.tree.map(
            lambda leaf: (
                _pack_sequences(leaf, blocks, number, layout) if isinstance(leaf, ClientSequences) else rows(leaf)
            ),
            cohort.value,
        ),
        identity=rows(halves),
        client_index=rows(cohort.client_index),
        valid=table >= 0,
        first=blocks.first,
        count=blocks.count,
        shards=np.full((len(layout.devices), 1), layout.shards // len(layout.devices), np.int32),
    )
    position = np.empty(len(cohort), np.int32)
    flat = table.reshape(-1)
    position[flat[flat >= 0]] = np.flatnonzero(flat >= 0)
    return Packed(jax.device_put(arrays, layout.clients), position)


def _steps(cohort: Cohort) -> np.ndarray:
    """int64 `[C]`: all the steps of a client, over its sequences."""
    sequences = [leaf for leaf in jax.tree.leaves(cohort.value) if isinstance(leaf, ClientSequences)]
    return sum((s.num_steps for s in sequences), np.zeros(len(cohort), np.int64))


def deal(steps: np.ndarray, identity: np.ndarray, layout: Layout) -> Blocks:
    """Cuts the clients into blocks and deals these to the shards."""
    lanes, devices = layout.lanes, len(layout.devices)
    order = np.lexsort((identity, -steps))
    table = np.full((-(-len(order) // lanes), lanes), -1, np.int64)
    table.reshape(-1)[: len(order)] = order
    shard = _longest_first(steps[table[:, 0]] if len(table) else steps, layout.shards)
    count = np.bincount(shard, minlength=layout.shards).astype(np.int32).reshape(devices, -1)
    first = (np.cumsum(count, 1) - count).astype(np.int32)
    by_shard = table[np.argsort(shard, kind="stable")]
    return Blocks(tuple(np.split(by_shard, np.cumsum(count.sum(1))[:-1])), first, count)


def _longest_first(steps: np.ndarray, shards: int) -> np.ndarray:
    """Each block's shard: blocks in order, each to the shard with the least work so far."""
    load = [(0, shard) for shard in range(shards)]
    chosen = np.empty(len(steps), np.int64)
    for block, cost in enumerate(steps.tolist()):
        work, chosen[block] = load[0]
        heapq.heapreplace(load, (work + cost + 1, int(chosen[block])))
    return chosen


def _pack_sequences(sequences: ClientSequences, blocks: Blocks, number: int, layout: Layout):
    devices, lanes = len(layout.devices), layout.lanes
    steps = np.zeros((devices, number, lanes), np.int32)
    common, bound = np.zeros((2, devices, number), np.int32)
    for d, clients in enumerate(blocks.clients):
        here, n = _of_clients(sequences.num_steps, clients), len(clients)
        steps[d, :n] = here
        bound[d, :n] = here.max(1, initial=0)
        common[d, :n] = np.where(clients >= 0, here, np.iinfo(np.int32).max).min(1, initial=np.iinfo(np.int32).max)
    first = (np.cumsum(bound, 1) - bound).astype(np.int32)
    num_rows = size_class(1 + max(int(_of_clients(sequences.num_examples, c).sum()) for c in blocks.clients))
    index = np.zeros((devices, size_class(int(bound.sum(1).max())), lanes, sequences.batch_size), np.int32)
    for d, clients in enumerate(blocks.clients):
        _fill_index(index[d], sequences, clients, first[d])
    parts = [
        jax.device_put(_read(sequences, clients[clients >= 0], num_rows), device)
        for clients, device in zip(blocks.clients, layout.devices)
    ]

    def join(*leaves):
        shape = (devices, *leaves[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, layout.clients, list(leaves))

    return PackedSequences(jax.tree.map(join, *parts), index, first, common, bound, steps, sequences.element_type)


def _of_clients(values: np.ndarray, clients: np.ndarray) -> np.ndarray:
    """`values` of each client, 0 for nobody; the shape of `clients`."""
    if len(values) == 0:
        return np.zeros(clients.shape, values.dtype)
    return np.where(clients >= 0, values[np.maximum(clients, 0)], 0)


def _fill_index(index: np.ndarray, sequences: ClientSequences, table: np.ndarray, first: np.ndarray):
    """Writes a device's `[T, L, B]` index of its `[blocks, L]` clients, in the order of the table."""
    block, lane = np.nonzero(table >= 0)
    clients = table[block, lane]
    steps, examples = sequences.num_steps[clients], sequences.num_examples[clients]
    start = 1 + np.cumsum(examples) - examples
    rows = sequences.batch_rows(clients)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(steps) - steps, steps)
    rows = np.where(rows >= 0, rows + np.repeat(start, steps)[:, None], 0)
    index[np.repeat(first[block], steps) + within, np.repeat(lane, steps)] = rows


def _read(sequences: ClientSequences, clients: np.ndarray, num_rows: int):
    """The examples of `clients`, one after another behind a row of zeros, as `[1, R, ...]` arrays."""
    batch = types.tree_of_types(sequences.element_type)
    lead = int(is_batched(sequences.element_type))
    used = 1 + int(sequences.num_examples[clients].sum())
    out = jax.tree.map(lambda leaf: _buffers.empty((1, num_rows, *leaf.shape[lead:]), leaf.dtype), batch)
    for leaf in jax.tree.leaves(out):
        leaf[0, 0] = 0
    sequences.read(clients, jax.tree.map(lambda leaf: leaf[0, 1:used], out))
    return out
