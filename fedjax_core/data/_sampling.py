"""Who takes part in a round.

A round's clients are the first ones of a random order of the population, a function of key and round of which
only their places are computed (`_permutation.py`).
"""

import operator
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np

from fedjax_core.data import _hashing
from fedjax_core.data._ids import ClientIds
from fedjax_core.data._permutation import permuted


def sample_clients(round_num: int, ids: Sequence, cohort_size: int, *, key: jax.Array) -> Sequence:
    """Draws the clients of a round, uniformly and without replacement.

    A pure function of its arguments, so a resumed run draws what it would have drawn. It takes time for the clients
    that are drawn, not for the population, and a smaller cohort of the round is the beginning of a larger one. For
    other ways to draw see `uniform_sampler`, `weighted_sampler`, `poisson_sampler`, `cyclic_sampler`, `fixed_cohorts`.

    Args:
      key: the experiment's key; the round number is folded in.
      round_num: the number of the round, at least 0.
      ids: the population, such as `data.client_ids`.
      cohort_size: how many to draw.

    Returns:
      `cohort_size` of the ids, in random order: a list, or a view where `ids` are `ClientIds`.

    Raises:
      TypeError: `key` is not a typed key, or a number is no integer.
      ValueError: there are fewer ids than `cohort_size`, or a number is negative.

    Example:
      >>> ids = sample_clients(1, range(1000), 5, key=jax.random.key(0))
      >>> len(set(ids)), ids == sample_clients(1, range(1000), 5, key=jax.random.key(0))
      (5, True)
      >>> sample_clients(1, ["ada", "bob"], 3, key=jax.random.key(0))
      Traceback (most recent call last):
      ValueError: sample_clients(cohort_size=3) draws without replacement, got 2 ids; use cohort_size=2 or less
    """
    round_num = count("sample_clients", "round_num", round_num)
    cohort_size = checked_number("sample_clients", ids, cohort_size)
    seed = _hashing.fold(_hashing.seed(key, "sample_clients"), round_num)
    return picked(ids, permuted(seed, len(ids), np.arange(cohort_size)))


def picked(ids: Sequence, clients: np.ndarray) -> Sequence:
    """The ids of the clients of these numbers: a view of `ClientIds`, a list of others."""
    return ids.take(clients) if isinstance(ids, ClientIds) else [ids[i] for i in clients.tolist()]


def checked_number(function: str, ids: Sequence, cohort_size: int, replace: bool = False) -> int:
    """`cohort_size` as an integer, if `ids` is a population from which as many can be drawn.

    Raises:
      TypeError: `ids` has no order, or `cohort_size` is no integer.
      ValueError: it is negative, or more than there are.
    """
    check_ids(function, ids)
    cohort_size = count(function, "cohort_size", cohort_size)
    if not replace and cohort_size > len(ids):
        raise ValueError(
            f"{function}(cohort_size={cohort_size}) draws without replacement, got {len(ids)} ids; "
            f"use cohort_size={len(ids)} or less"
        )
    if cohort_size and not len(ids):
        raise ValueError(
            f"{function}(cohort_size={cohort_size}) draws from some clients, got no ids; use cohort_size=0"
        )
    return cohort_size


def check_ids(function: str, ids: Sequence) -> None:
    """Refuses what cannot be indexed by number.

    Raises:
      TypeError: with the repaired call.
    """
    if isinstance(ids, Mapping):
        raise TypeError(
            f"{function}(ids=...) is a sequence of client ids, got a {type(ids).__name__}; use its keys: "
            "`data.client_ids` or list(ids)"
        )
    if isinstance(ids, str) or not (hasattr(ids, "__len__") and hasattr(ids, "__getitem__")):
        repaired = "list(ids)" if isinstance(ids, Iterable) and not isinstance(ids, str) else f"[{ids!r}]"
        raise TypeError(f"{function}(ids=...) is a sequence of client ids, got {ids!r}; use {repaired}")


def numbers(what: str, values, repaired: str) -> np.ndarray:
    """`values` as float64.

    Raises:
      TypeError: they are no numbers; with the repaired argument.
    """
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{what} must be numbers, got {values!r:.80}; {repaired}") from None


def count(function: str, name: str, value) -> int:
    """`value` as an integer of at least 0.

    Raises:
      TypeError: it is no integer.
      ValueError: it is negative.
    """
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{function}({name}=...) must be an integer, got {value!r}; use int({name})") from None
    if value < 0:
        raise ValueError(f"{function}({name}=...) must be at least 0, got {value}; use 0")
    return value
