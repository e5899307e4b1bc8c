"""Values that a cohort carries for each client beside its examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedjax_core.data import _examples


def extra_rows(extra: Mapping[str, Any] | None, client_ids: Sequence) -> dict[str, np.ndarray]:
    """The values for `federated_client_value`, checked, as arrays with one row for each client of a cohort.

    Args:
      extra: a dict from name to either an array with one row per client, in the cohort's order, or a dict from
        client id to value.
      client_ids: the ids of the cohort's clients.

    Raises:
      TypeError: `extra` is not a dict with strings as keys, or a value does not hold numbers or booleans.
      ValueError: an array does not have one row per client, or a dict lacks a client.

    Example:
      >>> extra_rows({"delay": [3, 1], "speed": {"ada": 0.5, "bob": 2.0}}, ["bob", "ada"])
      {'delay': array([3, 1], dtype=int32), 'speed': array([2. , 0.5], dtype=float32)}
    """
    if not isinstance(extra, Mapping | None) or not all(isinstance(name, str) for name in extra or ()):
        raise TypeError(
            f"cohort(extra=...) must be a dict from name to values, got {extra!r}; use extra={{'delay': [3, 1]}}"
        )
    return {
        name: _rows(f"cohort(extra={{{name!r}: ...}})", values, client_ids) for name, values in (extra or {}).items()
    }


def _rows(where: str, values: Any, client_ids: Sequence) -> np.ndarray:
    if isinstance(values, Mapping):
        missing = next((i for i in client_ids if i not in values), None)
        if missing is not None:
            raise ValueError(
                f"{where} must have a value for every client of the cohort, got none for client {missing!r}; add one"
            )
        values = [values[i] for i in client_ids]
    if np.ndim(values) == 0 or len(values) != len(client_ids):
        found = f"{values!r}" if np.ndim(values) == 0 else f"{len(values)} rows"
        raise ValueError(
            f"{where} must have one row for each of the cohort's {len(client_ids)} clients, in their order, got "
            f"{found}; to give the values by id, use a dict from client id to value"
        )
    # A copy, because the cohort is read only when it is used, and the caller may write to the array before that.
    return np.array(_examples.canonical(values, where, lambda row: _examples.owner_of(client_ids[row])))
