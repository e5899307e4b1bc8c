"""Where the examples of a population lie, and how they come to the engine."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from fedjax_core.data import _examples


class ExampleSource(Protocol):
    """The examples of `N` numbered clients: all that `FederatedData` asks of a store.

    Attributes:
      element: a pytree like one example, whose leaves are `jax.ShapeDtypeStruct`.
      sizes: int64 `[N]`, the number of examples of each client.
    """

    element: Any
    sizes: np.ndarray

    def examples(self, client: int) -> Any:
        """The examples of one client: a pytree like the element's, `[sizes[client], ...]`."""
        ...

    def read(self, clients: np.ndarray, out: Any) -> None:
        """Copies the examples of `clients` (int64 `[C]`) one after another into the arrays of `out`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Flat:
    """Examples in memory; each client's are consecutive rows of the same arrays.

    Attributes:
      arrays: a pytree of arrays `[rows, ...]`.
      starts: int64 `[N]`, each client's first row.
      sizes: int64 `[N]`.
    """

    arrays: Any
    starts: np.ndarray
    sizes: np.ndarray

    @property
    def element(self) -> Any:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), self.arrays)

    def examples(self, client: int) -> Any:
        rows = slice(self.starts[client], self.starts[client] + self.sizes[client])
        return jax.tree.map(lambda a: _read_only(a[rows]), self.arrays)

    def read(self, clients: np.ndarray, out: Any) -> None:
        rows = ranges(self.starts[clients], self.sizes[clients])
        if len(rows):
            jax.tree.map(lambda a, o: np.take(a, rows, axis=0, out=o, mode="clip"), self.arrays, out)


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Concatenates `arange(start, start + size)` over all pairs, int64 `[sum(sizes)]`."""
    offsets = np.cumsum(sizes) - sizes
    return np.repeat(starts - offsets, sizes) + np.arange(sizes.sum())


@dataclasses.dataclass(frozen=True, eq=False)
class Mapped:
    """Another source's clients, each passed through a function whenever it is read.

    Attributes:
      source: the examples that go in.
      fn: examples of one client -> examples of one client, with as many rows.
      element: what comes out.
      owner: client number -> how an error names the client.
    """

    source: ExampleSource
    fn: Callable[[Any], Any]
    element: Any
    owner: Callable[[int], str]

    @property
    def sizes(self) -> np.ndarray:
        return self.source.sizes

    def examples(self, client: int) -> Any:
        owner = f"map: {self.owner(client)}"
        result = mapped_examples(self.fn, self.source.examples(client), int(self.sizes[client]), owner)
        reference = "the examples that fn returned at first"
        leaves = _examples.check_fields(result, self.element, owner, reference)
        names = _examples.field_names(self.element)
        for leaf, expected, name in zip(leaves, jax.tree.leaves(self.element), names):
            _examples.check_like(leaf, expected, f"{owner}: {_examples.field_of(name)}", reference)
        return jax.tree.unflatten(jax.tree.structure(self.element), leaves)

    def read(self, clients: np.ndarray, out: Any) -> None:
        _read_one_by_one(self, clients, out)


def mapped_examples(fn: Callable, examples: Any, num_rows: int, owner: str) -> Any:
    """Applies `fn` to a client's examples and makes canonical arrays of the result.

    Raises:
      ValueError: the result has another number of rows, or no fields.
    """
    leaves, treedef = _examples.flatten(result := fn(examples))
    if not leaves:
        raise ValueError(f"{owner}: fn must return a dict of arrays, got {result!r}")
    names = _examples.field_names(result)
    leaves = [_examples.canonical(v, f"{owner}: {_examples.field_of(n)}") for v, n in zip(leaves, names)]
    for leaf, name in zip(leaves, names):
        if len(leaf) != num_rows:
            raise ValueError(
                f"{owner}: {_examples.field_of(name)} came out with {len(leaf)} rows of {num_rows}; fn must keep "
                "the number of rows, since sizes are known without loading; to drop or add examples build the "
                "data anew: FederatedData.from_clients({i: fn(examples) for i, examples in data.items()})"
            )
    return jax.tree.unflatten(treedef, leaves)


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Some clients of another source, and of each of them some examples.

    Attributes:
      source: the examples chosen from.
      clients: int64 `[N]`, numbers of the source's clients.
      first: int64 `[N]`, the first example taken, in the client's order.
      sizes: int64 `[N]`, the number of examples taken.
      order: a permutation of the examples of each client, one client after another, or None.
    """

    source: ExampleSource
    clients: np.ndarray
    first: np.ndarray
    sizes: np.ndarray
    order: np.ndarray | None = None

    @property
    def element(self) -> Any:
        return self.source.element

    @functools.cached_property
    def _offsets(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(self.source.sizes[self.clients])])

    def examples(self, client: int) -> Any:
        rows = slice(self.first[client], self.first[client] + self.sizes[client])
        if self.order is not None:
            rows = self.order[self._offsets[client] : self._offsets[client + 1]][rows]
        return jax.tree.map(lambda a: a[rows], self.source.examples(self.clients[client]))

    def read(self, clients: np.ndarray, out: Any) -> None:
        if np.array_equal(self.sizes[clients], self.source.sizes[self.clients[clients]]) and self.order is None:
            self.source.read(self.clients[clients], out)
        else:
            _read_one_by_one(self, clients, out)


def _read_one_by_one(source: ExampleSource, clients: np.ndarray, out: Any) -> None:
    targets, end = jax.tree.leaves(out), 0
    for client in clients.tolist():
        start, end = end, end + int(source.sizes[client])
        for target, leaf in zip(targets, jax.tree.leaves(source.examples(client))):
            target[start:end] = leaf


def part(source: ExampleSource, clients, first, sizes, order=None) -> ExampleSource:
    """`Part(...)`, as rows of the same arrays where the examples are in memory."""
    if not isinstance(source, Flat):
        return Part(source, clients, first, sizes, order)
    if order is None:
        return Flat(source.arrays, source.starts[clients] + first, sizes)
    whole = source.sizes[clients]
    rows = np.repeat(source.starts[clients], whole) + order
    arrays = jax.tree.map(lambda a: np.take(a, rows, axis=0), source.arrays)
    return Flat(arrays, np.cumsum(whole) - whole + first, sizes)
