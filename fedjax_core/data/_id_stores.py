"""Storage for the ids of a population: as a range, as an array, or as Python objects.

A store has a length, returns the ids and the digests of rows, and finds the rows of ids. Ids go in and out in compact
form: a range, int64 `[n]`, fixed-width strings `[n]`, or a tuple of Python strings and integers.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from fedjax_core import _checks
from fedjax_core.engine import client_digests

Compact = range | np.ndarray | tuple


class Store(Protocol):
    """The ids of `N` clients, by row."""

    def __len__(self) -> int: ...

    def take(self, rows: np.ndarray) -> Compact:
        """The ids of some rows."""
        ...

    def find(self, ids: Compact) -> np.ndarray:
        """The row of each id, int64; -1 for an id that is not in the store."""
        ...

    def digests(self, rows: np.ndarray | slice) -> np.ndarray:
        """`client_digests` of some rows, uint64."""
        ...

    def repeated(self) -> int | None:
        """A row whose id occurs in another row too, or None."""
        ...


def store_of(ids: Compact) -> Store:
    """The store that holds ids of this form."""
    if isinstance(ids, range):
        return Numbers(ids)
    if isinstance(ids, np.ndarray) and ids.dtype.kind == "i":
        return Integers(ids)
    return Texts(ids)


@dataclasses.dataclass(frozen=True, eq=False)
class Numbers:
    """The integers of a range; no id is stored."""

    numbers: range

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.numbers.start + np.asarray(rows, np.int64) * self.numbers.step

    def find(self, ids: Compact) -> np.ndarray:
        return _found_integers(ids, self._rows)

    def _rows(self, values: np.ndarray) -> np.ndarray:
        if not len(self.numbers):
            return np.full(len(values), -1)
        ends = self.numbers[0], self.numbers[-1]
        inside = (values >= min(ends)) & (values <= max(ends))
        place, rest = np.divmod(np.where(inside, values, ends[0]) - ends[0], self.numbers.step)
        return np.where(inside & (rest == 0), place, -1)

    def digests(self, rows: np.ndarray | slice) -> np.ndarray:
        return client_digests(self.numbers[rows] if isinstance(rows, slice) else self.take(rows))

    def repeated(self) -> None:
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class Integers:
    """An array of integers, which may be memory-mapped from a file.

    Attributes:
      values: int64 `[N]`.
    """

    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray) -> np.ndarray:
        return self.values[rows]

    @functools.cached_property
    def _order(self) -> np.ndarray | None:
        """The rows sorted by value; None if the values already ascend."""
        return None if _ascending(self.values) else np.argsort(self.values, kind="stable")

    def find(self, ids: Compact) -> np.ndarray:
        return _found_integers(ids, functools.partial(places_of, self.values, self._order))

    def digests(self, rows: np.ndarray | slice) -> np.ndarray:
        return client_digests(self.values[rows])

    def repeated(self) -> int | None:
        if _ascending(self.values, strictly=True):
            return None
        ordered = np.sort(self.values)
        twice = np.flatnonzero(ordered[1:] == ordered[:-1])
        return int(np.argmax(self.values == ordered[twice[0]])) if len(twice) else None


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """Strings, as a fixed-width array or as Python objects, among which there may be integers of any size.

    Attributes:
      values: fixed-width strings `[N]`, which may be memory-mapped from a file, or a tuple.
    """

    values: np.ndarray | tuple

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray) -> np.ndarray | tuple:
        if isinstance(self.values, np.ndarray):
            return self.values[rows]
        return tuple(map(self.values.__getitem__, np.asarray(rows).tolist()))

    @functools.cached_property
    def _digests(self) -> np.ndarray:
        return client_digests(self.values)

    @functools.cached_property
    def _order(self) -> np.ndarray:
        """The rows sorted by digest: 8 bytes per client, where a dict from id to row would take about a hundred."""
        return np.argsort(self._digests, kind="stable")

    def find(self, ids: Compact) -> np.ndarray:
        digests = client_digests(ids)
        begin, end = (np.searchsorted(self._digests, digests, s, self._order).tolist() for s in ("left", "right"))
        rows = (self._row(i, self._order[b:e].tolist()) for i, b, e in zip(plain(ids), begin, end))
        return np.fromiter(rows, np.int64, len(ids))

    def _row(self, client_id, candidates: list) -> int:
        """The row of this id among the candidates, which all have its digest; -1 if there is none."""
        return next((row for row in candidates if self.values[row] == client_id), -1)

    def digests(self, rows: np.ndarray | slice) -> np.ndarray:
        if "_digests" in self.__dict__ or (isinstance(rows, slice) and len(range(len(self))[rows]) == len(self)):
            return self._digests[rows]
        return client_digests(self.values[rows] if isinstance(rows, slice) else self.take(rows))

    def repeated(self) -> int | None:
        if isinstance(self.values, np.ndarray) and _ascending(self.values, strictly=True):
            return None
        ordered = np.sort(self._digests)  # takes half the time of `_order`, which only look-ups by id need
        next_is_same = np.flatnonzero(ordered[1:] == ordered[:-1])  # equal ids have equal digests
        if not len(next_is_same):
            return None
        seen = {}
        for row in self._order[np.union1d(next_is_same, next_is_same + 1)].tolist():
            if seen.setdefault(self.values[row], row) != row:
                return row
        return None


def _ascending(values: np.ndarray, strictly: bool = False) -> bool:
    return bool((values[1:] > values[:-1]).all() if strictly else (values[1:] >= values[:-1]).all())


def places_of(values: np.ndarray, order: np.ndarray | None, wanted: np.ndarray) -> np.ndarray:
    """The first place of each of the `wanted` integers in `values`, int64 `[n]`; -1 for one that does not occur.

    Args:
      values: integers `[N]`.
      order: the stable argsort of `values`; None if they already ascend.
      wanted: integers `[n]`.
    """
    if not len(values):
        return np.full(len(wanted), -1)
    place = np.minimum(np.searchsorted(values, wanted, sorter=order), len(values) - 1)
    place = place if order is None else order[place]
    return np.where(values[place] == wanted, place, -1).astype(np.int64)


def _found_integers(ids: Compact, rows_of) -> np.ndarray:
    """The row of each id, found by `rows_of` for integers that fit int64; -1 for all other ids."""
    if isinstance(ids, range):
        ids = np.array(ids, np.int64)
    if isinstance(ids, np.ndarray) and ids.dtype.kind == "i":
        return rows_of(ids)
    rows = np.full(len(ids), -1)
    if isinstance(ids, tuple):
        places = [p for p, i in enumerate(ids) if isinstance(i, int) and -(2**63) <= i < 2**63]
        rows[places] = rows_of(np.array([ids[p] for p in places], np.int64))
    return rows


def compact(ids: Iterable) -> Compact:
    """Ids of any kind in compact form; arrays are not copied.

    Raises:
      TypeError: an id is neither a string nor an integer, or `ids` is a single id.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        found = f"the string {ids!r}" if isinstance(ids, str) else repr(ids)
        raise TypeError(f"client ids must be a sequence of strings or integers, got {found}; use [{ids!r}]")
    if isinstance(ids, range) and (not ids or max(abs(ids[0]), abs(ids[-1])) < 2**62):
        return ids
    _checks.check_not_masked("an array of client ids", ids)
    if isinstance(ids, np.ndarray):
        return _compact_array(ids)
    ids = ids if isinstance(ids, Sequence) else tuple(ids)
    kinds = set(map(type, ids))
    if not kinds <= {str, int}:
        ids, kinds = tuple(_plain(i) for i in ids), None
    if kinds == {int}:
        try:
            return np.array(ids, np.int64)
        except OverflowError:
            pass
    return tuple(ids)


def _compact_array(ids: np.ndarray) -> Compact:
    if ids.ndim == 1 and ids.dtype.kind == "U":
        return _read_only(ids)
    if ids.ndim == 1 and ids.dtype.kind in "iu" and (ids.dtype != np.uint64 or ids.max(initial=0) < 2**63):
        return _read_only(ids.astype(np.int64, copy=False))
    return compact(ids.tolist() if ids.ndim else ids.item())


def _read_only(values: np.ndarray) -> np.ndarray:
    view = values.view(np.ndarray)
    view.flags.writeable = False
    return view


def plain(ids: Compact) -> Sequence:
    """The ids as Python strings and integers."""
    return ids.tolist() if isinstance(ids, np.ndarray) else ids


def _plain(client_id) -> str | int:
    if isinstance(client_id, str):
        return str(client_id)
    if isinstance(client_id, int | np.integer) and not isinstance(client_id, bool):
        return int(client_id)
    raise TypeError(
        f"a client id must be a string or an integer, got {client_id!r} of type {type(client_id).__name__}; "
        f"use {_checks.as_text(client_id)}"
    )
