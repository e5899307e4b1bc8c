"""The uniform selection of a round's clients, and the argument checks that samplers share.

The clients of a round are the first ones of a random order of the population. The order is a function of the key and
the round number, and only the first places of it are computed (`_permutation.py`).
"""

from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np

from fedjax_core import _checks
from fedjax_core.data import _hashing
from fedjax_core.data._ids import ClientIds
from fedjax_core.data._permutation import permuted


def sample_clients(round_num: int, ids: Sequence, cohort_size: int, *, key: jax.Array) -> Sequence:
    """Selects the clients of a round uniformly, without replacement.

    This is a pure function of its arguments, so a resumed run selects the clients that it would have selected. It
    takes time in proportion to the cohort, not to the population, and a smaller cohort of a round is the beginning of
    a larger one. For other ways to select clients see `uniform_sampler`, `weighted_sampler`, `poisson_sampler`,
    `cyclic_sampler` and `fixed_cohorts`.

    Args:
      round_num: the number of the round, at least 0.
      ids: the population, such as `data.client_ids`; its order matters.
      cohort_size: number of clients to select.
      key: the experiment's key; the round number is folded in.

    Returns:
      `cohort_size` of the ids, in random order: a view if `ids` are `ClientIds`, otherwise a list.

    Raises:
      TypeError: `ids` is not a sequence, a number is not an integer, or `key` is not a typed key.
      ValueError: there are fewer ids than `cohort_size`, or a number is negative.

    Example:
      >>> ids = sample_clients(1, range(1000), 5, key=jax.random.key(0))
      >>> len(set(ids)), ids == sample_clients(1, range(1000), 5, key=jax.random.key(0))
      (5, True)
      >>> sample_clients(1, ["ada", "bob"], 3, key=jax.random.key(0))
      Traceback (most recent call last):
      ValueError: sample_clients(cohort_size=3) draws without replacement, got 2 ids; use cohort_size=2 or less
    """
    round_num = checked_round("sample_clients", "round_num", round_num)
    cohort_size = checked_cohort_size("sample_clients", ids, cohort_size)
    seed = _hashing.fold(_hashing.seed(key, "sample_clients"), round_num)
    return picked(ids, permuted(seed, len(ids), np.arange(cohort_size)))


def picked(ids: Sequence, clients: np.ndarray) -> Sequence:
    """The ids of the clients with these numbers: a view of `ClientIds`, or a list for any other sequence."""
    return ids.take(clients) if isinstance(ids, ClientIds) else [ids[i] for i in clients.tolist()]


def checked_cohort_size(function: str, ids: Sequence, cohort_size: int, replace: bool = False) -> int:
    """Returns `cohort_size` as an integer, if so many clients can be drawn from `ids`.

    Raises:
      TypeError: `ids` is not a sequence, or `cohort_size` is not an integer.
      ValueError: `cohort_size` is negative or exceeds the number of ids.
    """
    check_ids(function, ids)
    cohort_size = _checks.checked_integer(f"{function}(cohort_size=...)", cohort_size, 0, "write cohort_size=10")
    if not replace and cohort_size > len(ids):
        raise ValueError(
            f"{function}(cohort_size={cohort_size}) draws without replacement, got {len(ids)} ids; "
            f"use cohort_size={len(ids)} or less"
        )
    if cohort_size and not len(ids):
        raise ValueError(
            f"{function}(cohort_size={cohort_size}) needs clients to draw from, got no ids; use cohort_size=0"
        )
    return cohort_size


def checked_round(function: str, name: str, round_num: int) -> int:
    """Returns the number of a round as a Python integer.

    Raises:
      TypeError: `round_num` is not an integer.
      ValueError: `round_num` is negative.
    """
    return _checks.checked_integer(f"{function}({name}=...)", round_num, 0, f"write {name}=1")


def check_ids(function: str, ids: Sequence) -> None:
    """Raises TypeError unless `ids` is a sequence."""
    if isinstance(ids, Mapping):
        raise TypeError(
            f"{function}(ids=...) must be a sequence of client ids, got a {type(ids).__name__}; use its keys: "
            "data.client_ids or list(ids)"
        )
    if isinstance(ids, str) or not (hasattr(ids, "__len__") and hasattr(ids, "__getitem__")):
        repaired = "list(ids)" if isinstance(ids, Iterable) and not isinstance(ids, str) else f"[{ids!r}]"
        raise TypeError(f"{function}(ids=...) must be a sequence of client ids, got {ids!r}; use {repaired}")


def numbers(what: str, values, repaired: str) -> np.ndarray:
    """Returns `values` as float64; raises TypeError unless they are numbers."""
    _checks.check_not_masked(what, values)
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{what} must be numbers, got {values!r:.80}; {repaired}") from None
