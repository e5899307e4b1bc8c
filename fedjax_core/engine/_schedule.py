"""The schedule: which client runs where and when, a function of the cohort alone.

Clients are sorted by (steps, identity) and cut into blocks of `L` lanes, so that the clients of a
block take nearly the same number of steps. Blocks are assigned to `V` virtual shards: longest first, each goes
to the half of the shards with the least work, and so on within each half. A device owns consecutive shards, so
its work is balanced whatever the number of devices. A wave is a range of the blocks of every shard, as many as
the memory budget holds; the bits of a result do not depend on where the waves are cut.

Axis letters: `W` waves, `D` devices, `V` virtual shards, `N` blocks of the cohort, `L` lanes, `C` clients.
"""

import dataclasses
import heapq
import math

import jax
import numpy as np

from fedjax_core import types
from fedjax_core.engine._cohort import ClientSequences, Cohort
from fedjax_core.engine._config import Layout
from fedjax_core.language.graph import is_batched

_GRID = 1.5
_GRID_OF_STEPS = 4.0  # a step is only a few integers
# The grid begins where padding begins to cost something: every size below would be one more program to compile.
_FREE_BYTES = 2**16
_SMALLEST, _LARGEST_FIRST = 8, 128
_IN_FLIGHT = 2  # the wave that computes and the one that is read meanwhile


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """Which clients run where and when.

    Attributes:
      clients: int32 `[N, L]`: positions in the cohort, -1 for none; ordered by wave, device, shard.
      count: int32 `[W, D, V / D]`, the blocks of each shard in each wave.
      max_blocks_per_device: the largest number of blocks of a device in a wave.
      max_steps_per_device: per sequence of the cohort, the largest number of steps of a device in a wave.
      max_examples_per_device: per sequence, the largest number of examples of a device in a wave.
    """

    clients: np.ndarray
    count: np.ndarray
    max_blocks_per_device: int
    max_steps_per_device: tuple[int, ...]
    max_examples_per_device: tuple[int, ...]

    @property
    def num_waves(self) -> int:
        """`W`, at least one."""
        return len(self.count)

    def blocks(self, wave: int, device: int) -> np.ndarray:
        """int32 `[blocks, L]`: the clients of a device in a wave."""
        ends = np.cumsum(self.count.sum(2).reshape(-1))
        end = ends[wave * self.count.shape[1] + device]
        return self.clients[end - self.count[wave, device].sum() : end]


def size_class(n: int, ratio: float = _GRID, first: int = _SMALLEST) -> int:
    """The smallest size of a fixed geometric grid that holds `n`.

    Similar cohorts thus get arrays of the same shapes, and their program is compiled once.

    Example:

    >>> [size_class(n) for n in (1, 9, 12, 13)]
    [8, 12, 12, 18]
    """
    size = first
    while size < n:
        size = math.ceil(size * ratio)
    return size


