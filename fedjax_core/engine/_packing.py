"""Packing: the clients of a wave as integers over flat examples, on the devices.

Axis letters: `D` devices, `V` leaves of the tree, `G` groups and `K` blocks of a device, `L` lanes, `T` steps of a
device, `B` examples of a batch, `R` rows of a device's flat examples, `C` clients. A process packs
only for its own devices.
"""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_core import trees, types
from fedjax_core.engine import _transfer
from fedjax_core.engine._cohort import ClientSequences, Cohort
from fedjax_core.engine._config import Layout, device_memory
from fedjax_core.engine._ranges import Ranges, by_leaf, check_ranges, merged
from fedjax_core.engine._schedule import (
    Schedule,
    example_bytes,
    make_schedule,
    of_clients,
    rows_class,
    sequences_of,
    size_class,
    step_bytes,
    steps_class,
    wave_bytes,
)
from fedjax_core.engine._transfer import BufferPool
from fedjax_core.engine._tree import GROUP, device_merges, nodes_sent, server_merges
from fedjax_core.language.graph import is_batched
from fedjax_core.types import Type

# One for the process: on CPU a device array may be the very memory that its examples were read into, so that memory is
# used again only when the pool hears that the device array is gone, whichever cohort it belonged to.
_buffers = BufferPool()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedSequences:
    """One sequence argument, packed.

    Attributes:
      examples: pytree of `[D, R, ...]`; row 0 of each device is zeros.
      index: int32 `[D, T, L, B]`, rows of `examples`, 0 for padding.
      first: int32 `[D, K]`, a block's first step.
      common: int32 `[D, K]`, the steps that all clients of the block take.
      bound: int32 `[D, K]`, the steps that the longest of them takes.
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
    """The clients of a wave on the devices.

    Attributes:
      value: the clients' value: a pytree of `PackedSequences` and arrays `[D, K, L, ...]`.
      identity: uint32 `[D, K, L, 2]`.
      client_index: int32 `[D, K, L]`.
      extra: the values that accompany it, arrays `[D, K, L, ...]` by name.
      valid: bool `[D, K, L]`, False where a lane has no client.
      groups: the groups of blocks that the wave runs.
    """

    value: Any
    identity: Any
    client_index: Any
    extra: dict[str, Any]
    valid: Any
    groups: "Groups"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Groups:
    """The groups of blocks that a wave runs (see `GROUP`), in order: integers that drive the loops of a device.

    They are two arrays, since each array that is put on a device costs time of its own.

    Attributes:
      table: int32 `[D, G, 4]`: each group's first block; its number of blocks; 1 if the group ends with them, 0 if it
        goes on in the next wave; and how many merges follow.
      start: int32 `[D, 2]`: the number of groups, and the nodes on the stack before the wave.
    """

    table: Any
    start: Any


class _Capacity(NamedTuple):
    """The room of a device for one sequence argument: the same in all waves, so that one program runs them."""

    num_blocks: int
    num_steps: int
    num_rows: int


@dataclasses.dataclass(frozen=True, eq=False)
class Packing:
    """How a cohort runs on a layout, and its arrays if they fit the memory budget at once.

    Attributes:
      schedule: who runs where and when.
      layout: the layout.
      num_blocks: `K`, a size of the grid, the same for all waves.
      resident: the only wave, or None where there are several.
      ranges: the integers that the clients may hold, checked when they are read.
    """

    schedule: Schedule
    layout: Layout
    num_blocks: int
    resident: PackedClients | None
    ranges: Ranges = ()

    @functools.cached_property
    def merges(self) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """The merges after each leaf, `[V]`, and those of the server (see `server_merges`)."""
        occupied, devices = self.schedule.occupied, self.schedule.devices
        merges, left = device_merges(occupied, devices)
        return merges, server_merges(occupied, left, nodes_sent(self.layout.leaves, len(self.layout.devices)))

    def position(self) -> np.ndarray:
        """int64 `[C]`: each client's place in the flattened `[W, D, K, L]`."""
        # A device's blocks are consecutive over all of its waves, so the blocks in order are those by (device, wave).
        edges = self.schedule.edges
        blocks = np.diff(edges, axis=0).T.reshape(-1)
        slot = np.arange(len(self.schedule.clients)) - np.repeat(np.cumsum(blocks) - blocks, blocks)
        waves, devices = edges.shape[0] - 1, edges.shape[1]
        wave = np.arange(waves * devices).reshape(waves, devices).T.reshape(-1)
        block = np.repeat(wave * self.num_blocks, blocks) + slot
        place = block[:, None] * self.layout.lanes + np.arange(self.layout.lanes)
        here = self.schedule.clients >= 0
        position = np.empty(int(here.sum()), np.int64)
        position[self.schedule.clients[here]] = place[here]
        return position


