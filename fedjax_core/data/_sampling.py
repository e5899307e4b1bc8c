"""Who takes part in a round, drawn by hashing.

Client `i` of a population has in every round a tag of 64 random bits, a function of key, round and `i`.
Tags come from the counter-based generator splitmix64, in integer arithmetic of NumPy's arrays, so that
they are the same in every version of Python, NumPy and JAX.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np

from fedjax_core.data import _hashing

_CHUNK = 1 << 15  # clients hashed at a time, such that the arrays stay in the cache


def sample_clients(round_num: int, ids: Sequence, cohort_size: int, *, key: jax.Array) -> list:
    """Draws the clients of a round, uniformly and without replacement.

    A pure function of its arguments, so a resumed run draws what it would have drawn. For other ways
    to draw see `uniform_sampler`, `weighted_sampler`, `poisson_sampler`, `cyclic_sampler`, `fixed_cohorts`.

    Args:
      key: the experiment's key; the round number is folded in.
      round_num: the number of the round, at least 0.
      ids: the population, such as `data.client_ids`.
      cohort_size: how many to draw.

    Returns:
      `cohort_size` of the ids, in random order.

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
    return picked(ids, lowest(seed, len(ids), cohort_size))


def lowest(seed: np.ndarray, population: int, cohort_size: int) -> np.ndarray:
    """The clients with the lowest tags, lowest first: a uniform sample in random order, int64 `[cohort_size]`."""
    enough = (cohort_size + 8 * cohort_size**0.5 + 8) / max(population, 1)
    clients, tag = below(seed, population, enough)
    if len(clients) < cohort_size:  # eight standard deviations away
        clients, tag = below(seed, population, 1.0)
    return clients[np.argsort(tag, kind="stable")[:cohort_size]]


def below(seed: np.ndarray, population: int, probability: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The clients whose tag, as a number in [0, 1), is below `probability`.

    Args:
      seed: uint64 `[1]`.
      population: `N`.
      probability: float, or float64 `[N]`.

    Returns:
      int64, the clients in ascending order, and uint64, their tags.
    """
    probability = np.broadcast_to(probability, (population,))
    clients, found = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    for start in range(0, population, _CHUNK):
        stop = min(start + _CHUNK, population)
        tag = _hashing.tags(seed, np.arange(start, stop))
        here = np.flatnonzero(_hashing.uniform(tag) < probability[start:stop])
        clients.append(here + start)
        found.append(tag[here])
    return np.concatenate(clients), np.concatenate(found)


def picked(ids: Sequence, clients: np.ndarray) -> list:
    """The ids of the clients of these numbers."""
    return [ids[i] for i in clients.tolist()]


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
