"""The names of the clients of a population."""

import difflib
import functools
from collections.abc import Iterable, Sequence

import numpy as np

from fedjax_core.engine import _cohort

_NUM_COMPARED = 10_000  # how many ids an error message looks at for close matches


class UnknownClientError(ValueError, KeyError):
    """A client id does not occur in the data."""

    __str__ = ValueError.__str__


class ClientIds:
    """Distinct client ids in their order.

    Attributes:
      ids: tuple of strings and Python integers.
    """

    def __init__(self, ids: Iterable):
        self.ids = normalized(ids)
        self._check_distinct()

    def _check_distinct(self):
        """Equal ids have equal digests, so they are neighbours in the order of digests."""
        digests, order = self.digests[self._order], self._order
        for n in np.flatnonzero(digests[1:] == digests[:-1]).tolist():
            if self.ids[order[n]] == self.ids[order[n + 1]]:
                raise ValueError(
                    f"client ids must differ from one another, got {self.ids[order[n]]!r} twice; rows of one client "
                    "belong together: FederatedData.from_arrays(arrays, client_ids) groups them"
                )

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def digests(self) -> np.ndarray:
        """uint64 `[len(self)]`: `client_digests` of the ids."""
        return _cohort.client_digests(self.ids)

    @functools.cached_property
    def _order(self) -> np.ndarray:
        """The places by ascending digest: 8 bytes a client, where a dict of places has a hundred."""
        return np.argsort(self.digests, kind="stable")

    def __contains__(self, client_id) -> bool:
        return bool(self._places(normalized([client_id]))[0] >= 0)

    def find(self, ids: Iterable) -> np.ndarray:
        """The places of `ids`, int64 `[len(ids)]`, an id may occur more than once.

        Raises:
          UnknownClientError: an id that is not among these.
          TypeError: something that is neither a string nor an integer.
        """
        if ids is self.ids:
            return np.arange(len(self.ids))
        ids = normalized(ids)
        places = self._places(ids)
        unknown = np.flatnonzero(places < 0)
        if len(unknown):
            raise UnknownClientError(self._unknown(ids[unknown[0]]))
        return places

    def _places(self, ids: tuple) -> np.ndarray:
        """The place of each id, -1 where it is not among these."""
        digests = _cohort.client_digests(ids)
        begin, end = (np.searchsorted(self.digests, digests, s, self._order).tolist() for s in ("left", "right"))
        places = (self._place(i, self._order[b:e].tolist()) for i, b, e in zip(ids, begin, end))
        return np.fromiter(places, np.int64, len(ids))

    def _place(self, client_id, candidates: list) -> int:
        """The one of the candidates, whose digests are the id's, that has this id."""
        return next((place for place in candidates if self.ids[place] == client_id), -1)

    def _unknown(self, client_id) -> str:
        texts = {str(i): i for i in reversed(self.ids[:_NUM_COMPARED])}
        close = [repr(texts[t]) for t in difflib.get_close_matches(str(client_id), texts, n=3)]
        if close:
            hint = f"the closest ids are {', '.join(close)}"
        elif self.ids:
            hint = f"the ids are {', '.join(map(repr, self.ids[:3]))}{', ...' if len(self) > 3 else ''}"
        else:
            hint = "it has no clients"
        return f"no client {client_id!r} in this data of {len(self)} clients; {hint}"


def normalized(ids: Iterable) -> tuple:
    """The ids as Python strings and integers, in order.

    Raises:
      TypeError: an id is neither, or `ids` is one id.
    """
    if isinstance(ids, str):
        raise TypeError(f"client ids must be a sequence of strings or integers, got the string {ids!r}; use [{ids!r}]")
    if not isinstance(ids, Iterable):
        raise TypeError(f"client ids must be a sequence of strings or integers, got {ids!r}; use [{ids!r}]")
    if isinstance(ids, np.ndarray):
        ids = ids.tolist()
    if not isinstance(ids, Sequence):
        ids = tuple(ids)
    kinds = set(map(type, ids))
    if kinds <= {str, int}:
        return ids if isinstance(ids, tuple) else tuple(ids)
    return tuple(_plain(i) for i in ids)


def _plain(client_id) -> str | int:
    if isinstance(client_id, str):
        return str(client_id)
    if isinstance(client_id, int | np.integer) and not isinstance(client_id, bool):
        return int(client_id)
    raise TypeError(
        f"a client id is a string or an integer, got {client_id!r} of type {type(client_id).__name__}; "
        f"use str({client_id!r})"
    )