def pack(cohort: Cohort, layout: Layout, ranges: Ranges = ()) -> Packing:
    """How a cohort runs on a layout; kept with the cohort, the examples only if they are a single wave.

    Raises:
      ValueError: a client holds an integer outside the ranges of the arguments, or the memory is too small.
    """
    packing, ranges = cohort.packed.get(layout), ranges if layout.check_ranges else ()
    if packing is not None:
        ranges = merged(packing.ranges, ranges)
        is_there = packing.resident is not None or packing.layout.data_budget == layout.data_budget
        if is_there and ranges == packing.ranges:
            return packing
    schedule = make_schedule(cohort, layout)
    _check_fits(cohort, schedule, layout)
    packing = Packing(schedule, layout, size_class(schedule.max_blocks_per_device), None, ranges)
    if schedule.num_waves == 1:
        packing = dataclasses.replace(packing, resident=pack_wave(cohort, packing, 0))
    cohort.packed[layout] = packing
    return packing


def _check_fits(cohort: Cohort, schedule: Schedule, layout: Layout):
    """Raises if one wave, which has at least one block of clients, exceeds all memory that a device can have."""
    device = jax.local_devices()[0]
    needed, memory = wave_bytes(cohort, schedule, layout.lanes), device_memory(device)
    if device.platform == "cpu":
        memory *= jax.local_device_count()  # the devices share the machine's
    if needed > memory:
        widths = ", ".join(str(leaf.width) for leaf in sequences_of(cohort)) or "no"
        raise ValueError(
            f"the clients that run at once need {needed} bytes on a device, which has {memory}: {layout.lanes} clients "
            f"side by side, in batches of {widths} examples; use a smaller batch, data.cohort(ids, "
            "fc.data.Batching(batch_size=20)), fewer steps or fewer lanes"
        )


def pack_wave(cohort: Cohort, packing: Packing, wave: int) -> PackedClients:
    """Reads the clients of one wave and puts them on the devices of this process."""
    if packing.resident is not None:
        return packing.resident
    layout, schedule = packing.layout, packing.schedule
    blocks = [schedule.blocks(wave, d) for d in layout.local]
    table = np.full((len(blocks), packing.num_blocks, layout.lanes), -1, np.int64)
    for d, clients in enumerate(blocks):
        table[d, : len(clients)] = clients
    arrays = PackedClients(
        value=_pack_value(cohort, packing, blocks, table),
        identity=_rows(cohort.identity.view(np.uint32).reshape(-1, 2), table),
        client_index=_rows(cohort.client_index, table),
        extra={name: _rows(array, table) for name, array in cohort.extra.items()},
        valid=table >= 0,
        groups=_groups(packing, wave),
    )
    return _transfer.shard(arrays, layout)


def _groups(packing: Packing, wave: int) -> Groups:
    """The groups of blocks that each device of this process runs in a wave."""
    layout, schedule, merges = packing.layout, packing.schedule, packing.merges[0]
    # Of each leaf, the first and the last group may be incomplete.
    capacity = packing.num_blocks // GROUP + 2 * layout.leaves
    table = np.zeros((len(layout.local), capacity, 4), np.int32)
    start = np.zeros((len(layout.local), 2), np.int32)
    for row, device in enumerate(layout.local):
        begin, (leaf, end) = schedule.edges[wave, device], schedule.groups(wave, device)
        first = np.concatenate([[begin], end[:-1]]) if len(end) else end
        of_leaf, leaf_ends = end - schedule.leaves[leaf], end == schedule.leaves[leaf + 1]
        ends = leaf_ends | (of_leaf % GROUP == 0)
        after = ends * (of_leaf > GROUP) + leaf_ends * merges[leaf]
        table[row, : len(leaf)] = np.stack([first - begin, end - first, ends, after], 1)
        start[row] = len(leaf), _height(packing, device, begin)
    return Groups(table, start)


def _height(packing: Packing, device: int, block: int) -> int:
    """The nodes on a device's stack before it runs a block."""
    schedule, merges = packing.schedule, packing.merges[0]
    leaf = int(np.searchsorted(schedule.leaves, block, side="right")) - 1
    before = np.arange(schedule.devices[device], min(leaf, schedule.devices[device + 1]))
    groups = leaf < schedule.devices[device + 1] and block - schedule.leaves[leaf] >= GROUP
    return int(schedule.occupied[before].sum() - merges[before].sum() + groups)


def _pack_value(cohort: Cohort, packing: Packing, blocks: list[np.ndarray], table: np.ndarray) -> Any:
    """The cohort's value with its sequences and arrays packed."""
    schedule, packed = packing.schedule, []
    sizes = iter(zip(schedule.max_steps_per_device, schedule.max_examples_per_device))
    leaves, structure = jax.tree.flatten(cohort.value)
    # The schedule counts the sequences in this order.
    for leaf, ranges in zip(leaves, by_leaf(packing.ranges, cohort.value), strict=True):
        if isinstance(leaf, ClientSequences):
            steps, examples = next(sizes)
            num_steps = steps_class(steps, step_bytes(leaf, packing.layout.lanes))
            capacity = _Capacity(packing.num_blocks, num_steps, rows_class(1 + examples, example_bytes(leaf)))
            check = functools.partial(check_ranges, ranges, leaf, ids=cohort.ids)
            packed.append(_pack_sequences(leaf, blocks, capacity, packing.layout, check))
        else:
            packed.append(_rows(leaf, table))
    return jax.tree.unflatten(structure, packed)


