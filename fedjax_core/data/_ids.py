"""The ids of the clients of a population."""

import difflib
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, overload

import numpy as np

from fedjax_core.data import _id_stores

_NUM_COMPARED = 10_000  # ids that are searched for close matches to put into an error message
_NUM_SHOWN = 6
_CHUNK = 1 << 13  # ids turned into Python objects at a time


class UnknownClientError(ValueError, KeyError):
    """A client id that does not occur in the data. It is both a ValueError and a KeyError.

    Example:
      >>> ClientIds(["ada", "bob"]).find(["adda"])
      Traceback (most recent call last):
      fedjax_core.data._ids.UnknownClientError: no client 'adda' in this data of 2 clients; the closest ids are 'ada'
    """

    __str__ = ValueError.__str__


class ClientIds(Sequence):
    """A lazy sequence of client ids: strings and Python integers, each created when it is accessed.

    `data.client_ids` and the `ids` of a cohort are such sequences. Slices, samples, subsets and splits are views: they
    hold only the rows of their clients in the population. Ten million numbered clients take no memory, and clients
    named in an array take only that array. Any sequence with the same ids in the same order is equal, including a
    list or a tuple.

    Args:
      ids: the ids of a population, distinct strings or integers. A range or an array is not copied, so an array may
        be memory-mapped from a file; do not write to it afterwards.

    Raises:
      TypeError: an id is neither a string nor an integer, or `ids` is a single id.
      ValueError: an id occurs twice, or there are 2**31 clients or more.

    Example:
      >>> ids = ClientIds(range(10_000_000))
      >>> ids, ids[-1], ids[5:8], 12 in ids
      (ClientIds(0, 1, 2, ..., 9999999; 10000000 clients), 9999999, ClientIds(5, 6, 7), True)
      >>> ids[5:8] == [5, 6, 7], ids[5:8].rows
      (True, array([5, 6, 7], dtype=int32))
    """

    def __init__(self, ids: Iterable = ()):
        held = ids._store.take(ids.rows) if isinstance(ids, ClientIds) else _id_stores.compact(ids)
        self._store, self._rows = _id_stores.store_of(held), None
        if len(self) >= 2**31:
            raise ValueError(
                f"a population must have fewer than 2**31 clients, got {len(self)}; split them into several populations"
            )
        repeated = self._store.repeated()
        if repeated is not None:
            raise ValueError(
                f"client ids must differ from one another, got {self[repeated]!r} twice; to group the rows of each "
                "client use FederatedData.from_arrays(arrays, client_ids)"
            )

    def _view(self, rows: np.ndarray) -> "ClientIds":
        view = object.__new__(ClientIds)
        view._store, view._rows = self._store, np.asarray(rows, np.int32)
        return view

    @property
    def population(self) -> "ClientIds":
        """The ids of the whole population that these ids belong to.

        Example:
          >>> ClientIds(["ada", "bob", "eve"])[1:].population
          ClientIds('ada', 'bob', 'eve')
        """
        if self._rows is None:
            return self
        everyone = object.__new__(ClientIds)
        everyone._store, everyone._rows = self._store, None
        return everyone

    @property
    def rows(self) -> np.ndarray:
        """Each client's row in the population, int32 `[len(self)]`. Subsets and splits keep it.

        Example:
          >>> ClientIds(["ada", "bob", "eve"]).subset(["eve", "ada"]).rows
          array([2, 0], dtype=int32)
        """
        return np.arange(len(self), dtype=np.int32) if self._rows is None else self._rows

    @property
    def digests(self) -> np.ndarray:
        """A 64-bit hash of each id, from which all of a client's randomness derives, uint64 `[len(self)]`."""
        return self._store.digests(slice(None) if self._rows is None else self._rows)

    def __len__(self) -> int:
        return len(self._store) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, place: int) -> str | int: ...
    @overload
    def __getitem__(self, place: slice) -> "ClientIds": ...
    def __getitem__(self, place):
        if isinstance(place, slice):
            everyone = np.arange(*place.indices(len(self)), dtype=np.int32)
            return self.take(everyone)
        return self._plain(np.array([range(len(self))[place]]))[0]

    def take(self, places: np.ndarray) -> "ClientIds":
        """The ids at some places, as a view.

        Args:
          places: integers `[n]` from 0 to `len(self) - 1`; a place may occur more than once.

        Example:
          >>> ClientIds(["ada", "bob", "eve"]).take(np.array([2, 2, 0]))
          ClientIds('eve', 'eve', 'ada')
        """
        return self._view(places if self._rows is None else self._rows[places])

    def _plain(self, places: np.ndarray) -> Sequence:
        return _id_stores.plain(self._store.take(places if self._rows is None else self._rows[places]))

    def __iter__(self) -> Iterator:
        for start in range(0, len(self), _CHUNK):
            yield from self._plain(np.arange(start, min(start + _CHUNK, len(self))))

    def __add__(self, other: Sequence) -> tuple:
        return (*self, *other)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self._store.take(self.rows), dtype)

    def __contains__(self, client_id) -> bool:
        try:
            return bool(self._places([client_id])[0] >= 0)
        except TypeError:
            return False

    def index(self, client_id, *bounds) -> int:
        """The first place of an id; see `list.index`."""
        place = -1 if bounds or client_id not in self else int(self._places([client_id])[0])
        return place if place >= 0 else super().index(client_id, *bounds)

    def __eq__(self, other) -> bool:
        if isinstance(other, ClientIds) and other._store is self._store:
            return len(other) == len(self) and np.array_equal(other.rows, self.rows)
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(other) == len(self) and all(a == b for a, b in zip(self, other))

    __hash__: ClassVar[None] = None

    def __repr__(self) -> str:
        if len(self) <= _NUM_SHOWN:
            return f"ClientIds({', '.join(map(repr, self))})"
        first = ", ".join(map(repr, self[:3]))
        return f"ClientIds({first}, ..., {self[-1]!r}; {len(self)} clients)"

    def subset(self, ids: Iterable) -> "ClientIds":
        """Some of these ids in the given order, as a view.

        Raises:
          UnknownClientError: an id is not among these.
          ValueError: an id occurs twice.

        Example:
          >>> ClientIds(["ada", "bob", "eve"]).subset(["eve", "ada"])
          ClientIds('eve', 'ada')
        """
        rows = self.find(ids)
        twice = np.flatnonzero(np.bincount(rows)[rows] > 1)
        if len(twice):
            name = self.population[int(rows[twice[0]])]
            raise ValueError(f"a subset must have each client once, got {name!r} twice; leave one of them out")
        return self._view(rows)

    def find(self, ids: Iterable) -> np.ndarray:
        """The row in the population of each of `ids`, int32 `[len(ids)]`. An id may occur more than once.

        Raises:
          UnknownClientError: an id is not among these.
          TypeError: an id is neither a string nor an integer.

        Example: the rows are those in the population, not the places among these ids.

          >>> ClientIds(["ada", "bob", "eve"])[1:].find(["eve", "bob"])
          array([2, 1], dtype=int32)
        """
        ids = ids if isinstance(ids, ClientIds) else _id_stores.compact(ids)
        if isinstance(ids, ClientIds) and ids._store is self._store and (self._rows is None or self._rows is ids._rows):
            return ids.rows
        places = self._places(ids)
        unknown = np.flatnonzero(places < 0)
        if len(unknown):
            raise UnknownClientError(self._unknown(ids[int(unknown[0])]))
        return places.astype(np.int32) if self._rows is None else self._rows[places]

    def _places(self, ids) -> np.ndarray:
        """The first place of each id, int64; -1 for an id that is not among these."""
        if isinstance(ids, ClientIds):
            same = ids._store is self._store
            rows = ids.rows if same else self._store.find(ids._store.take(ids.rows))
        else:
            rows = self._store.find(_id_stores.compact(ids))
        return rows if self._rows is None else _id_stores.places_of(self._rows, self._order, rows)

    @functools.cached_property
    def _order(self) -> np.ndarray | None:
        """The places sorted by row; None if the rows already ascend."""
        assert self._rows is not None  # only views look places up
        ascends = (self._rows[1:] >= self._rows[:-1]).all()
        return None if ascends else np.argsort(self._rows, kind="stable")

    def _unknown(self, client_id) -> str:
        texts = {str(i): i for i in reversed(tuple(self[:_NUM_COMPARED]))}
        close = [repr(texts[t]) for t in difflib.get_close_matches(str(client_id), texts, n=3)]
        if close:
            hint = f"the closest ids are {', '.join(close)}"
        elif len(self):
            hint = f"the ids are {', '.join(map(repr, self[:3]))}{', ...' if len(self) > 3 else ''}"
        else:
            hint = "it has no clients"
        return f"no client {client_id!r} in this data of {len(self)} clients; {hint}"


def sequence(ids: Iterable) -> Sequence:
    """`ids` as a sequence: `ClientIds` unchanged, other iterables as a tuple of Python strings and integers.

    Raises:
      TypeError: an id is neither a string nor an integer, or `ids` is a single id.
    """
    return ids if isinstance(ids, ClientIds) else tuple(_id_stores.plain(_id_stores.compact(ids)))


def taken(ids: Sequence, places: np.ndarray) -> Sequence:
    """The ids at some places: a view of `ClientIds`, or a tuple for any other sequence."""
    if isinstance(ids, ClientIds):
        return ids.take(places)
    return tuple(ids[place] for place in places.tolist())
