"""The schedule: which client runs where and when, a function of the cohort alone.

Clients are sorted by (steps, identity) and cut into blocks of `L` lanes, so that the clients of a
block take nearly the same number of steps. Blocks are assigned to the `V` leaves of a tree (see `_tree`): longest
first, each goes to the half of the leaves with the least work, and so on within each half. A device runs a consecutive
range of leaves, in order. A wave is a consecutive range of the blocks of every device, as many as the memory budget
holds. The bits of a result depend neither on where the devices' ranges are cut nor on where the waves are.

Axis letters: `W` waves, `D` devices, `V` leaves, `N` blocks of the cohort, `L` lanes, `C` clients.
"""

import dataclasses
import math

import jax
import numpy as np

from fedjax_core import types
from fedjax_core.engine._cohort import ClientSequences, Cohort
from fedjax_core.engine._config import Layout
from fedjax_core.engine._tree import GROUP, device_edges
from fedjax_core.language.graph import is_batched

_GRID = 1.5
_GRID_OF_STEPS = 4.0  # a step is only a few integers
# The grid begins where padding begins to cost something: every size below would be one more program to compile.
_FREE_BYTES = 2**16
_SMALLEST, _LARGEST_FIRST = 8, 128
# Where the number of clients varies most from round to round, every second size of the grid on which blocks are padded:
# a program that takes blocks to rows is compiled for each pair.
_FEW_ROWS = (8, 18, 41)
_IN_FLIGHT = 2  # the wave that computes and the one that is read meanwhile


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """Which clients run where and when.

    Attributes:
      clients: int32 `[N, L]`: positions in the cohort, -1 for none; ordered by leaf.
      leaves: int64 `[V + 1]`: the blocks at which the leaves begin and end.
      devices: int64 `[D + 1]`: the leaves at which the devices begin and end.
      edges: int64 `[W + 1, D]`: the blocks at which the waves of a device begin and end.
      max_blocks_per_device: the largest number of blocks of a device in a wave.
      max_steps_per_device: per sequence of the cohort, the largest number of steps of a device in a wave.
      max_examples_per_device: per sequence, the largest number of examples of a device in a wave.
    """

    clients: np.ndarray
    leaves: np.ndarray
    devices: np.ndarray
    edges: np.ndarray
    max_blocks_per_device: int
    max_steps_per_device: tuple[int, ...]
    max_examples_per_device: tuple[int, ...]

    @property
    def num_waves(self) -> int:
        """`W`, at least one."""
        return len(self.edges) - 1

    @property
    def occupied(self) -> np.ndarray:
        """bool `[V]`: which leaves have a block."""
        return np.diff(self.leaves) > 0

    def blocks(self, wave: int, device: int) -> np.ndarray:
        """int32 `[blocks, L]`: the clients of a device in a wave."""
        return self.clients[self.edges[wave, device] : self.edges[wave + 1, device]]

    def groups(self, wave: int, device: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks of a device in a wave by groups (see `GROUP`).

        Returns:
          int64 `[n]` twice: the leaf of each group, and the block behind its last one in this wave.
        """
        begin, end = self.edges[wave : wave + 2, device]
        block = np.arange(begin, end)
        leaf = np.searchsorted(self.leaves, block, side="right") - 1
        last = (block + 1 - self.leaves[leaf]) % GROUP == 0
        last |= (block + 1 == self.leaves[leaf + 1]) | (block + 1 == end)
        return leaf[last], block[last] + 1


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


def num_rows(num_clients: int) -> int:
    """The padded number of rows of a value that has a row for each client.

    The sizes are few, so that a sampler that draws a random number of clients meets two or three of them.

    Example:

    >>> [num_rows(n) for n in (0, 9, 33, 42, 100)]
    [8, 18, 41, 62, 140]
    """
    return next((size for size in _FEW_ROWS if num_clients <= size), size_class(num_clients))


def batch_width(largest: int, batch_size: int) -> int:
    """The size to which batches are padded, if the largest has `largest` examples and a full one `batch_size`.

    A batch size beyond the data thus costs nothing, and most cohorts still share one program.

    Example:

    >>> [batch_width(largest, 20) for largest in (3, 15, 20)], batch_width(15, 10**6)
    ([8, 18, 20], 18)
    """
    return min(size_class(largest), batch_size)


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
    """Cuts the clients into blocks, lays the blocks on the leaves, and cuts the leaves into devices and waves."""
    sequences = sequences_of(cohort)
    steps = sum((s.num_steps for s in sequences), np.zeros(len(cohort), np.int64))
    clients, leaf = _blocks(steps, cohort.identity, layout)
    leaves = np.concatenate([[0], np.cumsum(np.bincount(leaf, minlength=layout.leaves))])
    # One more than its steps, as where blocks are laid on leaves.
    work = np.bincount(leaf, 1.0 + of_clients(steps, clients[:, :1])[:, 0], minlength=layout.leaves)
    devices = device_edges(work, len(layout.devices))
    upto = _cumulated(sequences, clients)
    # Less than the budget: two waves are in memory at once, and their sizes are rounded up to the grid.
    budget = layout.data_budget / (_IN_FLIGHT * _GRID)
    edges = _cut(upto @ _bytes_each(cohort, layout.lanes), leaves[devices], budget)
    largest = np.diff(upto[edges], axis=0).max((0, 1)).tolist()
    return Schedule(clients, leaves, devices, edges, largest[0], tuple(largest[1::2]), tuple(largest[2::2]))


def _blocks(steps: np.ndarray, identity: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The blocks, int32 `[N, L]`, and the leaf of each, `[N]`, in the order of the leaves."""
    blocks = np.full((-(-len(steps) // layout.lanes), layout.lanes), -1, np.int32)
    # Ties in the number of steps go by identity: a client's place in the cohort must not decide where it is summed.
    blocks.reshape(-1)[: len(steps)] = np.lexsort((identity, -steps))
    leaf = _balanced(steps[blocks[:, 0]] if len(blocks) else steps, layout.leaves)
    # Stable, since the order of a leaf's blocks decides the last bits, and NumPy's usual sort differs by machine.
    by_leaf = np.argsort(leaf, kind="stable")
    return blocks[by_leaf], leaf[by_leaf]


def _balanced(steps: np.ndarray, leaves: int) -> np.ndarray:
    """Each block's leaf, such that consecutive leaves together have nearly equal work."""
    if leaves == 1 or not len(steps):
        return np.zeros(len(steps), np.int32)
    half = _longest_first(steps)
    leaf = half * (leaves // 2)
    for h in (0, 1):
        leaf[half == h] += _balanced(steps[half == h], leaves // 2)
    return leaf


def _longest_first(steps: np.ndarray) -> np.ndarray:
    """Each block's half: in order, each block goes to the half with the least work so far."""
    ahead, chosen = 0, np.empty(len(steps), np.int32)
    for block, cost in enumerate(steps.tolist()):
        half = ahead > 0
        chosen[block] = half
        # One more than its steps, so that blocks without steps are spread over the halves too.
        ahead += -1 - cost if half else 1 + cost
    return chosen


def _cumulated(sequences: list[ClientSequences], blocks: np.ndarray) -> np.ndarray:
    """int64 `[N + 1, Q]`: the totals over the blocks before each one.

    The columns are blocks and, per sequence, steps and examples. They are computed one after another, since there may
    be a million blocks.
    """
    table = np.zeros((len(blocks) + 1, 1 + 2 * len(sequences)), np.int64)
    table[1:, 0] = 1
    for q, s in enumerate(sequences):
        table[1:, 1 + 2 * q] = of_clients(s.num_steps, blocks).max(1, initial=0)
        table[1:, 2 + 2 * q] = of_clients(s.num_examples, blocks).sum(1)
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
    return lanes * sequences.width * 4


def example_bytes(sequences: ClientSequences) -> int:
    """The bytes of one example."""
    lead = int(is_batched(sequences.element_type))
    leaves = jax.tree.leaves(types.tree_of_types(sequences.element_type))
    return sum(int(np.prod(leaf.shape[lead:])) * leaf.dtype.itemsize for leaf in leaves)


def _cut(upto: np.ndarray, devices: np.ndarray, budget: float) -> np.ndarray:
    """The blocks at which waves begin and end: each has as many as fit `budget` bytes on every device, or one.

    Args:
      upto: `[N + 1]`, the bytes of the blocks before each one.
      devices: `[D + 1]`, the blocks at which the devices begin and end.
      budget: bytes.

    Returns:
      int64 `[W + 1, D]`.
    """
    edges = [devices[:-1]]
    while len(edges) == 1 or (edges[-1] < devices[1:]).any():
        here = edges[-1]
        fits = np.searchsorted(upto, upto[here] + budget, side="right") - 1
        edges.append(np.minimum(np.maximum(fits, here + 1), devices[1:]))
    return np.stack(edges)
