"""One part of a split of every client's examples, computed when a client is read."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from fedjax_core.data import _batching, _hashing, _sources
from fedjax_core.data._ids import ClientIds
from fedjax_core.engine import ranges


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """A part of the examples of each client of another source; implements `ExampleSource`.

    It stores nothing per client, so creating it takes neither memory nor time, and memory-mapped data stay in their
    file.

    Attributes:
      source: the examples that are split.
      ids: the ids of the source's clients, by number.
      fraction: share of a client's examples in the first part.
      seed: uint64 `[1]`, draws the first part; None takes the first examples.
      second: whether this is the second part.
    """

    source: _sources.ExampleSource
    ids: ClientIds
    fraction: float
    seed: np.ndarray | None
    second: bool

    @property
    def is_thread_safe(self) -> bool:
        return _sources.is_thread_safe(self.source)

    @property
    def element(self) -> Any:
        return self.source.element

    @property
    def sizes(self) -> np.ndarray:
        return self._sizes

    @functools.cached_property
    def _sizes(self) -> np.ndarray:
        return self._of_part(self.source.sizes)

    def sizes_of(self, clients: np.ndarray) -> np.ndarray:
        return self._of_part(_sources.sizes_of(self.source, clients))

    def _of_part(self, sizes: np.ndarray) -> np.ndarray:
        first = share(self.fraction, sizes)
        return sizes - first if self.second else first

    def examples(self, client: int) -> Any:
        if self.seed is not None:
            rows = self._rows(np.array([client]))
        else:
            first = int(share(self.fraction, _sources.sizes_of(self.source, np.array([client])))[0])
            rows = slice(first, None) if self.second else slice(first)  # a slice is a view, which copies nothing
        return jax.tree.map(lambda a: a[rows], self.source.examples(client))

    def read(self, clients: np.ndarray, out: Any) -> None:
        _sources.read_rows(self.source, clients, self.sizes_of(clients), self._rows(clients), out)

    def read_rows(self, clients: np.ndarray, sizes: np.ndarray, rows: np.ndarray, out: Any) -> None:
        """See `_sources.read_rows`."""
        whole = self.sizes_of(clients)
        rows = self._rows(clients)[np.repeat(np.cumsum(whole) - whole, sizes) + rows]
        _sources.read_rows(self.source, clients, sizes, rows, out)

    def _rows(self, clients: np.ndarray) -> np.ndarray:
        """Which examples are in this part, counted within each client, ascending, client after client."""
        sizes = _sources.sizes_of(self.source, clients)
        first = share(self.fraction, sizes)
        if self.seed is None:
            begin, number = (first, sizes - first) if self.second else (np.zeros_like(first), first)
            return ranges(begin, number)
        positions = ranges(np.zeros_like(sizes), sizes)
        seeds = _hashing.fold(self.seed, self.ids.take(clients).digests)
        shuffled = _batching.shuffled(sizes, seeds, None)
        second = np.empty(len(positions), bool)
        second[np.repeat(np.cumsum(sizes) - sizes, sizes) + shuffled] = positions >= np.repeat(first, sizes)
        return positions[second == self.second]


def share(fraction: float, count: np.ndarray) -> np.ndarray:
    """`count * fraction`, rounded to the nearest integer, halves up, int64."""
    return np.floor(count * fraction + 0.5).astype(np.int64)
