"""A population of clients and their examples."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedjax_core import _checks, types
from fedjax_core.data import _batching, _examples, _extra, _grouping, _hashing, _ids, _sources, _split
from fedjax_core.engine import Cohort, read_streams

_CHUNK = 1 << 15  # clients processed at a time, so that the arrays stay in the cache


class FederatedData(Mapping):
    """The examples of many clients: a mapping from client id to a dict of arrays.

    In memory, the examples of all clients are rows of the same arrays. `subset` and the splits are views: they copy no
    examples, and each client keeps its row in the population (`client_ids.rows`), which is the number that
    `federated_client_index` gives to a computation. `map` is applied when a client is read. Nothing is changed in
    place, so several threads may share data in memory.

    Arrays have the dtypes that JAX would give them: `float64` becomes `float32` and `int64` becomes `int32` unless
    `jax_enable_x64` is on.

    Args:
      ids: the clients' ids, distinct strings or integers.
      source: the examples, numbered in the order of `ids`. `from_clients` and `from_arrays` build a source from
        arrays; any object with the four members of `ExampleSource` will do.

    Raises:
      TypeError: an id is neither a string nor an integer.
      ValueError: an id occurs twice, or `source` has another number of clients.

    Example:
      >>> data = FederatedData.from_clients({
      ...     "ada": {"x": np.zeros((3, 2)), "y": [0, 1, 1]},
      ...     "bob": {"x": np.ones((1, 2)), "y": [0]},
      ... })
      >>> data
      FederatedData(2 clients with 4 examples of <x=float32[?,2],y=int32[?]>)
      >>> data.client_ids, data.sizes, data["ada"]["y"]
      (ClientIds('ada', 'bob'), array([3, 1]), array([0, 1, 1], dtype=int32))
    """

    def __init__(self, ids: Iterable, source: _sources.ExampleSource):
        self._ids = _ids.ClientIds(ids)
        self._source = source
        if len(self._ids) != len(source.sizes):
            raise ValueError(
                f"FederatedData needs one id per client, got {len(self._ids)} ids for {len(source.sizes)} clients; "
                f"use FederatedData(range({len(source.sizes)}), source)"
            )

    def _with(self, ids: _ids.ClientIds, source: _sources.ExampleSource) -> "FederatedData":
        """Data of some clients of the same population, whose numbers in `source` are those in this data's source."""
        data = object.__new__(FederatedData)
        data._ids, data._source = ids, source
        return data

    @classmethod
    def from_clients(cls, clients: Mapping | Iterable) -> "FederatedData":
        """Builds the data from what each client holds.

        Args:
          clients: a dict from client id to examples, or a list or generator of examples, which get the ids
            0, 1, ... Examples are a dict of arrays (or any pytree of arrays) that share their first dimension, with
            the fields in any order. A client may have no examples (arrays of length 0).

        Raises:
          ValueError: there is no client, a client's fields differ in length, or its fields or their shapes are
            not those of the first client.
          TypeError: a field does not hold numbers, or its dtype is not that of the first client.

        Example:
          >>> FederatedData.from_clients([{"x": np.zeros((5, 2))}, {"x": np.zeros((0, 2))}]).sizes
          array([5, 0])
          >>> FederatedData.from_clients({"a": {"x": [1.0], "y": [1, 2]}})
          Traceback (most recent call last):
          ValueError: client 'a': field 'y' has 2 rows and field 'x' has 1; every field needs one row per example
        """
        if not isinstance(clients, Mapping | list | tuple):
            clients = read_streams(clients, "from_clients(clients)")
        if isinstance(clients, Mapping):
            ids, examples = _ids.ClientIds(clients), list(clients.values())
        elif isinstance(clients, list | tuple):
            ids, examples = _ids.ClientIds(range(len(clients))), clients
        else:
            raise TypeError(
                "from_clients takes a dict from client id to examples, or a list of examples, got "
                f"{type(clients).__name__}; for arrays with the rows of all clients use "
                "from_arrays(arrays, client_ids)"
            )
        return cls(ids, _grouping.joined(ids, examples))

    @classmethod
    def from_arrays(cls, arrays: Any, client_ids: Sequence | np.ndarray) -> "FederatedData":
        """Builds the data from the rows of all clients, each labelled with its client.

        Args:
          arrays: a dict (or any pytree) of arrays `[rows, ...]`. Arrays whose rows are already grouped by client
            are not copied, so do not write to them afterwards.
          client_ids: `[rows]`, the id of the client that holds each row, in any order. The clients are sorted by
            id, integers before strings, so the same ids always make the same population. The rows of a client keep
            their order.

        Raises:
          ValueError: the fields and `client_ids` differ in length, or an integer does not fit the narrowed type.
          TypeError: a field does not hold numbers, or an id is neither a string nor an integer.

        Example:
          >>> data = FederatedData.from_arrays({"x": [10, 11, 12]}, ["bob", "ada", "bob"])
          >>> data.client_ids, data["bob"]["x"]
          (ClientIds('ada', 'bob'), array([10, 12], dtype=int32))
        """
        ids, owners = _grouping.numbered(client_ids)
        ids = _ids.ClientIds(ids)
        return cls(ids, _grouping.grouped(arrays, owners, ids))

    @property
    def client_ids(self) -> _ids.ClientIds:
        """The clients' ids in order: a lazy sequence of strings and Python integers.

        Example:
          >>> train, _ = FederatedData.from_clients([{"x": [0.0]}] * 5).split_clients(0.4, key=jax.random.key(0))
          >>> train.client_ids, train.client_ids.population
          (ClientIds(0, 2), ClientIds(0, 1, 2, 3, 4))
        """
        return self._ids

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """The number of examples of each client, int64 `[len(self)]`. No example is read."""
        if self._ids.population is self._ids:
            return self._source.sizes
        return _sources.sizes_of(self._source, self._ids.rows)

    @property
    def element_type(self) -> types.Type:
        """The type of a client's examples and of each of its batches.

        Example:
          >>> FederatedData.from_clients([{"x": np.zeros((5, 784)), "y": [0, 1, 2, 3, 4]}]).element_type
          parse_type('<x=float32[?,784],y=int32[?]>')
        """
        return _batching.batch_type(self._source.element)

    def __getitem__(self, client_id: str | int) -> Any:
        """The examples of one client: a dict of arrays `[size, ...]`. Do not write to them.

        Raises:
          UnknownClientError: there is no such client. It is both a ValueError and a KeyError.
        """
        return self._source.examples(int(self._ids.find([client_id])[0]))

    def __contains__(self, client_id) -> bool:
        return client_id in self._ids

    def __iter__(self) -> Iterator:
        return iter(self.client_ids)

    def __len__(self) -> int:
        return len(self._ids)

    __eq__ = object.__eq__
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType]  # not all mappings are like `Mapping`

    def __repr__(self) -> str:
        return f"FederatedData({len(self)} clients with {self.sizes.sum()} examples of {self.element_type})"

    def map(self, fn: Callable[[Any], Any]) -> "FederatedData":
        """Preprocesses each client's examples when they are read.

        `fn` is called once right away, on the first client that has examples, to learn the type of its result, and
        again whenever a client is read.

        Args:
          fn: the examples of one client (a dict of arrays) -> a dict of arrays with as many rows. Fields, dtypes
            and the shape of an example may change. The result must depend on the argument alone. `fn` may be
            called from several threads if the examples are in memory.

        Raises:
          TypeError: `fn` is not a function.
          ValueError: this data has no clients, or `fn` changed the number of rows, now or when a client is read.

        Example:
          >>> data = FederatedData.from_clients({"ada": {"pixels": np.full((2, 4), 255, np.uint8)}})
          >>> data.map(lambda e: {"x": e["pixels"] / 255}).element_type
          parse_type('<x=float32[?,4]>')
        """
        _checks.check_function("data.map(fn)", fn, "of a client's examples", "write lambda examples: {**examples}")
        if not len(self):
            raise ValueError(
                "map needs at least one client to learn what fn returns, got none; map before taking the subset"
            )

        def owner(client: int) -> str:
            return _examples.owner_of(population[client])

        population, client = self._ids.population, self._first_with_examples()
        examples = self._source.examples(client)
        result = _sources.mapped_examples(fn, examples, len(jax.tree.leaves(examples)[0]), f"map: {owner(client)}")
        element = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), result)
        return self._with(self._ids, _sources.Mapped(self._source, fn, element, owner))

    def _first_with_examples(self) -> int:
        """The number of the first client that has examples; of the first client if none has."""
        for start in range(0, len(self), _CHUNK):
            clients = self._ids[start : start + _CHUNK].rows
            sizes = _sources.sizes_of(self._source, clients)
            if sizes.any():
                return int(clients[np.argmax(sizes > 0)])
        return int(self._ids[:1].rows[0])

    def subset(self, client_ids: Iterable) -> "FederatedData":
        """The data of some clients in the given order: a view, in which the clients keep their rows in the population.

        Raises:
          UnknownClientError: there is no such client.
          ValueError: a client occurs twice.

        Example:
          >>> data = FederatedData.from_clients([{"x": [1.0]}, {"x": [2.0]}, {"x": [3.0]}])
          >>> data.subset([2, 0]).client_ids, data.subset([2, 0]).client_ids.rows
          (ClientIds(2, 0), array([2, 0], dtype=int32))
        """
        return self._with(self._ids.subset(client_ids), self._source)

    def split_clients(self, fraction: float, *, key: jax.Array) -> tuple["FederatedData", "FederatedData"]:
        """Splits the population in two, for example to train on some clients and to test on the others.

        Which clients are drawn depends on the key and the ids, not on their order.

        Args:
          fraction: share of the clients in the first part, from 0 to 1. Their number is rounded, halves up.
          key: draws the clients.

        Returns:
          The data of the drawn clients and of the others, both in this data's order.

        Raises:
          TypeError: `fraction` is not a number.
          ValueError: `fraction` is not from 0 to 1.

        Example:
          >>> data = FederatedData.from_clients([{"x": [float(i)]} for i in range(10)])
          >>> train, test = data.split_clients(0.8, key=jax.random.key(0))
          >>> len(train), len(test)
          (8, 2)
        """
        fraction = _checked_fraction("split_clients", fraction)
        seed, tag = _hashing.seed(key, "split_clients"), np.empty(len(self), np.uint64)
        for start in range(0, len(self), _CHUNK):
            tag[start : start + _CHUNK] = _hashing.fold(seed, self._ids[start : start + _CHUNK].digests)
        chosen = _lowest(tag, int(_split.share(fraction, np.asarray(len(self)))))
        first, second = (self._ids.take(np.flatnonzero(here)) for here in (chosen, ~chosen))
        return self._with(first, self._source), self._with(second, self._source)

    def split_examples(
        self, fraction: float, *, key: jax.Array | None = None
    ) -> tuple["FederatedData", "FederatedData"]:
        """Splits the examples of every client in two. The split happens when a client is read; nothing is copied.

        Args:
          fraction: share of each client's examples in the first part, from 0 to 1. Their number is rounded, halves up.
          key: draws the examples of the first part. None takes the client's first ones, which splits by time if the
            examples are in chronological order.

        Returns:
          Two data sets with the same clients. Examples keep their order. A client may have no examples in one of them.

        Raises:
          TypeError: `fraction` is not a number.
          ValueError: `fraction` is not from 0 to 1.

        Example:
          >>> data = FederatedData.from_clients({"ada": {"x": [1, 2, 3, 4, 5]}, "bob": {"x": [6]}})
          >>> train, test = data.split_examples(0.8)
          >>> train["ada"]["x"], test["ada"]["x"], test.sizes
          (array([1, 2, 3, 4], dtype=int32), array([5], dtype=int32), array([1, 0]))
        """
        fraction = _checked_fraction("split_examples", fraction)
        seed = None if key is None else _hashing.seed(key, "split_examples")
        first, second = (
            _split.Split(self._source, self._ids.population, fraction, seed, part) for part in (False, True)
        )
        return self._with(self._ids, first), self._with(self._ids, second)

    def cohort(
        self,
        client_ids: Iterable,
        batching: _batching.Batching,
        max_steps: int | np.ndarray | None = None,
        *,
        extra: Mapping[str, Any] | None = None,
        key: jax.Array | None = None,
    ) -> Cohort:
        """The clients of one round, as an argument for a computation. No examples are read yet.

        Args:
          client_ids: the ids of the clients. A client may occur more than once and is then shuffled independently
            each time.
          batching: how each client's examples become batches.
          max_steps: the limit on each client's batches, of which the first are taken: an integer for all clients, or
            an array with one for each of `client_ids`, for example from `Effort.num_steps`. A weight by examples
            counts the examples in the batches taken.
          extra: values of each client beside its examples, for `federated_client_value`: a dict from name to either
            an array with one row for each of `client_ids`, in this order, or a dict from client id to value.
          key: draws the shuffling, which depends on the key and the client, not on the client's place in the cohort.

        Raises:
          UnknownClientError: there is no such client. It is both a ValueError and a KeyError.
          ValueError: `batching` shuffles and there is no key, or it repeats endlessly and there is no `max_steps`; a
            limit is negative; `max_steps` or `extra` does not have one entry per client.
          TypeError: `batching` is not a `Batching`, a limit is not an integer, or `extra` holds something other than
            numbers and booleans.

        Example:
          >>> from fedjax_core.data import Batching
          >>> data = FederatedData.from_clients({"ada": {"x": [1.0, 2.0]}, "bob": {"x": [3.0]}})
          >>> data.cohort(["bob", "ada"], Batching(batch_size=20, shuffle=True), key=jax.random.key(0))
          Cohort(2 clients of <x=float32[?]>*)
        """
        if not isinstance(batching, _batching.Batching):
            raise TypeError(f"cohort needs a Batching, got {batching!r}; use Batching(batch_size=20)")
        if batching.shuffle and key is None:
            raise ValueError(
                f"{batching} shuffles and needs a key, got none; use "
                "data.cohort(client_ids, batching, key=jax.random.key(0)), with a different key in every round"
            )
        clients = self._ids.find(client_ids)
        ids = self._ids if client_ids is self._ids else self._ids.population.take(clients)
        limits = _batching.step_limits(batching, max_steps, len(clients))
        seed = _hashing.seed(key, "cohort") if batching.shuffle else None
        batches = _batching.BatchedClients(self._source, clients, ids.digests, batching, seed, limits)
        return Cohort(ids, batches, clients, batches.digests, _extra.extra_rows(extra, ids), len(ids.population))


def _lowest(tag: np.ndarray, count: int) -> np.ndarray:
    """Marks the `count` lowest tags, bool `[len(tag)]`; of equal tags the first."""
    if not 0 < count < len(tag):
        return np.full(len(tag), count > 0)
    last = np.partition(tag, count - 1)[count - 1]
    chosen = tag < last
    chosen[np.flatnonzero(tag == last)[: count - int(chosen.sum())]] = True
    return chosen


def _checked_fraction(name: str, fraction: float) -> float:
    call, repair = f"{name}(fraction=...)", "write fraction=0.8"
    return float(_checks.checked_number(call, fraction, _checks.FROM_0_TO_1, repair))
