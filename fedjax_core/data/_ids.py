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
        if len(self.position) != len(self.ids):
            twice = next(i for n, i in enumerate(self.ids) if self.position[i] != n)
            raise ValueError(
                f"client ids must differ from one another, got {twice!r} twice; rows of one client belong "
                "together: FederatedData.from_arrays(arrays, client_ids) groups them"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def position(self) -> dict:
        """Each id's place."""
        return dict(zip(self.ids, range(len(self.ids))))

    @functools.cached_property
    def digests(self) -> np.ndarray:
        """uint64 `[len(self)]`: `client_digests` of the ids."""
        return _cohort.client_digests(self.ids)

    def find(self, ids: Iterable) -> np.ndarray:
        """The places of `ids`, int64 `[len(ids)]`, an id may occur more than once.

        Raises:
          UnknownClientError: an id that is not among these.
          TypeError: something that is neither a string nor an integer.
        """
        if ids is self.ids:
            return np.arange(len(self.ids))
        ids = normalized(ids)
        found = [self.position.get(i, -1) for i in ids]
        positions = np.asarray(found, np.int64)
        if (positions < 0).any():
            raise UnknownClientError(self._unknown(ids[found.index(-1)]))
        return positions

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
