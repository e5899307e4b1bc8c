"""Clients that are unavailable, and clients that fail."""

from collections.abc import Sequence

import jax
import numpy as np

from fedjax_core import _checks
from fedjax_core.data import _hashing
from fedjax_core.data._participation import (
    Participation,
    PerClient,
    Stage,
    chance,
    check_probability,
    lasting,
    per_client,
)


def available(probability: PerClient, *, key: jax.Array) -> Stage:
    """Removes clients that are unavailable when they are selected.

    Args:
      probability: the probability that a client is available, from 0 to 1 (or False and True): a number, a dict by
        client id, or a function `(round_num, ids) -> [C]`, such as `diurnal(...)`.
      key: draws which clients are available, independently in each round.

    Returns:
      A stage for `participation`. It counts the clients it removes as `unavailable`.

    Raises:
      TypeError: `probability` is not a number, a dict or a function, or `key` is not a typed key.
      ValueError: a probability is not from 0 to 1 or is missing for a client. Known values are checked now, the
        values of a function in each round.

    Example: nobody is available in odd rounds, everybody in even ones.

      >>> from fedjax_core import data as fd
      >>> even = available(lambda round_num, ids: round_num % 2 == 0, key=jax.random.key(0))
      >>> participation = fd.participation(fd.fixed_cohorts([["ada", "bob"]]), even)
      >>> participation(1).ids, participation(2).ids, participation(1).lost["unavailable"]
      ((), ('ada', 'bob'), 2)
    """
    return _kept("available", probability, "unavailable", key, lambda draw, p: draw < p)


def dropout(probability: PerClient, *, key: jax.Array) -> Stage:
    """Removes clients that fail before they report.

    Args:
      probability: the probability that a client fails, from 0 to 1: a number, a dict by client id, or a function
        `(round_num, ids) -> [C]`.
      key: draws which clients fail, independently in each round.

    Returns:
      A stage for `participation`. It counts the clients it removes as `dropped`.

    Raises:
      TypeError: `probability` is not a number, a dict or a function, or `key` is not a typed key.
      ValueError: a probability is not from 0 to 1 or is missing for a client. Known values are checked now, the
        values of a function in each round.

    Example:
      >>> from fedjax_core import data as fd
      >>> everyone = fd.fixed_cohorts([["ada", "bob"]])
      >>> fd.participation(everyone, dropout({"ada": 0.0, "bob": 1.0}, key=jax.random.key(0)))(1).ids
      ('ada',)
    """
    return _kept("dropout", probability, "dropped", key, lambda draw, p: draw >= p)


def _kept(function: str, probability: PerClient, reason: str, key: jax.Array, stays) -> Stage:
    probabilities = per_client(f"{function}(probability=...)", probability, check_probability)
    seed = _hashing.seed(key, function)

    def stage(round_num: int, participation: Participation) -> Participation:
        here = stays(chance(seed, round_num, participation), probabilities(round_num, participation.ids))
        return participation.keep(here, reason)

    return stage


def diurnal(low: float, high: float, *, rounds_per_day: float, key: jax.Array | None = None):
    r"""Availability that rises and falls with the time of day.

    .. math:: p_c(r) = low + (high - low) \, (1 + \cos 2 \pi (r / rounds\_per\_day - \phi_c)) / 2

    Args:
      low: the probability at a client's worst hour, from 0 to 1.
      high: the probability at its best hour, from `low` to 1.
      rounds_per_day: the period in rounds, positive.
      key: draws each client's best hour :math:`\phi_c`, uniform over the day. With None the best hour of all
        clients is round 0.

    Returns:
      A function `(round_num, ids) -> [C]` for `available` and `dropout`.

    Raises:
      TypeError: `low`, `high` or `rounds_per_day` is not a number, or `key` is not a typed key.
      ValueError: a number is outside its range.

    Example: half a day after their best hour all clients are at their worst.
      >>> diurnal(0.2, 1.0, rounds_per_day=24)(12, ("ada", "bob"))
      array([0.2, 0.2])
    """
    low = _checks.checked_number("diurnal(low=...)", low, _checks.FROM_0_TO_1, "write low=0.2")
    high = _checks.checked_number("diurnal(high=...)", high, _checks.FROM_0_TO_1, "write high=1.0")
    if low > high:
        raise ValueError(f"diurnal(low={low}, high={high}) must have low <= high; use diurnal({high}, {low}, ...)")
    call, repair = "diurnal(rounds_per_day=...)", "write rounds_per_day=24"
    rounds_per_day = _checks.checked_number(call, rounds_per_day, _checks.POSITIVE, repair)
    seed = None if key is None else _hashing.seed(key, "diurnal")

    def probability(round_num: int, ids: Sequence) -> np.ndarray:
        phase = np.zeros(len(ids)) if seed is None else _hashing.uniform(lasting(seed, ids))
        share = (1 + np.cos(2 * np.pi * (round_num % rounds_per_day / rounds_per_day - phase))) / 2
        return np.clip(low + (high - low) * share, low, high)

    return probability
