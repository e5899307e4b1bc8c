"""Sources: where the examples of a population are stored, and how the engine reads them."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

from fedjax_core._own_errors import noted
from fedjax_core.data import _examples
from fedjax_core.engine import ranges


class ExampleSource(Protocol):
    """The examples of `N` numbered clients: all that `FederatedData` needs from a store.

    A source is read by the thread that calls the computation (or `prefetch`, or that looks at the data), one read after
    another, so it may hold a connection of SQLite or an open file. If it may be read by several threads at once, let it
    say so with an attribute `is_thread_safe = True`: the clients of several devices are then read side by side.

    Example: clients whose examples are computed when they are read.

      >>> class Ramps:
      ...     element = {"x": jax.ShapeDtypeStruct((), np.float32)}
      ...     sizes = np.array([2, 3])
      ...     def examples(self, client):
      ...         return {"x": np.arange(self.sizes[client], dtype=np.float32)}
      ...     def read(self, clients, out):
      ...         np.concatenate([self.examples(c)["x"] for c in clients], out=out["x"])
      >>> from fedjax_core import data as fd
      >>> data = fd.FederatedData(["ada", "bob"], Ramps())
      >>> data, data["bob"]["x"]
      (FederatedData(2 clients with 5 examples of <x=float32[?]>), array([0., 1., 2.], dtype=float32))
    """

    @property
    def element(self) -> Any:
        """A pytree with the structure of one example, whose leaves are `jax.ShapeDtypeStruct`."""
        ...

    @property
    def sizes(self) -> np.ndarray:
        """The number of examples of each client, int64 `[N]`."""
        ...

    def examples(self, client: int) -> Any:
        """The examples of one client: a pytree like `element`, of arrays `[sizes[client], ...]`."""
        ...

    def read(self, clients: np.ndarray, out: Any) -> None:
        """Copies the examples of `clients` (int64 `[C]`) one after another into the arrays of `out`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Flat:
    """Examples in memory, where each client's examples are consecutive rows of the same arrays.

    Attributes:
      arrays: a pytree of arrays `[rows, ...]`.
      starts: int64 `[N]`, each client's first row.
      sizes: int64 `[N]`, each client's number of rows.
    """

    arrays: Any
    starts: np.ndarray
    sizes: np.ndarray

    @property
    def is_thread_safe(self) -> bool:
        return True

    @property
    def element(self) -> Any:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), self.arrays)

    def examples(self, client: int) -> Any:
        rows = slice(self.starts[client], self.starts[client] + self.sizes[client])
        return jax.tree.map(lambda a: _read_only(a[rows]), self.arrays)

    def read(self, clients: np.ndarray, out: Any) -> None:
        rows = ranges(self.starts[clients], self.sizes[clients])
        self._take(rows, out)

    def read_rows(self, clients: np.ndarray, sizes: np.ndarray, rows: np.ndarray, out: Any) -> None:
        """See `read_rows`."""
        self._take(np.repeat(self.starts[clients], sizes) + rows, out)

    def _take(self, rows: np.ndarray, out: Any) -> None:
        if len(rows):
            jax.tree.map(lambda a, o: np.take(a, rows, axis=0, out=o, mode="clip"), self.arrays, out)


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def is_thread_safe(source: ExampleSource) -> bool:
    """Whether several threads may read a source at once; one that does not say so is read by one thread."""
    return bool(getattr(source, "is_thread_safe", False))


def sizes_of(source: ExampleSource, clients: np.ndarray) -> np.ndarray:
    """The number of examples of some clients, int64 `[C]`; a `Split` computes it without the sizes of all clients."""
    of_some = getattr(source, "sizes_of", None)
    return source.sizes[clients] if of_some is None else of_some(clients)


def read_rows(source: ExampleSource, clients: np.ndarray, sizes: np.ndarray, rows: np.ndarray, out: Any) -> None:
    """Copies some examples of each of `clients` into the arrays of `out`.

    Args:
      source: the examples. If the source has no `read_rows` of its own, all examples of each client are read.
      clients: int64 `[C]`.
      sizes: int64 `[C]`, number of examples to copy of each client.
      rows: int64 `[sum(sizes)]`, which examples to copy, counted within each client, client after client.
      out: a pytree like `element`, of arrays with `sum(sizes)` rows.
    """
    own = getattr(source, "read_rows", None)
    if own is not None:
        return own(clients, sizes, rows, out)
    targets, end = jax.tree.leaves(out), 0
    for client, size in zip(clients.tolist(), sizes.tolist()):
        start, end = end, end + size
        for target, leaf in zip(targets, jax.tree.leaves(source.examples(client))):
            target[start:end] = leaf[rows[start:end]]


@dataclasses.dataclass(frozen=True, eq=False)
class Mapped:
    """The clients of another source, whose examples pass through a function whenever they are read.

    Attributes:
      source: the examples that `fn` takes.
      fn: examples of one client -> examples of one client, with as many rows.
      element: a pytree like one example of `fn`'s results.
      owner: client number -> how an error names the client.
    """

    source: ExampleSource
    fn: Callable[[Any], Any]
    element: Any
    owner: Callable[[int], str]

    @property
    def is_thread_safe(self) -> bool:
        return is_thread_safe(self.source)

    @property
    def sizes(self) -> np.ndarray:
        return self.source.sizes

    def sizes_of(self, clients: np.ndarray) -> np.ndarray:
        return sizes_of(self.source, clients)

    def examples(self, client: int) -> Any:
        owner = f"map: {self.owner(client)}"
        examples = self.source.examples(client)
        result = mapped_examples(self.fn, examples, len(jax.tree.leaves(examples)[0]), owner)
        reference = "the examples that fn returned at first"
        leaves = _examples.check_fields(result, self.element, owner, reference)
        names = _examples.field_names(self.element)
        for leaf, expected, name in zip(leaves, jax.tree.leaves(self.element), names):
            _examples.check_like(leaf, expected, f"{owner}: {_examples.field_of(name)}", reference)
        return jax.tree.unflatten(jax.tree.structure(self.element), leaves)

    def read(self, clients: np.ndarray, out: Any) -> None:
        targets, end = jax.tree.leaves(out), 0
        for client, size in zip(clients.tolist(), self.sizes_of(clients).tolist()):
            start, end = end, end + size
            for target, leaf in zip(targets, jax.tree.leaves(self.examples(client))):
                target[start:end] = leaf


def mapped_examples(fn: Callable, examples: Any, num_rows: int, owner: str) -> Any:
    """Applies `fn` to a client's examples and converts the result to canonical arrays.

    Raises:
      ValueError: the result has another number of rows than `num_rows`, or no fields.
    """
    with noted(f"in the function given to {owner}"):
        result = fn(examples)
    leaves, treedef = _examples.flatten(result)
    if not leaves:
        raise ValueError(
            f"{owner}: fn must return a dict of arrays, got {result!r}; write return {{'x': examples['x'] / 255}}"
        )
    names = _examples.field_names(result)
    leaves = [_examples.canonical(v, f"{owner}: {_examples.field_of(n)}") for v, n in zip(leaves, names)]
    for leaf, name in zip(leaves, names):
        if len(leaf) != num_rows:
            raise ValueError(
                f"{owner}: {_examples.field_of(name)} came out with {len(leaf)} rows of {num_rows}; fn must keep "
                "the number of rows, since sizes are known without reading; to drop or add examples build new "
                "data: FederatedData.from_clients({i: fn(examples) for i, examples in data.items()})"
            )
    return jax.tree.unflatten(treedef, leaves)