def _first_size(num_bytes: int) -> int:
    """The first size of the grid for things of `num_bytes` bytes each."""
    return min(max(_FREE_BYTES // max(num_bytes, 1), _SMALLEST), _LARGEST_FIRST)


def rows_class(n: int, num_bytes: int) -> int:
    """The size of the grid that holds `n` examples of `num_bytes` bytes each."""
    return size_class(n, _GRID, _first_size(num_bytes))


def steps_class(n: int, num_bytes: int) -> int:
    """The size for `n` steps, on a coarser grid, since each is only a few integers: `num_bytes`."""
    return size_class(n, _GRID_OF_STEPS, _first_size(num_bytes))


def sequences_of(cohort: Cohort) -> list[ClientSequences]:
    """The sequence arguments of a cohort, in order."""
    return [leaf for leaf in jax.tree.leaves(cohort.value) if isinstance(leaf, ClientSequences)]


def make_schedule(cohort: Cohort, layout: Layout) -> Schedule:
    """Cuts the clients into blocks, assigns the blocks to the shards, and cuts the shards into waves."""
    sequences = sequences_of(cohort)
    steps = sum((s.num_steps for s in sequences), np.zeros(len(cohort), np.int64))
    # Allocate the result first: temporaries allocated after it can be returned to the operating system.
    clients = np.empty((-(-len(steps) // layout.lanes), layout.lanes), np.int32)
    blocks, shard = _blocks(steps, cohort.identity, layout)
    rank = _rank(shard, layout.shards)
    upto = _cumulated(sequences, blocks, rank, shard // (layout.shards // len(layout.devices)), len(layout.devices))
    # Less than the budget: two waves are in memory at once, and their sizes are rounded up to the grid.
    edges = _cut(upto @ _bytes_each(cohort, layout.lanes), layout.memory_budget / (_IN_FLIGHT * _GRID))
    largest = np.diff(upto[edges], axis=0).max((0, 1)).tolist()
    wave = np.searchsorted(edges[1:-1], rank, side="right")
    order = np.argsort(wave, kind="stable")
    count = np.bincount(wave * layout.shards + shard, minlength=(len(edges) - 1) * layout.shards)
    return Schedule(
        np.take(blocks, order, 0, out=clients),
        count.astype(np.int32).reshape(len(edges) - 1, len(layout.devices), -1),
        largest[0],
        tuple(largest[1::2]),
        tuple(largest[2::2]),
    )


def _blocks(steps: np.ndarray, identity: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The blocks, int32 `[N, L]`, and the shard of each, `[N]`, in the order of the shards."""
    blocks = np.full((-(-len(steps) // layout.lanes), layout.lanes), -1, np.int32)
    # Ties in the number of steps go by identity: a client's place in the cohort must not decide where it is summed.
    blocks.reshape(-1)[: len(steps)] = np.lexsort((identity, -steps))
    shard = _balanced(steps[blocks[:, 0]] if len(blocks) else steps, layout.shards)
    # Stable, since the order of a shard's blocks decides the last bits, and NumPy's usual sort differs by machine.
    by_shard = np.argsort(shard, kind="stable")
    return blocks[by_shard], shard[by_shard]


def _balanced(steps: np.ndarray, shards: int) -> np.ndarray:
    """Each block's shard, such that consecutive shards together have nearly equal work."""
    if shards == 1 or not len(steps):
        return np.zeros(len(steps), np.int32)
    parts = next(n for n in range(2, shards + 1) if shards % n == 0)
    part, within = _longest_first(steps, parts), shards // parts
    shard = part * within
    for p in range(parts):
        shard[part == p] += _balanced(steps[part == p], within)
    return shard


def _longest_first(steps: np.ndarray, parts: int) -> np.ndarray:
    """Each block's part: in order, each block goes to the part with the least work so far."""
    load = [(0, part) for part in range(parts)]
    chosen = np.empty(len(steps), np.int32)
    for block, cost in enumerate(steps.tolist()):
        work, chosen[block] = load[0]
        # One more than its steps, so that blocks without steps are spread over the parts too.
        heapq.heapreplace(load, (work + cost + 1, int(chosen[block])))
    return chosen


def _rank(shard: np.ndarray, shards: int) -> np.ndarray:
    """The position of each block within its shard; `shard` ascends."""
    count = np.bincount(shard, minlength=shards)
    return np.arange(len(shard)) - np.repeat(np.cumsum(count) - count, count)


def _cumulated(sequences: list[ClientSequences], blocks, rank, device, devices: int) -> np.ndarray:
    """int64 `[ranks + 1, D, Q]`: the totals over a device's blocks below each rank.

    The columns are blocks and, per sequence, steps and examples. They are computed one after another, since there may
    be a million blocks.
    """
    ranks = int(rank.max(initial=-1)) + 1
    table = np.zeros((ranks + 1, devices, 1 + 2 * len(sequences)), np.int64)
    np.add.at(table[:, :, 0], (rank + 1, device), 1)
    for q, s in enumerate(sequences):
        np.add.at(table[:, :, 1 + 2 * q], (rank + 1, device), of_clients(s.num_steps, blocks).max(1, initial=0))
        np.add.at(table[:, :, 2 + 2 * q], (rank + 1, device), of_clients(s.num_examples, blocks).sum(1))
    return np.cumsum(table, 0, out=table)


def of_clients(values: np.ndarray, clients: np.ndarray) -> np.ndarray:
    """`values` of each client, 0 where there is none, in the shape of `clients`."""
    if len(values) == 0:
        return np.zeros(clients.shape, values.dtype)
    return np.where(clients >= 0, values[np.maximum(clients, 0)], 0)


def _bytes_each(cohort: Cohort, lanes: int) -> np.ndarray:
    """int64 `[Q]`: the bytes of one block without its sequences, and per sequence of one step and one example."""
    leaves = jax.tree.leaves((cohort.value, dict(cohort.extra)))
    arrays = [leaf for leaf in leaves if not isinstance(leaf, ClientSequences)]
    per_client = 16 + sum(int(np.prod(a.shape[1:])) * a.dtype.itemsize for a in arrays)
    sizes = [lanes * per_client]
    for s in sequences_of(cohort):
        sizes += [step_bytes(s, lanes), example_bytes(s)]
    return np.array(sizes, np.int64)


def wave_bytes(cohort: Cohort, schedule: Schedule, lanes: int) -> int:
    """The bytes of the clients' data on one device, padding included; with several waves, the bytes of two of them."""
    block, *each = _bytes_each(cohort, lanes).tolist()
    total = size_class(schedule.max_blocks_per_device) * block
    sizes = zip(schedule.max_steps_per_device, schedule.max_examples_per_device, each[::2], each[1::2])
    total += sum(steps_class(s, step) * step + rows_class(1 + e, example) * example for s, e, step, example in sizes)
    return total * (_IN_FLIGHT if schedule.num_waves > 1 else 1)


def step_bytes(sequences: ClientSequences, lanes: int) -> int:
    """The bytes of the index of one step."""
    return lanes * sequences.batch_size * 4


def example_bytes(sequences: ClientSequences) -> int:
    """The bytes of one example."""
    lead = int(is_batched(sequences.element_type))
    leaves = jax.tree.leaves(types.tree_of_types(sequences.element_type))
    return sum(int(np.prod(leaf.shape[lead:])) * leaf.dtype.itemsize for leaf in leaves)


def _cut(upto: np.ndarray, budget: float) -> np.ndarray:
    """The ranks at which waves begin and end: each has as many blocks as fit `budget` bytes on every device, or one."""
    last = len(upto) - 1
    edges = [0]
    while edges[-1] < last:
        here = edges[-1]
        fits = min(int(np.searchsorted(column, column[here] + budget, side="right")) - 1 for column in upto.T)
        edges.append(min(max(fits, here + 1), last))
    return np.array(edges if last else [0, 0])