def _rows(array, table: np.ndarray):
    """The rows of the clients of a table; lanes without a client, which are computed too, get zeros (or any key)."""
    if len(array) == 0:
        return trees.zeros_like(jax.ShapeDtypeStruct((*table.shape, *array.shape[1:]), array.dtype))
    here = np.maximum(table, 0)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array[here]
    taken = np.asarray(array)[here]
    taken[table < 0] = 0
    return taken


def _pack_sequences(
    sequences: ClientSequences, blocks: list[np.ndarray], capacity: _Capacity, layout: Layout, check: Callable
):
    """The sequences of the clients in `blocks`, per device `[blocks, L]`, which `check(clients, examples=...)` sees."""
    devices, lanes = len(blocks), layout.lanes
    steps = np.zeros((devices, capacity.num_blocks, lanes), np.int32)
    common, bound = np.zeros((2, devices, capacity.num_blocks), np.int32)
    for d, clients in enumerate(blocks):
        here, n = of_clients(sequences.num_steps, clients), len(clients)
        steps[d, :n] = here
        bound[d, :n] = here.max(1, initial=0)
        # A lane that holds nobody does not count, else all steps of the last block would run under the select.
        common[d, :n] = np.where(clients >= 0, here, np.iinfo(np.int32).max).min(1, initial=np.iinfo(np.int32).max)
    first = (np.cumsum(bound, 1) - bound).astype(np.int32)
    index = np.zeros((devices, capacity.num_steps, lanes, sequences.width), np.int32)
    for d, clients in enumerate(blocks):
        fill_index(index[d], sequences, clients, first[d])
    # A buffer for each device: parts of a common one that do not begin at a multiple of 64 bytes would be copied.
    examples = _transfer.join(_read_devices(sequences, blocks, capacity.num_rows, check), layout)
    return PackedSequences(examples, index, first, common, bound, steps, sequences.element_type)


def _read_devices(sequences: ClientSequences, blocks: list[np.ndarray], num_rows: int, check: Callable) -> list:
    """The examples of each device's clients as `[1, R, ...]` arrays; side by side, if the sequences allow it."""

    def read(clients: np.ndarray):
        clients = clients[clients >= 0]
        examples = read_examples(sequences, clients, num_rows, _buffers.empty)
        used = 1 + int(sequences.num_examples[clients].sum())
        check(clients, examples=jax.tree.map(lambda x: x[1:used], examples))
        return jax.tree.map(lambda x: x[None], examples)

    if not getattr(sequences, "is_thread_safe", False):  # a connection of SQLite belongs to the thread that made it
        return list(map(read, blocks))
    with concurrent.futures.ThreadPoolExecutor(max(1, len(blocks))) as threads:  # NumPy copies without Python's lock
        return list(threads.map(read, blocks))


def fill_index(index: np.ndarray, sequences: ClientSequences, table: np.ndarray, first: np.ndarray):
    """Writes the index of some blocks of clients, in the order of the table.

    Args:
      index: int32 `[T, L, B]`, zeros; `B` is at least the sequences' width.
      sequences: the clients' batches.
      table: `[blocks, L]`, positions in the cohort, -1 where there is no client.
      first: `[blocks]`, each block's first step.
    """
    block, lane = np.nonzero(table >= 0)
    clients = table[block, lane]
    steps, examples = sequences.num_steps[clients], sequences.num_examples[clients]
    start = 1 + np.cumsum(examples) - examples
    rows = sequences.batch_rows(clients)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(steps) - steps, steps)
    rows = np.where(rows >= 0, rows + np.repeat(start, steps)[:, None], 0)
    index[np.repeat(first[block], steps) + within, np.repeat(lane, steps), : rows.shape[1]] = rows


def read_examples(sequences: ClientSequences, clients: np.ndarray, num_rows: int, allocate: Callable) -> Any:
    """The examples of `clients`, one after another behind a row of zeros.

    Args:
      sequences: the clients' batches.
      clients: positions in the cohort.
      num_rows: `R`, at least one more than they have examples; no index points at the remaining rows.
      allocate: `(shape, dtype) -> array`, whose content is overwritten up to the last example.

    Returns:
      A pytree of arrays `[R, ...]` like the sequences' element.
    """
    batch = types.tree_of_types(sequences.element_type)
    lead = int(is_batched(sequences.element_type))
    used = 1 + int(sequences.num_examples[clients].sum())
    out = jax.tree.map(lambda leaf: allocate((num_rows, *leaf.shape[lead:]), leaf.dtype), batch)
    # Padding is gathered from row 0, and memory that is used again may hold NaN there, which masks do not stop.
    for leaf in jax.tree.leaves(out):
        leaf[0] = 0
    sequences.read(clients, jax.tree.map(lambda leaf: leaf[1:used], out))
    return out
